package pg

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Target is a column of the table that rows are copied into, and where its
// values come from.
type Target struct {
	Name   string // in the table
	Type   string // pg_type.typname
	Source int    // index into store.FileInfo.Columns
}

// encoder writes rows in COPY's binary form if that is wanted and all types of
// the columns are known here. Else it is the text form, with the separator of
// the log and "-" for NULL. There numbers go as Tstat wrote them: formatting
// them again costs more than all the rest. Most rows have nothing but plain
// numbers between a few texts; there whole runs of fields are copied.
type encoder struct {
	cells []cell // in the order of the fields
	idle  []cell // of columns that no batch had so far
	raw   [][]byte
	sep   byte
	batch *tstat.Batch

	plan []step // of the rows with the columns planned
	of   *int   // the first of these columns, which tells layouts apart
	odd  bool   // the batch has a number out of its column's range

	binary  bool
	lanes   []lane   // of the cells
	byField bool     // some cell is
	wanted  []wanted // of the rows with the columns of
	text    []byte   // of a value
}

// step is one step through the fields of a line.
type step struct {
	do   do
	cell int // doCell
	n    int // fields; 0: the line has none for the cell
}

type do uint8

const (
	doSkip do = iota // pass over fields
	doCopy           // copy a run of fields
	doCell           // append what the cell makes of the field
)

// cell is one column under way.
type cell struct {
	target   Target
	op       op
	min, max int64 // opRawInt, opInt
	numeric  bool  // a plain field can be copied as it is
	run      bool  // so is every field of the batch
	vec      tstat.Vector
	has      bool
	dense    bool // no row of the batch is NULL
	row      int  // of vec that next belongs to
	next     int  // value of vec
	calendar calendar

	// Of the binary form:
	size    int      // of a value, in bytes
	byField bool     // the value is made of the field, not of the vector
	field   []byte   // of the row under way, nil if it has none
	written [][]byte // the fields of all rows, of a time
	digits  bool     // the field can be told from the vector's integer
	number  []byte   // that field
}

// at returns which value of the vector row i has, -1 for NULL. Rows only go on.
func (c *cell) at(i int) int {
	if c.dense {
		return i
	}
	if !c.has || c.vec.Def[i] == 0 {
		return -1
	}
	for ; c.row < i; c.row++ {
		c.next += int(c.vec.Def[c.row])
	}
	return c.next
}

type op uint8

const (
	opText  op = iota // from the vector: "-" is NULL, bytes that are not UTF-8 are escaped
	opInt             // from the vector
	opBool            // from the vector: t or f
	opTime            // from the vector: UTC
	opFloat           // the field, if it is plain; else from the vector
	opInet            // from the vector, checked
	// The others take the field whatever Tstat's own kind of the column is.
	opRawText
	opRawInt
	opRawFloat
)

// newEncoder returns an encoder of columns into targets, in binary form if
// that is wanted and can be. With asWritten a time stays the number that Tstat
// wrote, and every text but "-" stays a text: so it is in DBStream's own
// tables.
func newEncoder(columns []tstat.Column, targets []Target, asWritten, binary bool) *encoder {
	e := &encoder{binary: binary && canBinary(targets)}
	for _, t := range targets {
		c := cell{target: t, min: math.MinInt64, max: math.MaxInt64}
		kind := columns[t.Source].Kind
		switch t.Type {
		case "int2":
			c.min, c.max = math.MinInt16, math.MaxInt16
		case "int4":
			c.min, c.max = math.MinInt32, math.MaxInt32
		}
		switch t.Type {
		case "int2", "int4", "int8":
			c.op = opRawInt
			if kind == tstat.Int {
				c.op = opInt
			}
		case "float4", "float8", "numeric":
			c.op = opRawFloat
			if kind == tstat.Float {
				c.op = opFloat
			}
		case "bool":
			c.op = opRawText
			if kind == tstat.Bool {
				c.op = opBool
			}
		case "inet":
			c.op = opInet
		case "timestamptz", "timestamp":
			c.op = opRawText
			if kind == tstat.Time {
				c.op = opTime
			}
		default:
			c.op = opRawText
			if kind == tstat.Text && !asWritten {
				c.op = opText
			}
		}
		switch c.op {
		case opInt, opBool, opFloat:
			c.numeric = true
		case opRawInt:
			c.numeric = kind == tstat.Bool
		case opRawFloat:
			c.numeric = kind != tstat.Text
		}
		if e.binary && !c.prepareBinary(columns[t.Source]) {
			e.binary = false
		}
		e.idle = append(e.idle, c)
	}
	return e
}

