package tstat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"
	"unsafe"
)

// mapping assigns the fields of a line to columns.
type mapping struct {
	fields  []field
	columns []int  // column of each field; skipField if its value is not returned
	absent  []int  // columns that other lines of the file have, but not this one
	kind    []byte // the value of log_http_complete's column kind; nil for other types
	derive  *derive
}

type field struct {
	col  int // skipField: the field holds no value
	run  int // number of consecutive fields without a column from here; 0 if this field has a column
	kind Kind
}

// rowError reports why a line is malformed. column is empty if the reason concerns the
// whole line.
type rowError struct {
	column  string
	value   string
	reason  string
	private bool // Error omits the value
}

func (e *rowError) Error() string {
	if e.column == "" {
		return e.reason
	}
	if e.private {
		return fmt.Sprintf("column %s: %s", e.column, e.reason)
	}
	return fmt.Sprintf("column %s: %s: %q", e.column, e.reason, e.value)
}

// parseRow parses one line into row b.n. The newline at the end of the line stops every
// loop. This is the hot path: parseRow makes a single pass over the bytes and does not
// allocate.
func (b *Batch) parseRow(line []byte, m *mapping, columns []Column) error {
	sep := b.Type.sep
	row := b.n
	ends := b.allocFields(len(m.fields))
	p := 0
	for i := 0; i < len(m.fields); i++ {
		f := &m.fields[i]
		q := p
		if f.col < 0 {
			i += skipFields(line, p, sep, ends[i:i+f.run]) - 1
			q = int(ends[i])
		} else {
			v := &b.cols[f.col]
			var ok bool
			switch f.kind {
			case Int:
				// Most counters have one digit.
				if c := line[p] - '0'; c < 10 && line[p+1] == sep {
					v.ints[row-v.nulls] = int64(c)
					q, ok = p+1, true
				} else {
					q, ok = v.parseInt(line, p, sep, row)
				}
			case Float:
				q, ok = v.parseFloat(line, p, sep, row)
			case Text:
				q, ok = b.parseText(v, line, p, sep, row)
			case Bool:
				q, ok = v.parseBool(line, p, sep, row)
			case Time:
				q, ok = v.parseTime(line, p, sep, row)
			}
			if !ok {
				b.undo(m, i)
				value := string(line[p:min(q, p+80)])
				c := columns[f.col]
				if n := countFields(line, sep); n != len(m.fields) {
					return &rowError{reason: fmt.Sprintf("%d columns, not %d", n, len(m.fields))}
				}
				return &rowError{column: c.Name, value: value, reason: "not " + describeKind(c.Kind)}
			}
		}
		if last := i == len(m.fields)-1; last != (line[q] == '\n') {
			b.undo(m, i+1)
			return &rowError{reason: fmt.Sprintf("%d columns, not %d", countFields(line, sep), len(m.fields))}
		}
		ends[i] = uint32(q)
		p = q + 1
	}
	b.fields[row] = ends
	for _, c := range m.absent {
		b.cols[c].setNull(row)
	}
	if m.kind != nil {
		v := &b.cols[b.Type.index["kind"]]
		v.texts[row-v.nulls] = m.kind
	}
	if d := m.derive; d != nil {
		b.deriveTimes(d)
	}
	return nil
}

// skipFields stores the ends of fields in ends, starting with the field at index p of
// line, until ends is full or the line ends. It returns the number of ends stored, at
// least 1.
func skipFields(line []byte, p int, sep byte, ends Fields) (n int) {
	const ones, low = 0x0101010101010101, 0x7f7f7f7f7f7f7f7f
	seps := ones * uint64(sep)
	for p+8 <= len(line) {
		w := binary.LittleEndian.Uint64(line[p:])
		// found has the highest bit set in each byte that is the separator or a
		// newline.
		x, y := w^seps, w^ones*'\n'
		found := ^((x&low + low | x | low) & (y&low + low | y | low))
		for found != 0 {
			end := p + bits.TrailingZeros64(found)>>3
			ends[n] = uint32(end)
			if n++; n == len(ends) || line[end] == '\n' {
				return n
			}
			found &= found - 1
		}
		p += 8
	}
	for {
		if c := line[p]; c == sep || c == '\n' {
			ends[n] = uint32(p)
			if n++; n == len(ends) || c == '\n' {
				return n
			}
		}
		p++
	}
}

