package encode

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// field describes a field of a line and how to encode it.
type field struct {
	tstat.Column
	valued bool            // false if the field is not a column
	name   []byte          // JSON: ,"name":
	short  [shortName]byte // name, if it fits
	length int             // of name
	plain  plain
}

// plain selects the fast path for the common values of a field.
type plain uint8

const (
	neither plain = iota
	number
	quoted
)

// newField returns the field for a column.
func newField(c tstat.Column) field {
	f := field{Column: c, valued: true, name: append(appendJSON([]byte{','}, []byte(c.Name)), ':')}
	f.length = copy(f.short[:], f.name)
	if len(f.name) > shortName {
		f.length = len(f.name)
	}
	switch c.Kind {
	case tstat.Int, tstat.Float:
		f.plain = number
	case tstat.Text:
		f.plain = quoted
	}
	return f
}

// derived computes the columns "first" and "last" from the fields "first_abs" and
// "durat", for logs of Tstat 2.2 to 2.4.
type derived struct{ abs, durat int } // indexes of fields

func (l *logEncoder) derived(c *form) *derived {
	d := derived{abs: -1, durat: -1}
	for i, f := range c.fields {
		switch {
		case !f.valued:
		case f.Name == "first_abs":
			d.abs = i
		case f.Name == "durat":
			d.durat = i
		}
	}
	first, last := l.typ.Column("first"), l.typ.Column("last")
	if d.abs < 0 || d.durat < 0 || first < 0 || last < 0 {
		return nil
	}
	return &d
}

// shortName is the maximum length of a field.name that fits in field.short, which is
// copied as one block.
const shortName = 32

// json appends a line as an object. This is the hot path: it makes one pass over
// the line and copies plain numbers and strings byte by byte.
func (l *logEncoder) json(dst, line []byte, c *form) ([]byte, error) {
	sep := l.typ.Separator()
	// Reserve room for the longest possible row. A byte of text becomes at
	// most 6 bytes, a number or a time at most 32.
	dst = slices.Grow(dst, len(l.lead)+len(c.kind)+c.room+6*len(line))
	dst = append(dst, l.lead...)
	if c.kind != nil {
		dst = append(append(dst, `,"kind":`...), c.kind...)
	}
	p, w := 0, len(dst)
	out := dst[:cap(dst)]
	for i := range c.fields {
		f := &c.fields[i]
		if f.length <= shortName {
			*(*[shortName]byte)(out[w:]) = f.short
			w += f.length
		} else {
			w += copy(out[w:], f.name)
		}
		start, q := w, p
		b := line[q]
		good := false
		switch {
		case f.plain == number:
			if b == '-' {
				out[w] = b
				w++
				q++
				b = line[q]
			}
			digits := q
			for b-'0' < 10 {
				out[w] = b
				w++
				q++
				b = line[q]
			}
			good = q > digits && (line[digits] != '0' || q == digits+1) && (f.Kind == tstat.Float || q-digits < 19)
			if b == '.' && f.Kind == tstat.Float {
				out[w] = b
				w++
				q++
				b = line[q]
				decimals := q
				for b-'0' < 10 {
					out[w] = b
					w++
					q++
					b = line[q]
				}
				good = good && q > decimals
			}
		case f.plain == quoted:
			out[w] = '"'
			w++
			for b != sep && b-0x20 < 0x5f && b != '"' && b != '\\' { // up to '~'
				out[w] = b
				w++
				q++
				b = line[q]
			}
			out[w] = '"'
			w++
			good = q > p+2 || !f.IsNull(line[p:q])
		}
		if !good || b != sep && b != '\n' {
			var ok bool
			if dst, q, ok = l.value(out[:start], line, p, sep, f); !ok {
				return dst, fmt.Errorf("column %s: no %s: %.80q", f.Name, f.Kind, line[p:q])
			}
			w = len(dst)
		}
		p = q + 1
	}
	return append(l.times(out[:w], line, c, sep), '}', '\n'), nil
}

// times appends the columns "first" and "last" if they have to be derived from other
// columns of the line; see derived.
func (l *logEncoder) times(dst, line []byte, c *form, sep byte) []byte {
	if c.derive == nil {
		return dst
	}
	first, last := c.derive.times(line, c, sep)
	dst = l.time(append(dst, `,"first":`...), first)
	return l.time(append(dst, `,"last":`...), last)
}

// value appends the value of the field that starts at line[p]. q is the end of
// the field. ok is false if the value is invalid.
func (l *logEncoder) value(dst, line []byte, p int, sep byte, f *field) (_ []byte, q int, ok bool) {
	switch {
	case !f.valued:
		for q = p; line[q] != sep && line[q] != '\n'; {
			q++
		}
		return dst, q, true
	case f.Kind == tstat.Time:
		us, end, ok := f.ParseTime(line, p, sep)
		if !ok {
			return dst, end, false
		}
		return l.time(dst, us), end, true
	}
	for q = p; line[q] != sep && line[q] != '\n'; {
		q++
	}
	dst, ok = slowValue(dst, line[p:q], f)
	return dst, q, ok
}

