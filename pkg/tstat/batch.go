package tstat

// batchRows is the capacity of a Batch in rows. With 130 columns, the vectors and the
// text occupy half a MiB, so they stay in the CPU's cache while a store reads them.
const batchRows = 256

// stride is the spare capacity of a vector, in values. Without it, vectors would lie 2
// KiB apart, and value i of every column would compete for the same two sets of the
// CPU's first-level cache.
const stride = 8

// Vector holds the values of one column in a Batch, without the NULLs. The value with
// index i belongs to the i-th row whose Def is 1.
type Vector struct {
	Def []int16 // per row: 1 for a value, 0 for NULL (Parquet's definition levels)
	// One of the slices below holds the values. Its length is the number of rows minus
	// the number of NULLs.
	Ints   []int64 // Int, Time
	Floats []float64
	Bools  []bool
	Texts  [][]byte
}

// vector is a Vector under construction. Once it is active, its slices have room for
// batchRows values; the Batch counts the rows.
type vector struct {
	kind    Kind
	seconds bool // a Time that Tstat writes in seconds
	yt      bool // "--" also means NULL, as in YouTube's columns
	active  bool // the file has the column, and its values are decoded
	hidden  bool // returned by Batch.Decoded, but not by Batch.Column
	nulls   int
	def     []int16
	ints    []int64
	floats  []float64
	bools   []bool
	texts   [][]byte
	slow    *int // points to Batch.slow
	oddNull bool // a NULL was not written as "-"
}

func (v *vector) init(c Column) {
	v.kind, v.seconds = c.Kind, c.seconds
	v.yt = c.Dashes()
	v.active, v.nulls = false, 0
}

// activate prepares the vector for values. Its slices are reused for other files.
func (v *vector) activate() {
	v.active = true
	if v.def == nil {
		v.def = make([]int16, batchRows)
	}
	for i := range v.def {
		v.def[i] = 1
	}
	switch v.kind {
	case Int, Time:
		if v.ints == nil {
			v.ints = make([]int64, batchRows, batchRows+stride)
		}
	case Float:
		if v.floats == nil {
			v.floats = make([]float64, batchRows, batchRows+stride)
		}
	case Bool:
		if v.bools == nil {
			v.bools = make([]bool, batchRows)
		}
	case Text:
		if v.texts == nil {
			v.texts = make([][]byte, batchRows)
		}
	}
}

// Batch is a sequence of consecutive rows from one file. It is valid until the next call
// to Reader.Next. It is not safe for concurrent use.
type Batch struct {
	Type    *LogType
	columns []Column
	n       int
	cols    []vector
	lines   [][]byte // with newline
	rows    [][]byte // the parsed text with newline: the line, or its rewritten form
	fields  []Fields
	split   Fields       // backing array of fields
	moved   [][]Replaced // replaced fields of each row; nil once Row has used them
	moves   []Replaced   // backing array of moved
	maps    []*mapping
	odd     []bool
	slow    int     // number of fields that are not plain; see Plain
	line    []int64 // line numbers in the file
	arena   []byte  // rewritten text
	escaped int64   // number of escaped text values

	ends   []int64
	serial []int64
}

// ColumnIndex returns the index of the named column in Reader.Columns, or -1. Unlike
// LogType.Column, it also finds optional and unknown columns that the file's header
// names.
func (b *Batch) ColumnIndex(name string) int {
	if c := b.Type.Column(name); c >= 0 {
		return c
	}
	for c := len(b.Type.Columns); c < len(b.columns); c++ {
		if b.columns[c].Name == name {
			return c
		}
	}
	return -1
}

// Len returns the number of rows.
func (b *Batch) Len() int { return b.n }

// Line returns row i's line, without the line ending (LF or CR LF). The line is as
// Tstat wrote it unless the Reader rewrites the file.
func (b *Batch) Line(i int) []byte { return b.lines[i][:len(b.lines[i])-1] }

// LineNumber returns row i's line number in the file, starting at 1.
func (b *Batch) LineNumber(i int) int64 { return b.line[i] }

// Row returns the text of row i without the newline, the end of each field in that text,
// and the column of each field. The column is -1 if the field holds no value or if
// ReaderOptions.Use does not keep the column. Rows share the columns slice if, and only
// if, they have the same layout. The text is the line that Line returns, except for chat
// messages, whose dates are rewritten.
func (b *Batch) Row(i int) (text []byte, fields Fields, columns []int) {
	r := b.rows[i]
	if b.moved[i] != nil {
		b.fields[i].move(b.moved[i])
		b.moved[i] = nil
	}
	return r[:len(r)-1], b.fields[i], b.maps[i].columns
}

