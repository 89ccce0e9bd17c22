package tstat

// batchRows is the capacity of a Batch in rows. At 130 columns its vectors and
// the text take half a MiB: they stay in the CPU's cache while a store reads
// them.
const batchRows = 256

// stride is the number of spare values of a vector. Without them, vectors would
// lie 2 KiB apart, and value i of all columns would compete for the same two
// sets of the CPU's first-level cache.
const stride = 8

// Vector holds the values of one column of a Batch, without the NULLs: value
// number i belongs to the i-th row whose Def is 1.
type Vector struct {
	Def []int16 // per row: 1 a value, 0 NULL (Parquet's definition levels)
	// One of these holds the values; its length is the number of rows less
	// the NULLs.
	Ints   []int64 // Int, Time
	Floats []float64
	Bools  []bool
	Texts  [][]byte
}

// vector is a Vector that is being filled: it has full length, and the batch
// counts its rows.
type vector struct {
	kind    Kind
	seconds bool // Time in seconds
	yt      bool // "--" is NULL too
	active  bool // the file has the column, and it is read
	hidden  bool // only for Batch.Decoded
	nulls   int
	def     []int16
	ints    []int64
	floats  []float64
	bools   []bool
	texts   [][]byte
	slow    *int // of the batch
	marks   bool // a NULL was written other than as "-"
}

func (v *vector) init(c Column) {
	v.kind, v.seconds = c.Kind, c.seconds
	v.yt = c.Dashes()
	v.active, v.nulls = false, 0
}

// activate prepares the vector for values. The slices are reused for later
// files.
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

// Batch is a run of rows of one file. It is valid until the next call of
// Reader.Next.
type Batch struct {
	Type    *LogType
	n       int
	cols    []vector
	lines   [][]byte // with newline
	rows    [][]byte // the parsed text: the line or its rewritten form, with newline
	fields  []Fields
	split   Fields // the fields of rows are parts of it
	maps    []*mapping
	odd     []bool
	slow    int     // fields other than plain decimal numbers, see Plain
	line    []int64 // line numbers in the file
	arena   []byte  // rewritten text
	escaped int64   // values that were escaped

	ends   []int64
	serial []int64
}

// Len returns the number of rows.
func (b *Batch) Len() int { return b.n }

// Line returns row i as Tstat wrote it, without the line end (LF or CR LF).
func (b *Batch) Line(i int) []byte { return b.lines[i][:len(b.lines[i])-1] }

// LineNumber returns the number of row i's line in its file, from 1.
func (b *Batch) LineNumber(i int) int64 { return b.line[i] }

// Row returns the text of row i without the newline, where each field ends in
// it, and the column of each field (-1 for a field that holds no value). Rows
// share the columns if, and only if, they have the same layout. The text is the
// original line, except for chat messages, whose dates are rewritten.
func (b *Batch) Row(i int) (text []byte, fields Fields, columns []int) {
	r := b.rows[i]
	return r[:len(r)-1], b.fields[i], b.maps[i].columns
}

// Fields holds the end of each field in a row's text.
type Fields []uint32

// Begin returns the start of field f: after the separator that ends the field
// before.
func (p Fields) Begin(f int) uint32 {
	if f == 0 {
		return 0
	}
	return p[f-1] + 1
}

// Plain reports whether all numbers, times and flags of row i are NULL or
// decimal numbers without exponent. Then integers have no superfluous zeros, so
// their text follows from their value.
func (b *Batch) Plain(i int) bool { return !b.odd[i] }

// OddNulls reports whether some row has a NULL in column c that is not written
// as "-", like "---".
func (b *Batch) OddNulls(c int) bool { return b.cols[c].marks }

// Separator returns the byte between the fields of a line.
func (t *LogType) Separator() byte { return t.sep }

// Raw returns the fields of row i by column, as Tstat wrote them; nil for a
// column without a field. It uses dst if that is long enough.
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

// Column returns the values of column c, an index into Reader.Columns, and
// whether the file has this column. Without the column, or if ReaderOptions.Use
// does not keep it, every row is NULL.
func (b *Batch) Column(c int) (Vector, bool) {
	if b.cols[c].hidden {
		return Vector{}, false
	}
	return b.Decoded(c)
}

// Decoded is Column for columns that ReaderOptions.Use keeps or only decodes.
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

// Keep removes the rows for which keep is false. keep must have an element for
// each row.
func (b *Batch) Keep(keep []bool) {
	n := 0
	for i := range b.n {
		if keep[i] {
			b.lines[n], b.rows[n], b.fields[n], b.maps[n] = b.lines[i], b.rows[i], b.fields[i], b.maps[i]
			b.odd[n], b.line[n] = b.odd[i], b.line[i]
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
		at := 0
		for i, d := range def {
			if keep[i] {
				def[at] = d
				v.nulls += 1 - int(d)
				at++
			}
		}
		for i := at; i < len(def); i++ {
			def[i] = 1
		}
	}
	b.n = n
}

// keepValues moves the values of kept rows to the front.
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
		v.marks = false
		if v.nulls > 0 {
			for j := range v.def[:b.n] {
				v.def[j] = 1
			}
			v.nulls = 0
		}
	}
	b.n, b.escaped, b.arena, b.split = 0, 0, b.arena[:0], b.split[:0]
}

// room returns the slice for the ends of the n fields of the current row.
func (b *Batch) room(n int) Fields {
	have := len(b.split)
	if have+n > cap(b.split) {
		// Earlier rows keep their part of the old array.
		b.split, have = make(Fields, 0, max(batchRows*n, 2*cap(b.split))), 0
	}
	b.split = b.split[:have+n]
	return b.split[have:]
}

// setNull makes the column NULL in the current row.
func (v *vector) setNull(row int) {
	v.def[row] = 0
	v.nulls++
}

// undo removes the first n fields of the current row, which turned out to be
// malformed.
func (b *Batch) undo(m *mapping, n int) {
	for _, f := range m.fields[:n] {
		if f.col >= 0 && b.cols[f.col].def[b.n] == 0 {
			b.cols[f.col].def[b.n] = 1
			b.cols[f.col].nulls--
		}
	}
}

// Ends returns the time at which each row's flow or period ended, in
// microseconds since the epoch; 0 if the row has no absolute time. Tstat writes
// a row at about that time.
//
// The source differs by type: tcp, video and streaming: last (2.2 to 2.4
// first_abs + durat); udp: the later of both directions' start + duration;
// http, dns, l3_bitrate, periodic: the row's time; mm, chat, skype: start +
// duration.
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

// endColumns are the columns from which the end of a row follows, in any type:
// start, duration and the microseconds of the duration's unit.
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

// addEnds raises the ends to start + durat.
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
		if d > 0 && d < maxTime { // neither NaN nor infinite
			end += int64(d)
		}
		b.ends[row] = max(b.ends[row], end)
	}
}
