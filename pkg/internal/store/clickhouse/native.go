package clickhouse

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// form is the encoding of a column's values in a Native block.
type form uint8

const (
	formInt     form = iota // Int64
	formFloat               // Float64
	formFlag                // UInt8, Bool
	formText                // String
	formWritten             // String: numbers and flags as Tstat wrote them
	formSeconds             // DateTime: seconds since the epoch, UInt32
	formMicros              // UInt32: the microseconds of the second
	formTime                // DateTime64(6): microseconds since the epoch, Int64
)

// formOf returns the form in which a column stores values of the given kind, and
// whether the column is Nullable. typ is the column's type, as in system.columns. ok
// is false if the column cannot store such values.
func formOf(typ string, kind tstat.Kind) (f form, nullable, ok bool) {
	plain := unwrap(typ, "LowCardinality")
	inner := unwrap(plain, "Nullable")
	nullable = inner != plain
	switch {
	case kind == tstat.Int && inner == "Int64":
		f, ok = formInt, true
	case kind == tstat.Float && inner == "Float64":
		f, ok = formFloat, true
	case kind == tstat.Bool && (inner == "UInt8" || inner == "Bool"):
		f, ok = formFlag, true
	case kind == tstat.Text && inner == "String":
		f, ok = formText, true
	case kind != tstat.Time && inner == "String": // the column was unknown when it was added to the table
		f, ok = formWritten, true
	case kind == tstat.Time && (inner == "DateTime" || strings.HasPrefix(inner, "DateTime(")):
		f, ok = formSeconds, true
	case kind == tstat.Time && strings.HasPrefix(inner, "DateTime64(6"):
		f, ok = formTime, true
	case kind == tstat.Time && inner == "UInt32":
		f, ok = formMicros, true
	}
	return f, nullable, ok
}

// unwrap returns X if typ has the form outer(X), as in Nullable(X). Otherwise it
// returns typ.
func unwrap(typ, outer string) string {
	if rest, ok := strings.CutPrefix(typ, outer+"("); ok && strings.HasSuffix(rest, ")") {
		return rest[:len(rest)-1]
	}
	return typ
}

// target is a table's column and the source of its values.
type target struct {
	name     string
	typ      string // on the server
	form     form
	nullable bool
	source   int // index into store.FileInfo.Columns
}

// column is a target with the values for the current block.
type column struct {
	target
	head  []byte // name and type, encoded
	nulls []byte // a byte per row: 1 for NULL
	data  []byte
}

// blockRows is the number of rows at which a block is sent. Each column of a
// block costs the server time, so blocks should not be small. With 130 columns a
// block has about 10 MiB.
const blockRows = 8192

// block collects rows by column in ClickHouse's Native format: the number of columns
// and rows, and for each column its name, type and values. In a Nullable column, the
// values are preceded by one byte per row, which is 1 for NULL.
type block struct {
	columns []column
	rows    int

	probe, folder string
	time          uint32
	id            uint64
	types         [4]string // of the store's own columns
}

// Ranges of the time types. DateTime ends in 2106. DateTime64(6) is limited to the years
// 1900 to 2299, because servers cannot show other times.
const (
	maxSeconds = math.MaxUint32
	minTime    = -2208988800 * 1e6
	maxTime    = 10413792000 * 1e6
)

// add appends the rows of b, except for those that the caller has marked and counted.
func (k *block) add(b *tstat.Batch, skip []bool, skipped int) {
	for i := range k.columns {
		k.columns[i].add(b, skip)
	}
	k.rows += b.Len() - skipped
}

func (c *column) add(b *tstat.Batch, skip []bool) {
	if c.form == formWritten {
		c.addWritten(b, skip)
		return
	}
	v, ok := b.Column(c.source)
	n := b.Len()
	if !ok {
		for i := range n {
			if skip == nil || !skip[i] {
				c.null()
			}
		}
		return
	}
	whole := skip == nil && len(v.Ints)+len(v.Floats)+len(v.Bools)+len(v.Texts) == n
	if whole {
		if c.nullable {
			c.nulls = slices.Grow(c.nulls, n)
			from := len(c.nulls)
			c.nulls = c.nulls[:from+n]
			clear(c.nulls[from:])
		}
		c.addAll(v)
		return
	}
	next := 0
	for i, def := range v.Def {
		switch {
		case skip != nil && skip[i]:
		case def == 0:
			c.null()
		default:
			if c.nullable {
				c.nulls = append(c.nulls, 0)
			}
			c.value(v, next)
		}
		next += int(def)
	}
}

// addWritten appends the column's field from each row of b, exactly as Tstat wrote it.
// It leaves out the rows that skip marks.
func (c *column) addWritten(b *tstat.Batch, skip []bool) {
	v, ok := b.Column(c.source)
	for i := range b.Len() {
		if skip != nil && skip[i] {
			continue
		}
		if !ok || v.Def[i] == 0 {
			c.null()
			continue
		}
		text, fields, columns := b.Row(i)
		f := slices.Index(columns, c.source)
		if c.nullable {
			c.nulls = append(c.nulls, 0)
		}
		c.data = appendString(c.data, string(text[fields.Begin(f):fields[f]]))
	}
}

