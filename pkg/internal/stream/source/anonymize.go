package source

import (
	"bytes"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// startRewriter creates the rewriter of the open log if anonymization is enabled. If
// reading resumes after the header, it passes the log's header to the rewriter.
func (l *followed) startRewriter() error {
	a := l.set.opt.Anonymize
	if a == nil {
		return nil
	}
	source := func() (anonymize.Source, error) { return l.set.opt.SourceIs, nil }
	l.rewriter = a.NewRewriter(tstat.TypeByName(l.name), anonymize.RewriterOptions{Location: l.set.opt.Location, Source: source})
	if l.offset == 0 {
		return nil
	}
	for line := range bytes.Lines(l.head) {
		if line[0] != '#' || line[len(line)-1] != '\n' {
			return nil
		}
		if _, err := l.rewriter.Line(nil, line); err != nil {
			return err
		}
	}
	return nil
}

// rewrite anonymizes lines, which begin at l.offset, and returns the result in a new
// buffer. It counts lines that cannot be anonymized as rejects.
func (l *followed) rewrite(lines []byte) (*batch.Buffer, error) {
	buf := batch.NewBuffer(len(lines) + len(lines)/4)
	buf.Bytes = buf.Bytes[:0]
	offset := l.offset
	for line := range bytes.Lines(lines) {
		begin := len(buf.Bytes)
		var err error
		if buf.Bytes, err = l.rewriter.Line(buf.Bytes, line); err != nil {
			buf.Release()
			return nil, err
		}
		if reason, removed := tstat.RemovedReason(buf.Bytes[begin:]); removed {
			l.reject(offset, reason)
		}
		offset += int64(len(line))
	}
	return buf, nil
}

// reject counts a rejected line, and logs a warning from time to time. offset is the
// position of the line in the log.
func (l *followed) reject(offset int64, reason string) {
	l.set.counts.Rejects.Add(1)
	l.src.Rejects.Add(1)
	l.warnRead.Do(func() {
		l.log.Warn("line rejected", "log", l.file.Name(), "offset", offset, "reason", reason)
	})
}
