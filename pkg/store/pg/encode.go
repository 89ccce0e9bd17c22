package pg

import (
	"bytes"
	"fmt"
	"math"
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

// Encoder writes rows in COPY's text form, with the separator of the log and
// "-" for NULL. Numbers go as Tstat wrote them: formatting them again costs
// more than all the rest, and could change them. Most rows have nothing but
// plain numbers between a few texts; there whole runs of fields are copied.
type Encoder struct {
	cells []cell
	raw   [][]byte
	sep   byte
	batch *tstat.Batch

	plan  []step // of the rows with the columns planned
	of    *int   // the first of these columns, which tells layouts apart
	ready bool   // the order of the cells is fixed
	odd   bool   // the batch has a number out of its column's range
}

// step is one step through the fields of a line.
type step struct {
	cell int // -1: a run, or fields to pass over
	n    int // fields; 0: the line has none for the cell
	copy bool
}

// cell is one column under way.
type cell struct {
	name     string
	op       op
	src      int
	min, max int64 // opRawInt, opInt
	numeric  bool  // a plain field can be copied as it is
	run      bool  // so is every field of the batch
	vec      tstat.Vector
	has      bool
	row      int // of vec that next belongs to
	next     int // value of vec
}

// at returns which value of the vector row i has, -1 for NULL.
func (c *cell) at(i int) int {
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

// NewEncoder returns an encoder of columns into targets. With asWritten a
// time stays the number that Tstat wrote, and every text but "-" stays a
// text: so it is in DBStream's own tables.
func NewEncoder(columns []tstat.Column, targets []Target, asWritten bool) *Encoder {
	e := new(Encoder)
	for _, t := range targets {
		c := cell{name: t.Name, src: t.Source, min: math.MinInt64, max: math.MaxInt64}
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
		e.cells = append(e.cells, c)
	}
	return e
}

// has reports whether a column of the file has a target.
func (e *Encoder) has(column int) bool {
	return slices.ContainsFunc(e.cells, func(c cell) bool { return c.src == column })
}

// Start prepares for the rows of b. The first call fixes the order of the
// columns: that of the fields.
func (e *Encoder) Start(b *tstat.Batch) {
	e.batch, e.sep = b, b.Type.Separator()
	if !e.ready {
		e.ready = true
		_, columns := b.Row(0)
		field := map[int]int{}
		for f, c := range columns {
			field[c] = f
		}
		place := func(c cell) int {
			if f, ok := field[c.src]; ok {
				return f
			}
			return len(columns)
		}
		slices.SortStableFunc(e.cells, func(a, b cell) int { return place(a) - place(b) })
	}
	e.odd = false
	for i := range e.cells {
		c := &e.cells[i]
		c.vec, c.has = b.Column(c.src)
		c.row, c.next = 0, 0
		if run := c.numeric && !b.OddNulls(c.src); run != c.run {
			c.run, e.of = run, nil // another plan
		}
		if c.op == opInt && c.min != math.MinInt64 && c.has {
			for _, x := range c.vec.Ints {
				if x < c.min || x > c.max {
					e.odd = true
				}
			}
		}
	}
}

// Names returns the columns of the table in the order of the rows, see Start.
func (e *Encoder) Names() []string {
	var names []string
	for _, c := range e.cells {
		names = append(names, c.name)
	}
	return names
}

// newPlan finds the way through lines with these columns. It fails if the
// fields are not in the order of the cells.
func (e *Encoder) newPlan(columns []int) {
	e.plan, e.of = e.plan[:0], &columns[0]
	if e.plan == nil {
		e.plan = []step{} // nil is no plan
	}
	f := 0
	for i, c := range e.cells {
		at := slices.Index(columns, c.src)
		if at >= 0 && at < f {
			e.plan = nil
			return
		}
		if at > f {
			e.plan = append(e.plan, step{cell: -1, n: at - f})
			f = at
		}
		last := len(e.plan) - 1
		switch {
		case at < 0:
			e.plan = append(e.plan, step{cell: i})
			continue
		case c.run && last >= 0 && e.plan[last].copy:
			e.plan[last].n++
		case c.run:
			e.plan = append(e.plan, step{cell: -1, n: 1, copy: true})
		default:
			e.plan = append(e.plan, step{cell: i, n: 1})
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

// Append appends the values of row i of the batch, a separator before each.
// After an error the text is unfinished.
func (e *Encoder) Append(dst []byte, i int) ([]byte, error) {
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
		if dst, ok = c.append(dst, e.raw[c.src], c.at(i), e.sep); !ok {
			return dst, &rowError{c.name, bytes.Clone(e.raw[c.src]), c.reason()}
		}
	}
	return dst, nil
}

// follow appends a row by the plan.
func (e *Encoder) follow(dst, text []byte, i int) ([]byte, error) {
	p := 0
	for _, s := range e.plan {
		q := p
		for n := s.n; n > 0; n-- {
			for q < len(text) && text[q] != e.sep {
				q++
			}
			q++
		}
		switch {
		case s.copy:
			dst = append(append(dst, e.sep), text[p:q-1]...)
		case s.cell >= 0:
			c := &e.cells[s.cell]
			var raw []byte
			if s.n > 0 {
				raw = text[p : q-1 : q-1]
			}
			var ok bool
			if dst, ok = c.append(append(dst, e.sep), raw, c.at(i), e.sep); !ok {
				return dst, &rowError{c.name, bytes.Clone(raw), c.reason()}
			}
		}
		p = q
	}
	return dst, nil
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
		return appendTime(dst, c.vec.Ints[at]), true
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

// AppendText appends a text in COPY's form with a separator.
func AppendText(dst []byte, t string, sep byte) []byte { return appendText(dst, []byte(t), sep) }

// AppendTime appends a time in COPY's form.
func AppendTime(dst []byte, t time.Time) []byte { return appendTime(dst, t.UnixMicro()) }

// appendTime appends microseconds since the epoch as 2006-01-02T15:04:05.000000+00.
// It has no blank: that may be the separator.
func appendTime(dst []byte, us int64) []byte {
	day, rest := us/86400e6, us%86400e6
	if rest < 0 {
		day, rest = day-1, rest+86400e6
	}
	y, m, d := civil(day)
	dst = digits(dst, y, 4)
	dst = digits(append(dst, '-'), m, 2)
	dst = digits(append(dst, '-'), d, 2)
	dst = digits(append(dst, 'T'), rest/3600e6, 2)
	dst = digits(append(dst, ':'), rest/60e6%60, 2)
	dst = digits(append(dst, ':'), rest/1e6%60, 2)
	dst = digits(append(dst, '.'), rest%1e6, 6)
	return append(dst, "+00"...)
}

func digits(dst []byte, x int64, n int) []byte {
	for range n {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; n > 0; i, n = i-1, n-1 {
		dst[i] = byte('0' + x%10)
		x /= 10
	}
	return dst
}

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