// has reports whether a column of the file has a target.
func (e *encoder) has(column int) bool {
	of := func(c cell) bool { return c.target.Source == column }
	return slices.ContainsFunc(e.cells, of) || slices.ContainsFunc(e.idle, of)
}

// start prepares for the rows of b, and reports whether columns is not what it
// was. Columns that no row had so far are left out, since the server works on
// every value of a COPY, and the others are in the order of the fields.
func (e *encoder) start(b *tstat.Batch) (changed bool) {
	e.batch = b
	e.idle = slices.DeleteFunc(e.idle, func(c cell) bool {
		_, has := b.Column(c.target.Source)
		if has {
			e.cells, changed = append(e.cells, c), true
		}
		return has
	})
	if changed {
		e.of = nil
		_, columns := b.Row(0)
		field := map[int]int{}
		for f, c := range columns {
			field[c] = f
		}
		place := func(c cell) int {
			if f, ok := field[c.target.Source]; ok {
				return f
			}
			return len(columns)
		}
		slices.SortStableFunc(e.cells, func(a, b cell) int { return place(a) - place(b) })
	}
	e.odd, e.lanes = false, e.lanes[:0]
	for i := range e.cells {
		c := &e.cells[i]
		c.vec, c.has = b.Column(c.target.Source)
		c.row, c.next = 0, 0
		c.dense = c.has && len(c.vec.Ints)+len(c.vec.Floats)+len(c.vec.Bools)+len(c.vec.Texts) == b.Len()
		if e.binary {
			e.startBinary(c)
			continue
		}
		if run := c.numeric && !b.OddNulls(c.target.Source); run != c.run {
			c.run, e.of = run, nil // another plan
		}
		if c.op == opInt && c.min != math.MinInt64 && c.has {
			// From min to max there is a power of two of numbers: a number
			// beyond has a higher bit set.
			var beyond uint64
			for _, x := range c.vec.Ints {
				beyond |= uint64(x - c.min)
			}
			e.odd = e.odd || beyond > uint64(c.max-c.min)
		}
	}
	return changed
}

// columns returns the columns of the table in the order of the rows, see
// start.
func (e *encoder) columns() []Target {
	var cols []Target
	for _, c := range e.cells {
		cols = append(cols, c.target)
	}
	return cols
}

// newPlan finds the way through lines with these columns. It fails if the
// fields are not in the order of the cells.
func (e *encoder) newPlan(columns []int) {
	e.plan, e.of = e.plan[:0], &columns[0]
	if e.plan == nil {
		e.plan = []step{} // nil is no plan
	}
	f := 0
	for i, c := range e.cells {
		at := slices.Index(columns, c.target.Source)
		if at >= 0 && at < f {
			e.plan = nil
			return
		}
		if at > f {
			e.plan = append(e.plan, step{do: doSkip, n: at - f})
			f = at
		}
		last := len(e.plan) - 1
		switch {
		case at < 0:
			e.plan = append(e.plan, step{do: doCell, cell: i})
			continue
		case c.run && last >= 0 && e.plan[last].do == doCopy:
			e.plan[last].n++
		case c.run:
			e.plan = append(e.plan, step{do: doCopy, n: 1})
		default:
			e.plan = append(e.plan, step{do: doCell, cell: i, n: 1})
		}
		f++
	}
}

// rowError says which value a column cannot hold.
type rowError struct {
	column string
	value  []byte
	reason string
}

func (e *rowError) Error() string {
	return fmt.Sprintf("column %s: %s: %q", e.column, e.reason, e.value[:min(len(e.value), 80)])
}

// append appends the values of row i of the batch; in text form with a
// separator before each. After an error the row is unfinished.
func (e *encoder) append(dst []byte, i int) ([]byte, error) {
	if e.binary {
		return e.appendBinary(dst, i)
	}
	b := e.batch
	if b.Plain(i) && !e.odd {
		text, columns := b.Row(i)
		if e.of != &columns[0] {
			e.newPlan(columns)
		}
		if e.plan != nil {
			return e.follow(dst, text, i)
		}
	}
	e.raw = b.Raw(i, e.raw)
	for j := range e.cells {
		c := &e.cells[j]
		dst = append(dst, e.sep)
		var ok bool
		if dst, ok = c.append(dst, e.raw[c.target.Source], c.at(i), e.sep); !ok {
			return dst, &rowError{c.target.Name, bytes.Clone(e.raw[c.target.Source]), c.reason()}
		}
	}
	return dst, nil
}

