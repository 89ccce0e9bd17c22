package pgdb

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// encoder encodes rows for COPY. It uses the binary form if that is requested
// and supports the types of all columns.
//
// Otherwise it uses the text form, with the separator of the log and "-" for
// NULL. In text form it copies numbers as Tstat wrote them, because formatting
// them again would cost more than everything else. Most fields are plain
// numbers, with a few strings in between, so it copies whole runs of numbers at
// once.
type encoder struct {
	cells   []cell   // in the order of the fields
	idle    []cell   // of columns that have had no values so far
	sources []bool   // per column of the file: whether it has a target
	inet    []string // the table's address columns
	sep     byte
	batch   *tstat.Batch

	layout     *int   // identifies the layout of the current line: the address of its column list
	row        []byte // the current line
	fields     tstat.Fields
	plan       []step // for lines of this layout
	outOfRange bool   // the batch has a number outside the range of its column

	binary  bool
	lanes   []lane // of the cells
	byField bool   // some cell has byField
	text    []byte // of a value
}

// step is a part of the plan for encoding a line: it encodes one cell or copies a run of
// fields.
type step struct {
	cell        int // index of the cell, or -1 for a run of fields
	first, last int // the first and last field of the run
}

// cell is the state of the encoder for one column of the table.
type cell struct {
	target   sqlstore.Target
	op       op
	min, max int64 // opRawInt, opInt
	numeric  bool  // a plain field can be copied unchanged
	run      bool  // every field of the batch can be copied unchanged
	vec      tstat.Vector
	has      bool
	dense    bool // no value in the batch is NULL
	row      int  // row to which next belongs
	next     int  // index of the next value in vec
	from     int  // index of the field in the current line, or -1
	calendar tstat.Calendar

	// For the binary form:
	size    int  // of a value, in bytes
	byField bool // encode the text of the field instead of the vector's value
}

// index returns the index in c.vec of the value in row i, or -1 for NULL. i must not
// decrease from call to call.
func (c *cell) index(i int) int {
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
	opFloat           // the field, if it is plain; otherwise from the vector
	opInet            // the address, checked
	// The other operations copy the field, regardless of the column's kind
	// in Tstat.
	opRawText
	opRawInt
	opRawFloat
)

// newEncoder returns an encoder that encodes columns for targets, in binary
// form if requested and possible. For asWritten see RowOptions.AsWritten.
func newEncoder(columns []tstat.Column, targets []sqlstore.Target, asWritten, binary bool) *encoder {
	e := &encoder{binary: binary && canBinary(targets), sources: make([]bool, len(columns))}
	for _, t := range targets {
		e.sources[t.Source] = true
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
			e.inet = append(e.inet, t.Name)
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
func (e *encoder) has(column int) bool { return e.sources[column] }

// start prepares e for the rows of b, and reports whether the result of e.columns has
// changed. It leaves out columns that have had no values so far, since every value in a
// COPY, even NULL, costs the server time. It puts the other columns in the order of the
// log's fields.
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
		e.layout = nil
		_, _, columns := b.Row(0)
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
	e.outOfRange, e.lanes = false, e.lanes[:0]
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
			c.run, e.layout = run, nil // needs another plan
		}
		if c.op == opInt && c.min != math.MinInt64 && c.has {
			// The size of the range from min to max is a power of
			// two, so x-min has a higher bit set for any other x.
			var beyond uint64
			for _, x := range c.vec.Ints {
				beyond |= uint64(x - c.min)
			}
			e.outOfRange = e.outOfRange || beyond > uint64(c.max-c.min)
		}
	}
	return changed
}

// columns returns the columns of the table in the order of the encoded values,
// see start.
func (e *encoder) columns() []sqlstore.Target {
	var cols []sqlstore.Target
	for _, c := range e.cells {
		cols = append(cols, c.target)
	}
	return cols
}

// setLine makes row i of the batch the current line.
func (e *encoder) setLine(i int) {
	var columns []int
	if e.row, e.fields, columns = e.batch.Row(i); e.layout == &columns[0] {
		return
	}
	e.layout, e.plan = &columns[0], e.plan[:0]
	for i := range e.cells {
		c := &e.cells[i]
		c.from = slices.Index(columns, c.target.Source)
		last := len(e.plan) - 1
		switch {
		case !c.run || c.from < 0:
			e.plan = append(e.plan, step{cell: i})
		case last >= 0 && e.plan[last].cell < 0 && e.plan[last].last == c.from-1:
			e.plan[last].last++
		default:
			e.plan = append(e.plan, step{-1, c.from, c.from})
		}
	}
}