// slowValue appends a value of any kind but Time. It reports whether the value is
// valid.
func slowValue(dst, text []byte, f *field) ([]byte, bool) {
	if f.IsNull(text) {
		return append(dst, "null"...), true
	}
	switch f.Kind {
	case tstat.Text:
		return appendJSON(dst, text), true
	case tstat.Bool:
		if len(text) != 1 || text[0] != '0' && text[0] != '1' {
			return dst, false
		}
		return strconv.AppendBool(dst, text[0] == '1'), true
	case tstat.Int:
		if n, err := strconv.ParseInt(string(text), 10, 64); err == nil { // for example with leading zeros
			return strconv.AppendInt(dst, n, 10), true
		}
		x, ok := tstat.ParseNumber(text)
		if !ok || x != math.Trunc(x) || math.Abs(x) >= 1<<53 {
			return dst, false
		}
		return strconv.AppendInt(dst, int64(x), 10), true
	default:
		x, ok := tstat.ParseNumber(text)
		switch {
		case !ok:
			return dst, false
		case math.IsNaN(x) || math.IsInf(x, 0): // not valid in JSON
			return append(dst, "null"...), true
		}
		return strconv.AppendFloat(dst, x, 'g', -1, 64), true
	}
}

// span returns the start and end of field i of a line.
func span(line []byte, i int, sep byte) (p, q int) {
	for ; i > 0; i-- {
		for line[p] != sep {
			p++
		}
		p++
	}
	for q = p; line[q] != sep && line[q] != '\n'; q++ {
	}
	return p, q
}

// times returns the derived times of a line in microseconds since the epoch, or 0
// if a time is unknown.
func (d *derived) times(line []byte, c *form, sep byte) (first, last int64) {
	p, _ := span(line, d.abs, sep)
	first, _, _ = c.fields[d.abs].ParseTime(line, p, sep)
	p, q := span(line, d.durat, sep)
	if ms, ok := tstat.ParseNumber(line[p:q]); ok && first > 0 && ms >= 0 && ms < 1e12 {
		last = first + int64(math.Round(ms*1e3))
	}
	return first, last
}

// pickedJSON appends the selected columns of a line as an object.
func (l *logEncoder) pickedJSON(dst, line []byte, c *form) ([]byte, error) {
	sep := l.typ.Separator()
	dst = append(dst, l.lead...)
	where := l.where[:0] // start of each field
	p := 0
	for range c.fields {
		where = append(where, p)
		for line[p] != sep && line[p] != '\n' {
			p++
		}
		p++
	}
	l.where = where
	for i, at := range c.picked {
		dst = append(dst, c.names[i]...)
		name := l.opt.Select[i]
		switch {
		case at < 0 && name == "kind" && c.kind != nil:
			dst = append(dst, c.kind...)
		case at < 0 && c.derive != nil && (name == "first" || name == "last"):
			us, last := c.derive.times(line, c, sep)
			if name == "last" {
				us = last
			}
			dst = l.time(dst, us)
		case at < 0:
			dst = append(dst, "null"...)
		default:
			f := &c.fields[at]
			var ok bool
			if dst, p, ok = l.value(dst, line, where[at], sep, f); !ok {
				return dst, fmt.Errorf("column %s: no %s: %.80q", f.Name, f.Kind, line[where[at]:p])
			}
		}
	}
	return append(dst, '}', '\n'), nil
}

// appendJSON appends text as a JSON string. NUL and bytes that are not valid
// UTF-8 become \xHH, as in all typed stores.
func appendJSON(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for len(text) > 0 {
		b := text[0]
		if b < utf8.RuneSelf {
			switch {
			case b == '"' || b == '\\':
				dst = append(dst, '\\', b)
			case b == 0:
				dst = append(dst, `\\x00`...)
			case b < 0x20 || b == 0x7f:
				dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
			default:
				dst = append(dst, b)
			}
			text = text[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, '\\', '\\', 'x', hex[b>>4], hex[b&15])
		} else {
			dst = append(dst, text[:n]...)
		}
		text = text[n:]
	}
	return append(dst, '"')
}

// time appends a time in the form "2006-01-02T15:04:05.000000Z". us is the time in
// microseconds since the epoch; 0 is appended as null.
func (l *logEncoder) time(dst []byte, us int64) []byte {
	if us == 0 {
		return append(dst, "null"...)
	}
	return append(l.calendar.Append(append(dst, '"'), us), 'Z', '"')
}