// follow appends a row by the plan.
func (e *encoder) follow(dst, text []byte, i int) ([]byte, error) {
	p := 0
	for _, s := range e.plan {
		q := p
		if s.n > 0 {
			q = pass(text, p, e.sep, s.n)
		}
		switch s.do {
		case doCopy:
			dst = append(append(dst, e.sep), text[p:q-1]...)
		case doCell:
			c := &e.cells[s.cell]
			var raw []byte
			if s.n > 0 {
				raw = text[p : q-1 : q-1]
			}
			var ok bool
			if dst, ok = c.append(append(dst, e.sep), raw, c.at(i), e.sep); !ok {
				return dst, &rowError{c.target.Name, bytes.Clone(raw), c.reason()}
			}
		}
		p = q
	}
	return dst, nil
}

// pass returns where the field after the next n fields from p on begins: past
// the end if these are the last.
func pass(text []byte, p int, sep byte, n int) int {
	// Eight bytes at a time: a byte of found is 0x80 where text has sep.
	const low = 0x7f7f7f7f7f7f7f7f
	seps := uint64(sep) * 0x0101010101010101
	for ; p+8 <= len(text); p += 8 {
		x := binary.LittleEndian.Uint64(text[p:]) ^ seps
		found := ^((x&low + low) | x | low)
		if found == 0 {
			continue
		}
		if k := bits.OnesCount64(found); k < n {
			n -= k
			continue
		}
		for ; n > 1; n-- {
			found &= found - 1
		}
		return p + bits.TrailingZeros64(found)/8 + 1
	}
	for ; p < len(text); p++ {
		if text[p] == sep {
			if n--; n == 0 {
				return p + 1
			}
		}
	}
	return len(text) + 1
}

func (c *cell) reason() string {
	switch c.op {
	case opInet:
		return "not an address"
	case opInt, opRawInt:
		if c.min == math.MinInt64 {
			return "not a whole number"
		}
		return fmt.Sprintf("not a whole number from %d to %d", c.min, c.max)
	default:
		return "not a number"
	}
}

const null = "-"

// append appends one value: number at of the vector, -1 if that is NULL, or
// the field raw.
func (c *cell) append(dst, raw []byte, at int, sep byte) ([]byte, bool) {
	switch c.op {
	case opText:
		if at < 0 {
			return append(dst, null...), true
		}
		return appendText(dst, c.vec.Texts[at], sep), true
	case opInt:
		if at < 0 {
			return append(dst, null...), true
		}
		x := c.vec.Ints[at]
		return strconv.AppendInt(dst, x, 10), x >= c.min && x <= c.max
	case opBool:
		switch {
		case at < 0:
			return append(dst, null...), true
		case c.vec.Bools[at]:
			return append(dst, 't'), true
		}
		return append(dst, 'f'), true
	case opTime:
		if at < 0 {
			return append(dst, null...), true
		}
		return c.calendar.append(dst, c.vec.Ints[at]), true
	case opFloat:
		if at < 0 {
			return append(dst, null...), true
		}
		if plain(raw) {
			return append(dst, raw...), true
		}
		return appendFloat(dst, c.vec.Floats[at]), true
	case opInet:
		f := raw
		if f == nil || isNull(f) {
			return append(dst, null...), true
		}
		// A zone, as in fe80::1%eth0, is nothing that inet can hold.
		a, err := netip.ParseAddr(str(f))
		return append(dst, f...), err == nil && a.Zone() == ""
	}
	if raw == nil {
		return c.appendDerived(dst, at, sep)
	}
	switch c.op {
	case opRawInt:
		return c.appendRawInt(dst, raw)
	case opRawFloat:
		if plain(raw) {
			return append(dst, raw...), true
		}
		if isNull(raw) {
			return append(dst, null...), true
		}
		if at >= 0 && c.vec.Floats != nil {
			return appendFloat(dst, c.vec.Floats[at]), true
		}
		x, err := strconv.ParseFloat(str(raw), 64)
		return appendFloat(dst, x), err == nil && !bytes.ContainsAny(raw, "_xXpP")
	default:
		if len(raw) == 1 && raw[0] == '-' {
			return append(dst, null...), true
		}
		if at >= 0 && c.vec.Texts != nil { // it is escaped where need be
			raw = c.vec.Texts[at]
		}
		return appendText(dst, raw, sep), true
	}
}