func describeKind(k Kind) string {
	switch k {
	case Int:
		return "an integer"
	case Float:
		return "a number"
	case Bool:
		return "0 or 1"
	case Time:
		return "a time"
	default:
		return "a text"
	}
}

func countFields(line []byte, sep byte) int {
	return bytes.Count(line, []byte{sep}) + 1
}

// fieldEnd returns the index of the separator or newline that ends the field
// at p.
func fieldEnd(line []byte, p int, sep byte) int {
	for line[p] != sep && line[p] != '\n' {
		p++
	}
	return p
}

// IsNull reports whether a field is one of Tstat's spellings of "no value" in columns
// other than text columns. MSN_Y rows contain '?' in place of a length.
func IsNull(f []byte) bool {
	switch string(f) {
	case "", "-", "--", "---", "?":
		return true
	}
	return false
}

// The parse functions below first process 8 bytes at a time, which suits numbers of up
// to 7 digits, most times and most strings. Their loops handle everything else,
// including the end of a line, where fewer than 8 bytes are left.

func (v *vector) parseInt(line []byte, p int, sep byte, row int) (int, bool) {
	if p+8 <= len(line) {
		w := binary.LittleEndian.Uint64(line[p:])
		if x, n := leadingDigits(w); uint(n-1) < 7 {
			if c := line[p+n]; (c == sep || c == '\n') && (n == 1 || byte(w) != '0') {
				v.ints[row-v.nulls] = int64(x)
				return p + n, true
			}
		}
	}
	q := p
	c := line[q]
	neg := c == '-'
	if neg {
		q++
		c = line[q]
	}
	digits := q
	var x int64
	for c-'0' < 10 {
		x = x*10 + int64(c-'0')
		q++
		c = line[q]
	}
	if n := q - digits; (c == sep || c == '\n') && n > 0 && n < 19 && (n == 1 || line[digits] != '0') && !(neg && x == 0) {
		if neg {
			x = -x
		}
		v.ints[row-v.nulls] = x
		return q, true
	}
	return v.slowInt(line, p, sep, row)
}

// recordOdd records that field f is not a plain number; see Batch.Plain and
// Batch.OddNulls.
func (v *vector) recordOdd(f []byte) {
	switch {
	case len(f) == 1 && f[0] == '-':
	case IsNull(f):
		v.oddNull = true
	default:
		*v.slow++
	}
}

func (v *vector) slowInt(line []byte, p int, sep byte, row int) (int, bool) {
	q := fieldEnd(line, p, sep)
	f := line[p:q]
	v.recordOdd(f)
	if IsNull(f) {
		v.setNull(row)
		return q, true
	}
	x, err := strconv.ParseInt(String(f), 10, 64)
	if err != nil {
		// Some versions print counters with decimals.
		y, ok := parseNumber(f)
		if !ok || y != math.Trunc(y) || math.Abs(y) >= 1<<53 {
			return q, false
		}
		x = int64(y)
	}
	v.ints[row-v.nulls] = x
	return q, true
}

func (v *vector) parseFloat(line []byte, p int, sep byte, row int) (int, bool) {
	if p+16 <= len(line) {
		x, n := leadingDigits(binary.LittleEndian.Uint64(line[p:]))
		if dot := p + n; uint(n-1) < 7 && line[dot] == '.' {
			y, decimals := leadingDigits(binary.LittleEndian.Uint64(line[dot+1:]))
			if q := dot + 1 + decimals; uint(decimals-1) < 7 && (line[q] == sep || line[q] == '\n') {
				// Both numbers are exact, so the quotient is rounded once.
				v.floats[row-v.nulls] = float64(int64(x*pow10[decimals]+y)) / floatTens[decimals]
				return q, true
			}
		}
	}
	q := p
	c := line[q]
	neg := c == '-'
	if neg {
		q++
		c = line[q]
	}
	start := q
	var x uint64
	for c-'0' < 10 {
		x = x*10 + uint64(c-'0')
		q++
		c = line[q]
	}
	digits, decimals := q-start, 0
	if c == '.' {
		q++
		c = line[q]
		start = q
		for c-'0' < 10 {
			x = x*10 + uint64(c-'0')
			q++
			c = line[q]
		}
		decimals = q - start
		digits += decimals
	}
	if (c == sep || c == '\n') && digits > 0 && digits <= 19 {
		if y, ok := nearest(x, decimals); ok {
			if neg {
				y = -y
			}
			v.floats[row-v.nulls] = y
			return q, true
		}
	}
	return v.slowFloat(line, p, sep, row)
}

