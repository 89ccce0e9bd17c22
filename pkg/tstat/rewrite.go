package tstat

import (
	"bytes"
	"io"
)

// A log that is rewritten can be read in two ways. Usually the reader of
// ReaderOptions.Rewrite makes the whole text, which is then parsed like that of any
// file. But to rewrite a row, its fields must be found, and then the parser has to
// find them once more. If ReaderOptions.Rows is set and the log has a header, the
// Reader parses the original rows and has each rewritten after that. What is unusual
// ends this for the rest of the file: lines before a header, lines with CR, an
// unfinished or damaged end. The rows and the fingerprint are the same in both ways.

// RowRewriter rewrites single lines of a log.
type RowRewriter interface {
	// Line appends the rewritten form of a line, with its newline, to dst: one line.
	// An error concerns the whole file.
	Line(dst, line []byte) ([]byte, error)
	// Row does the same for a row that was parsed, and returns the fields that it
	// replaced, in ascending order; they are valid until the next call. fields has the
	// ends of the fields. Only texts and flags are replaced. If only Line can rewrite
	// the row, ok is false.
	Row(dst, row []byte, fields Fields) (out []byte, replaced []Replaced, ok bool)
}

// Replaced is a field that was replaced in a rewritten row, with the place of its new
// text.
type Replaced struct {
	Field      int
	Begin, End uint32
}

// rewrittenSize is how much rewritten text is hashed at once, in bytes.
const rewrittenSize = 256 << 10

// canRewriteRows reports whether r can rewrite rows after it has parsed them.
func (r *Reader) canRewriteRows() bool {
	return r.opt.Rows != nil && r.opt.Rewrite != nil && !r.draining && r.typ.rows == oneForm
}

// isUnusual reports whether a line must be rewritten by the reader of
// ReaderOptions.Rewrite.
func (r *Reader) isUnusual(line []byte) bool {
	if n := len(line); n > 1 && line[n-2] == '\r' {
		return true
	}
	if r.current != nil {
		return false
	}
	h, err := parseHeader(line[:len(line)-1], r.typ.sep)
	return err != nil || h.part != "row"
}

// rewriteLine rewrites a line of the original text, and reads the result. It reads a
// row before it rewrites it.
func (r *Reader) rewriteLine(line []byte) error {
	b := &r.batch
	begin := len(r.rewritten)
	if m := r.current; m != nil && line[0] != '#' && len(line) > 1 {
		escaped, slow := b.escaped, b.slow
		if b.parseRow(line, m, r.columns) == nil {
			out, replaced, ok := r.opt.Rows.Row(r.rewritten, line, b.fields[b.n])
			if ok && b.escaped == escaped && len(out)-begin <= MaxLine {
				r.rewritten = out
				r.line++
				r.counts.Lines++
				r.addRow(out[begin:], out[begin:], m, b.slow != slow, b.replace(m, out[begin:], replaced))
				return nil
			}
			b.undoRow(m)
		}
		b.escaped = escaped
	}
	out, err := r.opt.Rows.Line(r.rewritten, line)
	if err != nil {
		return &RewriteError{err}
	}
	r.rewritten = out
	if len(out)-begin > MaxLine {
		r.skipping = true
	}
	return r.readLine(out[begin:])
}

// replace updates the values of the current row to those of its rewritten form. It
// returns the fields that move others.
func (b *Batch) replace(m *mapping, line []byte, replaced []Replaced) (moved []Replaced) {
	for _, x := range replaced {
		f := &m.fields[x.Field]
		if f.col < 0 {
			continue
		}
		v := &b.cols[f.col]
		v.unsetNull(b.n)
		if f.kind == Bool {
			v.parseBool(line, int(x.Begin), b.Type.sep, b.n)
		} else {
			b.parseText(v, line, int(x.Begin), b.Type.sep, b.n)
		}
	}
	n := len(b.moves)
	b.moves = append(b.moves, replaced...)
	return b.moves[n:]
}

// flush adds the rewritten text to the fingerprint if there are at least enough bytes.
// The text is not overwritten before flush is called twice more with text.
func (r *Reader) flush(enough int) {
	text := r.rewritten
	if len(text) < enough {
		return
	}
	r.joinHash()
	r.counts.Text += int64(len(text))
	if len(text) < hashBeside {
		r.hash(text)
	} else {
		r.startHash(text)
	}
	r.rewritten, r.hashed = r.hashed[:0], text
}

// rewriteRest lets the reader of ReaderOptions.Rewrite rewrite the rest of the file.
func (r *Reader) rewriteRest() {
	r.flush(1)
	r.joinHash()
	src := r.src
	if r.eof {
		src = failing{r.damage}
	}
	r.src = r.opt.Rewrite(io.MultiReader(bytes.NewReader(bytes.Clone(r.buf[r.pos:r.end])), src))
	r.pos, r.end, r.eof, r.damage = 0, 0, false, nil
	r.byRow = false
}

// failing is a reader that has no more text, for a reason.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