// appendDerived appends a value that the line has no field for: the times
// that Tstat 2.2 to 2.4 leave to be computed.
func (c *cell) appendDerived(dst []byte, at int, sep byte) ([]byte, bool) {
	switch {
	case at < 0:
		return append(dst, null...), true
	case c.vec.Texts != nil:
		return appendText(dst, c.vec.Texts[at], sep), true
	case c.vec.Floats != nil:
		return appendFloat(dst, c.vec.Floats[at]), true
	case c.vec.Ints != nil && c.op == opRawFloat:
		return appendFloat(dst, float64(c.vec.Ints[at])/1e3), true
	}
	return append(dst, null...), true
}

func (c *cell) appendRawInt(dst, f []byte) ([]byte, bool) {
	if isNull(f) {
		return append(dst, null...), true
	}
	x, err := strconv.ParseInt(str(f), 10, 64)
	if err != nil {
		// Some versions print a counter as a number with decimals.
		y, ferr := strconv.ParseFloat(str(f), 64)
		if ferr != nil || y != math.Trunc(y) || math.Abs(y) >= 1<<53 {
			return dst, false
		}
		x = int64(y)
	}
	return strconv.AppendInt(dst, x, 10), x >= c.min && x <= c.max
}

// plain reports whether a field is a decimal number that every SQL type of
// numbers with decimals can read.
func plain(f []byte) bool {
	if len(f) == 0 || len(f) > 40 {
		return false
	}
	digits, dots := 0, 0
	for i, c := range f {
		switch {
		case c-'0' < 10:
			digits++
		case c == '.' && dots == 0:
			dots++
		case c == '-' && i == 0:
		default:
			return false
		}
	}
	return digits > 0
}

// isNull reports whether a field is one of Tstat's marks for "no value" in a
// column of numbers or addresses.
func isNull(f []byte) bool {
	switch string(f) {
	case "", "-", "--", "---", "?":
		return true
	}
	return false
}

func appendFloat(dst []byte, x float64) []byte {
	switch {
	case math.IsInf(x, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(x, -1):
		return append(dst, "-Infinity"...)
	}
	return strconv.AppendFloat(dst, x, 'g', -1, 64) // NaN is NaN to PostgreSQL too
}

// appendText appends a text with what COPY would take for something else
// escaped.
func appendText(dst, t []byte, sep byte) []byte {
	start := 0
	for i, c := range t {
		if c != '\\' && c > '\r' && c != sep {
			continue
		}
		var esc byte
		switch c {
		case '\\':
			esc = '\\'
		case '\t':
			esc = 't'
		case '\n':
			esc = 'n'
		case '\r':
			esc = 'r'
		case sep:
			esc = sep
		default:
			continue
		}
		dst = append(append(dst, t[start:i]...), '\\', esc)
		start = i + 1
	}
	return append(dst, t[start:]...)
}

// AppendTime appends a time as text.
func AppendTime(dst []byte, t time.Time) []byte { return new(calendar).append(dst, t.UnixMicro()) }

// calendar writes times. Those of a log are of one or two days, so it keeps
// the date.
type calendar struct {
	date []byte // with the T after it; nil: none yet
	day  int64  // since the epoch
}

// append appends microseconds since the epoch as 2006-01-02T15:04:05.000000+00.
// It has no blank: that may be the separator.
func (c *calendar) append(dst []byte, us int64) []byte {
	day, rest := us/86400e6, us%86400e6
	if rest < 0 {
		day, rest = day-1, rest+86400e6
	}
	if c.date == nil || day != c.day {
		y, m, d := civil(day)
		c.day, c.date = day, fmt.Appendf(c.date[:0], "%04d-%02d-%02dT", y, m, d)
	}
	dst = append(dst, c.date...)
	s := rest / 1e6
	dst = append(twoDigits(dst, s/3600), ':')
	dst = append(twoDigits(dst, s/60%60), ':')
	dst = twoDigits(dst, s%60)
	if f := rest % 1e6; f != 0 {
		dst = twoDigits(append(dst, '.'), f/1e4)
		dst = twoDigits(twoDigits(dst, f/100%100), f%100)
	}
	return append(dst, "+00"...)
}

func twoDigits(dst []byte, x int64) []byte { return append(dst, byte('0'+x/10), byte('0'+x%10)) }

// civil turns days since the epoch into a date of the Gregorian calendar, by
// counting in eras of 400 years that begin on 1 March.
func civil(days int64) (y, m, d int64) {
	days += 719468
	era := days / 146097
	doe := days - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = doy - (153*mp+2)/5 + 1
	m = mp + 3
	if m > 12 {
		m -= 12
	}
	y = yoe + era*400
	if m <= 2 {
		y++
	}
	return y, m, d
}

// str views bytes as a string for functions that do not keep it.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