// Fields holds the end of each field in a row's text: the index of the byte after the
// field.
type Fields []uint32

// Begin returns the start of field f, which is just after the previous field's
// separator.
func (p Fields) Begin(f int) uint32 {
	if f == 0 {
		return 0
	}
	return p[f-1] + 1
}

// move updates the ends of the fields after their row has been rewritten. replaced lists
// the fields with new text.
func (p Fields) move(replaced []Replaced) {
	for i, x := range replaced {
		next := len(p)
		if i+1 < len(replaced) {
			next = replaced[i+1].Field
		}
		shift := x.End - p[x.Field]
		for j := x.Field; j < next; j++ {
			p[j] += shift
		}
	}
}

// Plain reports whether all numbers, times and flags of row i are NULL or decimal
// numbers without an exponent. Integers in a plain row have no superfluous zeros, so
// their value determines their text.
func (b *Batch) Plain(i int) bool { return !b.odd[i] }

// OddNulls reports whether any row has a NULL in column c that is not written as "-",
// but for example as "---".
func (b *Batch) OddNulls(c int) bool { return b.cols[c].oddNull }

// Separator returns the byte that separates the fields of a line.
func (t *LogType) Separator() byte { return t.sep }

// Raw returns the fields of row i, indexed by column, as they are in the text that Row
// returns. The entry of a column without a field is nil. Raw reuses dst if dst has enough
// capacity.
func (b *Batch) Raw(i int, dst [][]byte) [][]byte {
	if cap(dst) < len(b.cols) {
		dst = make([][]byte, len(b.cols))
	}
	dst = dst[:len(b.cols)]
	clear(dst)
	text, fields, columns := b.Row(i)
	for f, c := range columns {
		if c >= 0 {
			dst[c] = text[fields.Begin(f):fields[f]:fields[f]]
		}
	}
	return dst
}

// Column returns the values of column c, an index into Reader.Columns. It returns false
// if the file lacks the column or ReaderOptions.Use does not keep it; every row is then
// NULL.
func (b *Batch) Column(c int) (Vector, bool) {
	if b.cols[c].hidden {
		return Vector{}, false
	}
	return b.Decoded(c)
}

// Decoded is like Column, but also returns the values of columns whose Use is Decoded.
func (b *Batch) Decoded(c int) (Vector, bool) {
	v := &b.cols[c]
	if !v.active {
		return Vector{}, false
	}
	n := b.n - v.nulls
	out := Vector{Def: v.def[:b.n]}
	switch v.kind {
	case Int, Time:
		out.Ints = v.ints[:n]
	case Float:
		out.Floats = v.floats[:n]
	case Bool:
		out.Bools = v.bools[:n]
	case Text:
		out.Texts = v.texts[:n]
	}
	return out, true
}

// Keep removes every row i whose keep[i] is false. The slice must have one element for
// each row.
func (b *Batch) Keep(keep []bool) {
	n := 0
	for i := range b.n {
		if keep[i] {
			b.lines[n], b.rows[n], b.fields[n], b.maps[n] = b.lines[i], b.rows[i], b.fields[i], b.maps[i]
			b.odd[n], b.line[n], b.moved[n] = b.odd[i], b.line[i], b.moved[i]
			n++
		}
	}
	for c := range b.cols {
		v := &b.cols[c]
		if !v.active {
			continue
		}
		def := v.def[:b.n]
		switch v.kind {
		case Int, Time:
			keepValues(v.ints, def, keep)
		case Float:
			keepValues(v.floats, def, keep)
		case Bool:
			keepValues(v.bools, def, keep)
		case Text:
			keepValues(v.texts, def, keep)
		}
		if v.nulls == 0 {
			continue
		}
		v.nulls = 0
		to := 0
		for i, d := range def {
			if keep[i] {
				def[to] = d
				v.nulls += 1 - int(d)
				to++
			}
		}
		for i := to; i < len(def); i++ {
			def[i] = 1
		}
	}
	b.n = n
}

// keepValues moves the values of every row i whose keep[i] is true to the front of the
// slice of values. Row i has a value if def[i] is 1.
func keepValues[T any](values []T, def []int16, keep []bool) {
	from, to := 0, 0
	for i, d := range def {
		if d == 0 {
			continue
		}
		if keep[i] {
			values[to] = values[from]
			to++
		}
		from++
	}
}

