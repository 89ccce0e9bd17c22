package tstat

import (
	"bytes"
	"io"
)

// A log can be rewritten in two ways. By default, ReaderOptions.Rewrite rewrites the
// whole text, which the Reader then parses like that of any file. This is slow, because
// both must find the fields of each row. If ReaderOptions.Rows is set and the log has a
// header, the Reader therefore parses each original row and has it rewritten
// afterwards. It rewrites the rest of the file in the default way as soon as it finds
// anything unusual: a line before a header, a line with CR, or an unfinished or damaged
// end. Both ways produce the same rows and the same fingerprint.

// RowRewriter rewrites single lines of a log.
type RowRewriter interface {
	// Line appends the rewritten form of a line to dst, as a single line with its
	// newline. An error concerns the whole file.
	Line(dst, line []byte) ([]byte, error)
	// Row does the same for a parsed row, whose field ends are in fields. replaced
	// lists the fields that it replaced, in ascending order, and is valid until the
	// next call. Row only replaces text and flags. ok is false if only Line can rewrite
	// the row.
	Row(dst, row []byte, fields Fields) (out []byte, replaced []Replaced, ok bool)
}

// Replaced is a field that was replaced in a rewritten row, with the position of its
// new text.
type Replaced struct {
	Field      int
	Begin, End uint32
}

// rewrittenSize is the minimum size, in bytes, of the pieces in which Reader.Next hashes
// the rewritten text. Only the last piece may be smaller.
const rewrittenSize = 256 << 10

// canRewriteRows reports whether r can rewrite rows after it has parsed them.
func (r *Reader) canRewriteRows() bool {
	return r.opt.Rows != nil && r.opt.Rewrite != nil && !r.draining && r.typ.rows == oneForm
}

// isUnusual reports whether only ReaderOptions.Rewrite can rewrite a line, because the
// line has a CR or precedes the header.
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

// rewriteLine rewrites a line of the original text and processes the result. If the line
// is a row, rewriteLine parses the original row first.
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

// replace parses the replaced fields and stores their values in the current row. line is
// the rewritten text of that row. The result is a copy of replaced, for Fields.move.
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

// flush adds r.rewritten, the rewritten text, to the fingerprint. It does nothing if the
// text is shorter than the given number of bytes. The text stays valid until flush next
// adds text.
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

// rewriteRest makes ReaderOptions.Rewrite rewrite the rest of the file.
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

// failing is a reader that has no text and always returns err.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