// null appends NULL.
func (c *column) null() {
	if c.nullable {
		c.nulls = append(c.nulls, 1)
	}
	switch c.form {
	case formText, formWritten, formFlag:
		c.data = append(c.data, 0)
	case formSeconds, formMicros:
		c.data = append(c.data, 0, 0, 0, 0)
	default:
		c.data = append(c.data, 0, 0, 0, 0, 0, 0, 0, 0)
	}
}

// addAll appends all values of a vector, which must not contain NULL.
func (c *column) addAll(v tstat.Vector) {
	d := c.data
	switch c.form {
	case formInt, formTime:
		d = slices.Grow(d, 8*len(v.Ints))
		for _, x := range v.Ints {
			d = binary.LittleEndian.AppendUint64(d, uint64(x))
		}
	case formFloat:
		d = slices.Grow(d, 8*len(v.Floats))
		for _, x := range v.Floats {
			d = binary.LittleEndian.AppendUint64(d, math.Float64bits(x))
		}
	case formFlag:
		for _, x := range v.Bools {
			d = append(d, bit(x))
		}
	case formText:
		for _, x := range v.Texts {
			d = append(binary.AppendUvarint(d, uint64(len(x))), x...)
		}
	case formSeconds:
		for _, x := range v.Ints {
			d = binary.LittleEndian.AppendUint32(d, uint32(x/1e6))
		}
	case formMicros:
		for _, x := range v.Ints {
			d = binary.LittleEndian.AppendUint32(d, uint32(x%1e6))
		}
	}
	c.data = d
}

// value appends the i-th value of v, not counting NULLs.
func (c *column) value(v tstat.Vector, i int) {
	switch c.form {
	case formInt, formTime:
		c.data = binary.LittleEndian.AppendUint64(c.data, uint64(v.Ints[i]))
	case formFloat:
		c.data = binary.LittleEndian.AppendUint64(c.data, math.Float64bits(v.Floats[i]))
	case formFlag:
		c.data = append(c.data, bit(v.Bools[i]))
	case formText:
		c.data = append(binary.AppendUvarint(c.data, uint64(len(v.Texts[i]))), v.Texts[i]...)
	case formSeconds:
		c.data = binary.LittleEndian.AppendUint32(c.data, uint32(v.Ints[i]/1e6))
	case formMicros:
		c.data = binary.LittleEndian.AppendUint32(c.data, uint32(v.Ints[i]%1e6))
	}
}

func bit(x bool) byte {
	if x {
		return 1
	}
	return 0
}

// fits reports whether the column can hold a time, in microseconds since the
// epoch.
func (c *column) fits(us int64) bool {
	if c.form == formTime {
		return us >= minTime && us < maxTime
	}
	return us >= 0 && us/1e6 <= maxSeconds
}

// findUnfit finds the rows with a time that a column cannot hold. It returns a slice that
// marks these rows, or nil if there are none, and the reason for each.
func (k *block) findUnfit(b *tstat.Batch) (skip []bool, reasons map[int]string) {
	for i := range k.columns {
		c := &k.columns[i]
		if c.form != formSeconds && c.form != formTime {
			continue
		}
		v, ok := b.Column(c.source)
		if !ok || !slices.ContainsFunc(v.Ints, func(x int64) bool { return !c.fits(x) }) {
			continue
		}
		if skip == nil {
			skip, reasons = make([]bool, b.Len()), map[int]string{}
		}
		next := 0
		for row, def := range v.Def {
			if def == 1 && !c.fits(v.Ints[next]) && !skip[row] {
				skip[row] = true
				reasons[row] = fmt.Sprintf("column %s: the time is out of the range of %s", c.name, c.typ)
			}
			next += int(def)
		}
	}
	return skip, reasons
}

// appendTo appends the encoded block to out, and empties the block.
func (k *block) appendTo(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(k.types)+len(k.columns)))
	out = binary.AppendUvarint(out, uint64(k.rows))
	for i, own := range ownColumns {
		out = appendHead(out, own.name, k.types[i])
		for range k.rows {
			switch own.name {
			case colProbe:
				out = appendString(out, k.probe)
			case colFolder:
				out = appendString(out, k.folder)
			case colTime:
				out = binary.LittleEndian.AppendUint32(out, k.time)
			case colFile:
				out = binary.LittleEndian.AppendUint64(out, k.id)
			}
		}
	}
	for i := range k.columns {
		c := &k.columns[i]
		out = append(append(append(out, c.head...), c.nulls...), c.data...)
		c.nulls, c.data = c.nulls[:0], c.data[:0]
	}
	k.rows = 0
	return out
}

func appendHead(out []byte, name, typ string) []byte {
	// Send LowCardinality values as the inner type, which every server
	// accepts.
	return appendString(appendString(out, name), unwrap(typ, "LowCardinality"))
}

func appendString(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}