// reset empties the batch for the next rows of the same file.
func (b *Batch) reset() {
	for i := range b.cols {
		v := &b.cols[i]
		v.oddNull = false
		if v.nulls > 0 {
			for j := range v.def[:b.n] {
				v.def[j] = 1
			}
			v.nulls = 0
		}
	}
	b.n, b.escaped, b.arena, b.split, b.moves = 0, 0, b.arena[:0], b.split[:0], b.moves[:0]
}

// allocFields returns a slice of length n, for the ends of the fields of the current row.
func (b *Batch) allocFields(n int) Fields {
	have := len(b.split)
	if have+n > cap(b.split) {
		// The Fields of earlier rows still refer to the old array.
		b.split, have = make(Fields, 0, max(batchRows*n, 2*cap(b.split))), 0
	}
	b.split = b.split[:have+n]
	return b.split[have:]
}

// setNull makes the column NULL in a row, which must be the current row.
func (v *vector) setNull(row int) {
	v.def[row] = 0
	v.nulls++
}

// unsetNull makes the column not NULL in a row, so that a value can be stored. The row
// must be the current row.
func (v *vector) unsetNull(row int) {
	if v.def[row] == 0 {
		v.def[row] = 1
		v.nulls--
	}
}

// undo discards the current row after its first n fields have been parsed. It calls
// unsetNull for their columns, and releases the slice that allocFields returned.
func (b *Batch) undo(m *mapping, n int) {
	b.split = b.split[:len(b.split)-len(m.fields)]
	for _, f := range m.fields[:n] {
		if f.col >= 0 {
			b.cols[f.col].unsetNull(b.n)
		}
	}
}

// undoRow discards the current row after all of it has been parsed.
func (b *Batch) undoRow(m *mapping) {
	b.undo(m, len(m.fields))
	for _, c := range m.absent {
		b.cols[c].unsetNull(b.n)
	}
	if d := m.derive; d != nil {
		b.cols[d.first].unsetNull(b.n)
		b.cols[d.last].unsetNull(b.n)
	}
}

// Ends returns the time at which each row's flow or period ended, in microseconds since
// the epoch, or 0 if the row has no absolute time. Tstat writes a row at about that
// time.
//
// The source of the time depends on the log type: tcp, video and streaming use last
// (Tstat 2.2 to 2.4: first_abs + durat). udp uses start + duration of the direction
// that ended later. http, dns, l3_bitrate and periodic use the row's time. mm, chat and
// skype use start + duration.
func (b *Batch) Ends() []int64 {
	b.ends = b.ends[:0]
	for range b.n {
		b.ends = append(b.ends, 0)
	}
	for _, e := range endColumns {
		start := b.Type.Column(e.start)
		if start < 0 || !b.cols[start].active || b.cols[start].kind != Time {
			continue
		}
		durat := -1
		if e.durat != "" {
			if durat = b.Type.Column(e.durat); durat < 0 || !b.cols[durat].active {
				durat = -1
			}
		}
		b.addEnds(start, durat, e.unit)
	}
	return b.ends
}

// endColumns lists, for all log types, the columns from which a row's end is computed:
// the start and the duration, with the duration's unit in microseconds.
var endColumns = []struct {
	start, durat string
	unit         float64
}{
	{"last", "", 0},
	{"c_first_abs", "c_durat", 1e3}, // udp
	{"s_first_abs", "s_durat", 1e3},
	{"time_abs", "", 0},            // http
	{"time", "", 0},                // dns, l3_bitrate
	{"time_abs_start", "", 0},      // periodic
	{"starttime", "duration", 1e6}, // mm
	{"c_starttime", "c_duration", 1e6},
	{"s_starttime", "s_duration", 1e6},
	{"first_tm", "durat", 1e6}, // chat, skype
}

// addEnds sets each row's end to its start plus its duration, unless the end is already
// later. start and durat are the indexes of the two columns; durat is -1 if there is no
// duration. unit is the unit of the duration, in microseconds.
func (b *Batch) addEnds(start, durat int, unit float64) {
	s := &b.cols[start]
	si, di := 0, 0
	for row := range b.n {
		var d float64
		if durat >= 0 {
			v := &b.cols[durat]
			if v.def[row] == 1 {
				d = v.floats[di] * unit
				di++
			}
		}
		if s.def[row] == 0 {
			continue
		}
		end := s.ints[si]
		si++
		if d > 0 && d < maxTime { // excludes NaN and infinity
			end += int64(d)
		}
		b.ends[row] = max(b.ends[row], end)
	}
}
