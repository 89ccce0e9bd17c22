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

// rewrite anonymizes lines and returns the result in a new buffer.
func (l *followed) rewrite(lines []byte) (*batch.Buffer, error) {
	buf := batch.NewBuffer(len(lines) + len(lines)/4)
	buf.Bytes = buf.Bytes[:0]
	for line := range bytes.Lines(lines) {
		var err error
		if buf.Bytes, err = l.rewriter.Line(buf.Bytes, line); err != nil {
			buf.Release()
			return nil, err
		}
	}
	return buf, nil
}
