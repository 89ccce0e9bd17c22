package anonymize

import (
	"bytes"
	"fmt"
	"io"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// readSize is the usual number of bytes that a reader reads from its source at a time.
const readSize = 256 << 10

// reader is the reader that Rewriter.Reader returns.
type reader struct {
	w        *Rewriter
	src      io.Reader
	in       []byte // text that is not rewritten yet
	out      []byte // buffer
	rest     []byte // rewritten text
	next     int    // offset in rest of the next byte to return
	skipping bool   // inside a line that is too long
	err      error
}

// Reader returns a reader that reads a log from src and rewrites its lines. It masks the
// fields of an unfinished last line. If src fails, the reader returns the text from
// before the error, and then the error.
func (w *Rewriter) Reader(src io.Reader) io.Reader { return &reader{w: w, src: src} }

func (r *reader) Read(p []byte) (int, error) {
	for r.next == len(r.rest) {
		if r.err != nil {
			return 0, r.err
		}
		if len(p) < readSize {
			r.rest, r.next = r.fill(r.out[:0], readSize), 0
			r.out = r.rest
			continue
		}
		// Rewritten text is rarely more than 1/7 longer than the original.
		out := r.fill(p[:0:len(p)], max(len(p)-len(p)/8-len(r.in), readSize/8))
		if len(out) <= len(p) {
			if len(out) > 0 {
				return len(out), nil
			}
			continue
		}
		r.rest, r.next = out, copy(p, out)
		return r.next, nil
	}
	n := copy(p, r.rest[r.next:])
	r.next += n
	return n, nil
}

// fill reads up to size bytes from r.src. It rewrites the lines that are now complete,
// and appends them to out.
func (r *reader) fill(out []byte, size int) []byte {
	have := len(r.in)
	if cap(r.in)-have < size {
		r.in = append(make([]byte, 0, have+2*size), r.in...)
	}
	n, err := r.src.Read(r.in[have : have+size])
	r.in = r.in[:have+n]
	rest := r.in
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		line := rest[:i+1]
		rest = rest[i+1:]
		if r.skipping || len(line) > tstat.MaxLine {
			r.skipping = false
			out = tstat.AppendRemoved(out, fmt.Sprintf("line is longer than %d bytes", tstat.MaxLine))
			continue
		}
		var lineErr error
		if out, lineErr = r.w.Line(out, line); lineErr != nil {
			r.err = &tstat.RewriteError{Err: lineErr}
			return out
		}
	}
	if len(rest) > tstat.MaxLine {
		r.skipping, rest = true, rest[:0]
	}
	if err != nil {
		if r.skipping {
			rest = []byte{'-'} // one field stands for the start of the skipped line
		}
		out = appendMasked(out, rest, r.w.typ.Separator())
		r.err = err
	}
	r.in = r.in[:copy(r.in[:cap(r.in)], rest)]
	return out
}

// appendMasked appends an unfinished line, with each value replaced by "-". It keeps
// the number of fields. Control characters except tabs become NUL, which still shows
// that the line is binary.
func appendMasked(dst, line []byte, sep byte) []byte {
	if len(line) > 0 && line[0] == '#' {
		return append(dst, '#')
	}
	masked := false
	for _, c := range line {
		switch {
		case c == sep:
			dst, masked = append(dst, c), false
		case c < ' ' && c != '\t' || c == 0x7f:
			dst, masked = append(dst, 0), false
		case !masked:
			dst, masked = append(dst, '-'), true
		}
	}
	return dst
}