func (v *vector) slowFloat(line []byte, p int, sep byte, row int) (int, bool) {
	q := fieldEnd(line, p, sep)
	f := line[p:q]
	v.recordOdd(f)
	if IsNull(f) {
		v.setNull(row)
		return q, true
	}
	y, ok := parseNumber(f)
	if !ok {
		return q, false
	}
	v.floats[row-v.nulls] = y
	return q, true
}

// parseNumber implements ParseNumber.
func parseNumber(f []byte) (float64, bool) {
	if string(f) == "-nan" {
		return math.NaN(), true
	}
	y, err := strconv.ParseFloat(String(f), 64)
	return y, err == nil && !bytes.ContainsAny(f, "_xXpP") // forms that only Go accepts
}

func (v *vector) parseBool(line []byte, p int, sep byte, row int) (int, bool) {
	if c := line[p] - '0'; c < 2 && (line[p+1] == sep || line[p+1] == '\n') {
		v.bools[row-v.nulls] = c == 1
		return p + 1, true
	}
	q := fieldEnd(line, p, sep)
	v.recordOdd(line[p:q])
	if IsNull(line[p:q]) {
		v.setNull(row)
		return q, true
	}
	return q, false
}

// parseText stores in v the text of the field at index p of line. It returns the index at
// which the field ends, and true. It escapes bytes that are not valid in text; see
// escape. "-" is NULL, and so is "--" in YouTube's columns. An empty field is a value.
func (b *Batch) parseText(v *vector, line []byte, p int, sep byte, row int) (int, bool) {
	q := p
	for q+8 <= len(line) {
		// Skip to the first byte that is a space, a control character or not ASCII.
		// Subtracting 0x21 sets the highest bit of smaller bytes; bytes that are not
		// ASCII already have it. A borrow only affects bytes that follow the first such
		// byte.
		w := binary.LittleEndian.Uint64(line[q:])
		other := (w - 0x2121212121212121 | w) & 0x8080808080808080
		if other != 0 {
			q += bits.TrailingZeros64(other) >> 3
			break
		}
		q += 8
	}
	c := line[q]
	odd := false
	for c != sep && c != '\n' {
		if c-1 >= 0x7f { // NUL, DEL or not ASCII
			odd = true
		}
		q++
		c = line[q]
	}
	f := line[p:q]
	switch {
	case len(f) == 1 && f[0] == '-', v.yt && len(f) == 2 && f[0] == '-' && f[1] == '-':
		v.setNull(row)
		return q, true
	case odd && !cleanText(f):
		f = b.escape(f)
		b.escaped++
	}
	v.texts[row-v.nulls] = f
	return q, true
}

func cleanText(f []byte) bool { return utf8.Valid(f) && bytes.IndexByte(f, 0) < 0 }

// escape replaces NUL and bytes that are not UTF-8 with \xHH, because typed stores can
// hold only valid text. The result points into the batch's arena.
func (b *Batch) escape(f []byte) []byte {
	const hex = "0123456789abcdef"
	start := len(b.arena)
	for len(f) > 0 {
		r, n := utf8.DecodeRune(f)
		if r == utf8.RuneError && n == 1 || r == 0 {
			b.arena = append(b.arena, '\\', 'x', hex[f[0]>>4], hex[f[0]&15])
		} else {
			b.arena = append(b.arena, f[:n]...)
		}
		f = f[n:]
	}
	return b.arena[start:len(b.arena):len(b.arena)]
}

// String returns a string that shares memory with b. Pass it only to functions that do
// not keep the string.
func String(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