// field returns the field of a cell in the current line, or nil if the line lacks it.
func (e *encoder) field(c *cell) []byte {
	if c.from < 0 {
		return nil
	}
	return e.row[e.fields.Begin(c.from):e.fields[c.from]:e.fields[c.from]]
}

// rowError reports a value that a column cannot hold.
type rowError struct {
	column string
	value  []byte
	reason string
	text   bool // the value replaces an address, see isText

	private bool // Error does not quote the value
}

func (e *rowError) Error() string {
	if e.private {
		return fmt.Sprintf("column %s: %s", e.column, e.reason)
	}
	return fmt.Sprintf("column %s: %s: %q", e.column, e.reason, e.value[:min(len(e.value), 80)])
}

// append appends the values of row i of the batch. In text form each value
// follows a separator. After an error dst has an incomplete row.
func (e *encoder) append(dst []byte, i int) ([]byte, error) {
	if e.binary {
		return e.appendBinary(dst, i)
	}
	e.setLine(i)
	if e.batch.Plain(i) && !e.outOfRange {
		for _, s := range e.plan {
			dst = append(dst, e.sep)
			if s.cell < 0 {
				dst = append(dst, e.row[e.fields.Begin(s.first):e.fields[s.last]]...)
				continue
			}
			var err error
			if dst, err = e.appendCellText(dst, s.cell, i); err != nil {
				return dst, err
			}
		}
		return dst, nil
	}
	for j := range e.cells {
		var err error
		if dst, err = e.appendCellText(append(dst, e.sep), j, i); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// appendCellText appends the value of a cell in row i, the current line, in
// text form.
func (e *encoder) appendCellText(dst []byte, cell, i int) ([]byte, error) {
	c := &e.cells[cell]
	field := e.field(c)
	dst, ok := c.append(dst, field, c.index(i), e.sep)
	if !ok {
		return dst, c.rowError(field)
	}
	return dst, nil
}

func (c *cell) rowError(field []byte) error {
	return &rowError{column: c.target.Name, value: bytes.Clone(field), reason: c.reason(), text: c.op == opInet && isText(field)}
}

// isText reports whether an invalid value in an address column is a deliberate
// replacement: a hash, a name, or an address with masked digits. It returns false for an
// address with a zone and for a damaged address. A damaged address has only characters
// that occur in addresses, or contains bytes that are not valid in text.
func isText(field []byte) bool {
	if !utf8.Valid(field) || bytes.ContainsFunc(field, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return false
	}
	if a, err := netip.ParseAddr(tstat.String(field)); err == nil && a.Zone() != "" {
		return false
	}
	const digits, hex = "0123456789", "0123456789abcdefABCDEF"
	if len(bytes.Trim(field, hex)) == 0 {
		return len(bytes.Trim(field, digits)) > 0
	}
	return len(bytes.Trim(field, hex+".:")) > 0
}

// reason says why the column of c cannot hold a value.
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

// append appends one value in text form. Depending on c.op, it takes the value from the
// line or from c.vec. raw is the field in the line, or nil if the line lacks it. at is
// the index in c.vec, or -1 for NULL. append returns false if the column cannot hold the
// value.
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
		return appendTime(dst, &c.calendar, c.vec.Ints[at]), true
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
		if f == nil || tstat.IsNull(f) {
			return append(dst, null...), true
		}
		// inet cannot hold a zone, as in fe80::1%eth0.
		a, err := netip.ParseAddr(tstat.String(f))
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
		if tstat.IsNull(raw) {
			return append(dst, null...), true
		}
		if at >= 0 && c.vec.Floats != nil {
			return appendFloat(dst, c.vec.Floats[at]), true
		}
		x, err := strconv.ParseFloat(tstat.String(raw), 64)
		return appendFloat(dst, x), err == nil && !bytes.ContainsAny(raw, "_xXpP")
	default:
		if len(raw) == 1 && raw[0] == '-' {
			return append(dst, null...), true
		}
		if at >= 0 && c.vec.Texts != nil { // escaped where necessary
			raw = c.vec.Texts[at]
		}
		return appendText(dst, raw, sep), true
	}
}

// appendDerived appends a value that has no field in the line: a time computed
// for logs of Tstat 2.2 to 2.4.
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
