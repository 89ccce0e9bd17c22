package parquetfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// allTypes has a column of each type.
var allTypes = Schema{Name: "root", CreatedBy: "a test", Columns: []Column{
	{"i", Int64}, {"d", Double}, {"b", Boolean}, {"t", Timestamp}, {"s", String},
}}

// set sets the values of a column of g. values is a slice of int64, float64,
// bool or string with a value for each row whose def is 1. If def is nil, all
// rows have a value.
func set(g *RowGroup, column int, values any, def []int16) {
	v := &g.Values[column]
	n := 0
	switch values := values.(type) {
	case []int64:
		v.Ints, n = append(v.Ints, values...), len(values)
	case []float64:
		v.Floats, n = append(v.Floats, values...), len(values)
	case []bool:
		v.Bools, n = append(v.Bools, values...), len(values)
	case []string:
		n = len(values)
		for _, s := range values {
			v.Text = append(v.Text, s...)
			v.Ends = append(v.Ends, uint32(len(v.Text)))
		}
	}
	g.Rows = n
	if def != nil {
		v.Def, v.Nulls = append(v.Def, def...), len(def)-n
		g.Rows = len(def)
	}
}

// write writes row groups and returns the file.
func write(t testing.TB, sc Schema, groups ...*RowGroup) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, sc)
	for i, g := range groups {
		w.Add(g, i%2 == 0)
	}
	for w.Pending() > 0 {
		if _, err := w.Finish(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close([][2]string{{"key", "value"}, {"empty", ""}}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// column is a column chunk as a reader sees it.
type column struct {
	def    []int16
	values any
	stats  string
}

// read reads a file with arrow-go, and returns the columns of its row groups.
func read(t testing.TB, data []byte) (*file.Reader, [][]column) {
	t.Helper()
	r, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var groups [][]column
	for i := range r.NumRowGroups() {
		rg := r.RowGroup(i)
		rows := int(rg.NumRows())
		var cols []column
		for j := range rg.NumColumns() {
			cr, err := rg.Column(j)
			if err != nil {
				t.Fatal(err)
			}
			c := column{def: make([]int16, rows)}
			switch cr := cr.(type) {
			case *file.Int64ColumnChunkReader:
				c.values = readColumn(t, cr.ReadBatch, c.def)
			case *file.Float64ColumnChunkReader:
				var bits []uint64 // NaN differs from itself
				for _, x := range readColumn(t, cr.ReadBatch, c.def) {
					bits = append(bits, math.Float64bits(x))
				}
				c.values = bits
			case *file.BooleanColumnChunkReader:
				c.values = readColumn(t, cr.ReadBatch, c.def)
			case *file.ByteArrayColumnChunkReader:
				var texts []string
				for _, s := range readColumn(t, cr.ReadBatch, c.def) {
					texts = append(texts, string(s))
				}
				c.values = texts
			}
			c.stats = statistics(t, rg, j)
			cols = append(cols, c)
		}
		groups = append(groups, cols)
	}
	return r, groups
}

// readColumn reads a column chunk page by page, because texts are valid only as
// long as their page.
func readColumn[T any](t testing.TB, read func(int64, []T, []int16, []int16) (int64, int, error), def []int16) []T {
	t.Helper()
	var all []T
	for len(def) > 0 {
		values := make([]T, len(def))
		n, have, err := read(int64(len(def)), values, def, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Fatalf("%d rows are missing", len(def))
		}
		for _, v := range values[:have] {
			if s, ok := any(v).(parquet.ByteArray); ok {
				v = any(parquet.ByteArray(bytes.Clone(s))).(T)
			}
			all = append(all, v)
		}
		def = def[n:]
	}
	return all
}

func statistics(t testing.TB, rg *file.RowGroupReader, column int) string {
	t.Helper()
	cc, err := rg.MetaData().ColumnChunk(column)
	if err != nil {
		t.Fatal(err)
	}
	st, err := cc.Statistics()
	if err != nil {
		t.Fatal(err)
	}
	if st == nil {
		return "none"
	}
	s := fmt.Sprintf("%d nulls", st.NullCount())
	if st.HasMinMax() {
		s += fmt.Sprintf(", %x to %x", st.EncodeMin(), st.EncodeMax())
	}
	return s
}

// encodings returns the encodings that the metadata names for the data pages of
// a column in the first row group.
func encodings(t testing.TB, data []byte, column int) []parquet.Encoding {
	t.Helper()
	r, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	cc, err := r.RowGroup(0).MetaData().ColumnChunk(column)
	if err != nil {
		t.Fatal(err)
	}
	var es []parquet.Encoding
	for _, s := range cc.EncodingStats() {
		es = append(es, s.Encoding)
	}
	return es
}

func repeat[T any](n int, f func(i int) T) []T {
	v := make([]T, n)
	for i := range v {
		v[i] = f(i)
	}
	return v
}

// TestWrittenRowsAreReadBack writes values with each encoding, and checks values, NULLs and
// statistics as arrow-go reads them.
func TestWrittenRowsAreReadBack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const many = pageRows*3/2 + 77
	byDictionary := []parquet.Encoding{parquet.Encodings.Plain, parquet.Encodings.RLEDict}
	byDelta := []parquet.Encoding{parquet.Encodings.DeltaBinaryPacked}
	byPlain := []parquet.Encoding{parquet.Encodings.Plain}
	for _, c := range []struct {
		name     string
		typ      Type
		values   any
		encoding []parquet.Encoding
		min, max any // expected statistics; nil: none
	}{
		{"no values", Int64, []int64(nil), byDelta, nil, nil},
		{"one", Int64, []int64{-5}, byDelta, int64(-5), int64(-5)},
		{"extremes", Int64, []int64{math.MinInt64, math.MaxInt64, 0, -1, math.MaxInt64}, byDelta, int64(math.MinInt64), int64(math.MaxInt64)},
		{"constant", Int64, repeat(many, func(int) int64 { return 7 }), byDictionary, int64(7), int64(7)},
		{"small range", Int64, repeat(many, func(int) int64 { return random.Int64N(300) - 150 }), byDictionary, int64(-150), int64(149)},
		{"wide range", Int64, repeat(many, func(i int) int64 { return int64(i%400) << 40 }), byDictionary, int64(0), int64(399 << 40)},
		{"too many", Int64, repeat(many, func(i int) int64 { return int64(i/8%4097) << 40 }), byDelta, 0, 0},
		{"runs", Int64, repeat(many, func(i int) int64 { return int64(i / 50 % 7) }), byDictionary, int64(0), int64(6)},
		{"ascending", Int64, repeat(many, func(i int) int64 { return int64(i) * 1e9 }), byDelta, int64(0), int64(many-1) * 1e9},
		{"random", Int64, repeat(many, func(i int) int64 { return int64(random.Uint64()) | 1<<62&^(-1<<63) }), byDelta, 0, 0},
		{"times", Timestamp, repeat(many, func(i int) int64 { return 1458855410904765 + int64(i)*random.Int64N(3) }), byDelta, 0, 0},
		{"floats", Double, repeat(many, func(i int) float64 { return float64(i) / 7 }), byPlain, math.Copysign(0, -1), float64(many-1) / 7},
		{"few floats", Double, repeat(many, func(i int) float64 { return float64(i%9) / 7 }), byDictionary, math.Copysign(0, -1), 8.0 / 7},
		{"negative zero", Double, []float64{math.Copysign(0, -1)}, byPlain, math.Copysign(0, -1), 0.0},
		{"zero", Double, []float64{0}, byPlain, math.Copysign(0, -1), 0.0},
		{"zeros", Double, repeat(many, func(i int) float64 { return math.Copysign(0, float64(i%2)-0.5) }), byDictionary, math.Copysign(0, -1), 0.0},
		{"infinite", Double, []float64{1, math.Inf(-1), math.Inf(1)}, byPlain, math.Inf(-1), math.Inf(1)},
		{"NaN", Double, []float64{math.NaN(), 1}, byPlain, nil, nil},
		{"NaN behind", Double, []float64{1, 2, math.NaN()}, byPlain, nil, nil},
		{"kinds of NaN", Double, repeat(many, func(i int) float64 { return math.Float64frombits(0x7ff8000000000001 + uint64(i%3)) }), byDictionary, nil, nil},
		{"all true", Boolean, repeat(many, func(int) bool { return true }), byPlain, true, true},
		{"bools", Boolean, repeat(many, func(i int) bool { return random.IntN(3) == 0 }), byPlain, false, true},
		{"texts", String, repeat(many, func(i int) string { return fmt.Sprintf("host%d.example.com", random.IntN(500)) }), byDictionary, "host0.example.com", "host99.example.com"},
		{"unique texts", String, repeat(many, func(i int) string { return fmt.Sprintf("session %d", i) }), byPlain, "session 0", "session 9999"},
		{"empty texts", String, repeat(many, func(int) string { return "" }), byDictionary, "", ""},
		{"one empty text", String, []string{""}, byPlain, "", ""},
		{"bytes above ASCII", String, []string{"z", "é", "\U0010ffff"}, byPlain, "z", "\U0010ffff"},
		{"long texts", String, repeat(100, func(i int) string { return strings.Repeat("x", 40000+i) }), byPlain, nil, nil},
		{"long dictionary", String, repeat(many, func(i int) string { return strings.Repeat("x", 1000) + fmt.Sprint(i%2000) }), byPlain,
			strings.Repeat("x", 1000) + "0", strings.Repeat("x", 1000) + "999"},
	} {
		for _, nulls := range []string{"none", "some", "runs", "all but"} {
			t.Run(c.name+", NULL "+nulls, func(t *testing.T) {
				n := reflect.ValueOf(c.values).Len()
				var def []int16
				switch {
				case nulls == "none":
					if n == 0 {
						return // an empty row group
					}
				case nulls == "all but":
					def = append(make([]int16, pageRows*3/2), repeat(n, func(int) int16 { return 1 })...)
				default:
					for have := 0; have < n; {
						run := 1
						if nulls == "runs" {
							run = 1 + random.IntN(40)
						}
						for range random.IntN(2 * run) {
							def = append(def, 0)
						}
						for range min(run, n-have) {
							def = append(def, 1)
							have++
						}
					}
					def = append(def, 0)
				}
				g := new(RowGroup)
				g.Reset(1)
				set(g, 0, c.values, def)
				data := write(t, Schema{Name: "root", Columns: []Column{{"c", c.typ}}}, g)
				_, groups := read(t, data)
				got := groups[0][0]
				if def == nil {
					def = repeat(n, func(int) int16 { return 1 })
				}
				if !slices.Equal(got.def, def) {
					t.Error("other rows are NULL")
				}
				if want := bitsOf(c.values); n > 0 && !reflect.DeepEqual(got.values, want) {
					t.Errorf("other values: %.100v, want %.100v", got.values, want)
				}
				if got := encodings(t, data, 0); !slices.Equal(got, c.encoding) {
					t.Errorf("encodings %v, want %v", got, c.encoding)
				}
				if c.min == 0 { // random values
					return
				}
				want := fmt.Sprintf("%d nulls", len(def)-n)
				if c.min != nil {
					want += fmt.Sprintf(", %x to %x", plainValue(c.min), plainValue(c.max))
				}
				if got.stats != want {
					t.Errorf("statistics %.200s\nwant       %.200s", got.stats, want)
				}
			})
		}
	}
}

// bitsOf returns values as read does: floats as their bits.
func bitsOf(values any) any {
	if v, ok := values.([]float64); ok {
		return repeat(len(v), func(i int) uint64 { return math.Float64bits(v[i]) })
	}
	return values
}

func plainValue(v any) []byte {
	switch v := v.(type) {
	case int64:
		return binary.LittleEndian.AppendUint64(nil, uint64(v))
	case float64:
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v))
	case bool:
		if v {
			return []byte{1}
		}
		return []byte{0}
	default:
		return []byte(v.(string))
	}
}

// TestMetadata checks the metadata of the whole file.
func TestMetadata(t *testing.T) {
	groups := repeat(3, func(i int) *RowGroup {
		g := new(RowGroup)
		g.Reset(5)
		for j, v := range []any{[]int64{1, 2}, []float64{1, 2}, []bool{true, false}, []int64{1, 2}, []string{"a", "b"}} {
			set(g, j, v, nil)
		}
		return g
	})
	data := write(t, allTypes, groups...)
	r, _ := read(t, data)
	m := r.MetaData()
	if m.NumRows != 6 || m.NumRowGroups() != 3 || m.GetCreatedBy() != "a test" || m.Version() != parquet.V2_LATEST {
		t.Errorf("%d rows, %d groups, by %q, version %v", m.NumRows, m.NumRowGroups(), m.GetCreatedBy(), m.Version())
	}
	for key, want := range map[string]string{"key": "value", "empty": ""} {
		if v := m.KeyValueMetadata().FindValue(key); v == nil || *v != want {
			t.Errorf("metadata %s: %v", key, v)
		}
	}
	if root := arrowSchema(t); !m.Schema.Root().Equals(root) {
		t.Errorf("schema %v", m.Schema)
	}
	at := int64(len(magic))
	for i, rg := range m.RowGroups {
		if rg.GetFileOffset() != at {
			t.Errorf("row group %d at %d, want %d", i, rg.GetFileOffset(), at)
		}
		raw := int64(0)
		for _, c := range rg.Columns {
			start := c.MetaData.DataPageOffset
			if d := c.MetaData.DictionaryPageOffset; d != nil {
				start = *d
			}
			if start != at || c.MetaData.Codec.String() != "ZSTD" {
				t.Errorf("row group %d, column %v: at %d, want %d; codec %v", i, c.MetaData.PathInSchema, start, at, c.MetaData.Codec)
			}
			at += c.MetaData.TotalCompressedSize
			raw += c.MetaData.TotalUncompressedSize
		}
		if rg.TotalByteSize != raw || rg.GetTotalCompressedSize() != at-rg.GetFileOffset() {
			t.Errorf("row group %d: %d bytes, compressed %d", i, rg.TotalByteSize, rg.GetTotalCompressedSize())
		}
	}
	empty := write(t, allTypes)
	if r, groups := read(t, empty); r.NumRows() != 0 || len(groups) != 0 {
		t.Errorf("an empty file has %d rows, %d row groups", r.NumRows(), len(groups))
	}
}

func arrowSchema(t testing.TB) *schema.GroupNode {
	t.Helper()
	timestamp, err := schema.NewPrimitiveNodeLogical("t", parquet.Repetitions.Optional,
		schema.NewTimestampLogicalType(true, schema.TimeUnitMicros), parquet.Types.Int64, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	text, err := schema.NewPrimitiveNodeLogical("s", parquet.Repetitions.Optional, schema.StringLogicalType{}, parquet.Types.ByteArray, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	root, err := schema.NewGroupNode("root", parquet.Repetitions.Required, schema.FieldList{
		schema.NewInt64Node("i", parquet.Repetitions.Optional, -1),
		schema.NewFloat64Node("d", parquet.Repetitions.Optional, -1),
		schema.NewBooleanNode("b", parquet.Repetitions.Optional, -1),
		timestamp, text,
	}, -1)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// arrowWrite writes row groups of allTypes with arrow-go.
func arrowWrite(t testing.TB, groups ...*RowGroup) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := file.NewParquetWriterWithError(&out, arrowSchema(t), file.WithWriterProps(parquet.NewWriterProperties(
		parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCreatedBy("a test"))))
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		rg, err := w.AppendRowGroupChecked()
		if err != nil {
			t.Fatal(err)
		}
		for i := range g.Values {
			v := &g.Values[i]
			def := v.Def
			if v.Nulls == 0 {
				def = repeat(g.Rows, func(int) int16 { return 1 })
			}
			cw, err := rg.NextColumn()
			if err != nil {
				t.Fatal(err)
			}
			switch cw := cw.(type) {
			case *file.Int64ColumnChunkWriter:
				_, err = cw.WriteBatch(v.Ints, def, nil)
			case *file.Float64ColumnChunkWriter:
				_, err = cw.WriteBatch(v.Floats, def, nil)
			case *file.BooleanColumnChunkWriter:
				_, err = cw.WriteBatch(v.Bools, def, nil)
			case *file.ByteArrayColumnChunkWriter:
				var texts []parquet.ByteArray
				start := uint32(0)
				for _, end := range v.Ends {
					texts = append(texts, v.Text[start:end:end])
					start = end
				}
				_, err = cw.WriteBatch(texts, def, nil)
			}
			if err = errors.Join(err, cw.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if err := rg.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzAgainstArrow checks that a reader sees the same in a file of this package
// and in a file of arrow-go with the same row groups.
func FuzzAgainstArrow(f *testing.F) {
	for seed := range uint64(12) {
		f.Add(seed, uint16(seed*seed*150), byte(seed), []byte("ab\x00\xffé-"))
	}
	f.Fuzz(func(t *testing.T, seed uint64, rows uint16, shape byte, alphabet []byte) {
		random := rand.New(rand.NewPCG(seed, uint64(shape)))
		if rows == 0 {
			return
		}
		groups := repeat(1+int(shape)%3, func(int) *RowGroup { return randomGroup(random, int(rows), alphabet) })
		_, got := read(t, write(t, allTypes, groups...))
		_, want := read(t, arrowWrite(t, groups...))
		if len(got) != len(want) {
			t.Fatalf("%d row groups, want %d", len(got), len(want))
		}
		for i := range want {
			for j := range want[i] {
				if slices.ContainsFunc(groups[i].Values[j].Floats, math.IsNaN) {
					want[i][j].stats = fmt.Sprintf("%d nulls", groups[i].Values[j].Nulls)
				}
				if !reflect.DeepEqual(got[i][j], want[i][j]) {
					t.Errorf("row group %d, column %s:\ngot  %.200v\nwant %.200v", i, allTypes.Columns[j].Name, got[i][j], want[i][j])
				}
			}
		}
	})
}

// randomGroup returns rows whose columns have few or many distinct values, runs
// and NULLs.
func randomGroup(random *rand.Rand, rows int, alphabet []byte) *RowGroup {
	g := new(RowGroup)
	g.Reset(5)
	for i := range g.Values {
		var def []int16
		n := rows
		if nulls := random.IntN(4); nulls > 0 { // of 3
			def, n = make([]int16, rows), 0
			for r := 0; r < rows; {
				d := int16(1)
				if random.IntN(3) < nulls {
					d = 0
				}
				for range min(1+random.IntN(1+random.IntN(60)), rows-r) {
					def[r] = d
					n += int(d)
					r++
				}
			}
			if n == rows {
				def = nil
			}
		}
		different := 1 + random.Uint64N(1<<random.IntN(20))
		run, left, offset, shift := 1+random.IntN(30), 0, random.Uint64(), random.IntN(64)
		value := uint64(0)
		next := func() uint64 {
			if left--; left < 0 {
				left = random.IntN(run)
				value = random.Uint64N(different)<<shift + offset
			}
			return value
		}
		switch allTypes.Columns[i].Type {
		case Int64, Timestamp:
			set(g, i, repeat(n, func(int) int64 { return int64(next()) }), def)
		case Double:
			whole := random.IntN(2) == 0
			set(g, i, repeat(n, func(int) float64 {
				if whole {
					return float64(int64(next()))
				}
				return math.Float64frombits(next())
			}), def)
		case Boolean:
			set(g, i, repeat(n, func(int) bool { return next()%2 == 0 }), def)
		case String:
			set(g, i, repeat(n, func(int) string {
				x := next()
				s := []byte(fmt.Sprint(x))[:x%7]
				for ; x > 0 && len(alphabet) > 0; x /= 1 << 20 {
					s = append(s, alphabet[x%uint64(len(alphabet))])
				}
				return string(s)
			}), def)
		}
	}
	g.Rows = rows
	return g
}

// TestRowGroupCanBeReused checks that a row group can be reused for rows of other columns.
func TestRowGroupCanBeReused(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	g := new(RowGroup)
	for range 5 {
		want := randomGroup(random, 5000, []byte("abc"))
		g.Reset(len(want.Values))
		g.Rows = want.Rows
		for i := range want.Values {
			from, to := &want.Values[i], &g.Values[i]
			to.Ints, to.Floats, to.Bools = append(to.Ints, from.Ints...), append(to.Floats, from.Floats...), append(to.Bools, from.Bools...)
			to.Text, to.Ends = append(to.Text, from.Text...), append(to.Ends, from.Ends...)
			to.Def, to.Nulls = append(to.Def, from.Def...), from.Nulls
		}
		if !bytes.Equal(write(t, allTypes, g), write(t, allTypes, want)) {
			t.Error("files differ")
		}
	}
}

// TestPanicBecomesError checks that a panic while encoding a column becomes an
// error.
func TestPanicBecomesError(t *testing.T) {
	for _, inBackground := range []bool{false, true} {
		g := new(RowGroup)
		g.Reset(5)
		for j, v := range []any{[]int64{1}, []float64{1}, []bool{true}, []int64{1}, []string{"a"}} {
			set(g, j, v, nil)
		}
		g.Values[3].Ints = append(g.Values[3].Ints, 2) // more values than rows
		w := NewWriter(io.Discard, allTypes)
		w.Add(g, inBackground)
		if _, err := w.Finish(); err == nil || !strings.Contains(err.Error(), "column t: internal error") {
			t.Errorf("got %v", err)
		}
		if groups := w.Abort(); len(groups) != 1 || groups[0] != g {
			t.Errorf("Abort returned %v", groups)
		}
	}
}

// TestAbortWaitsForEncoders checks with the race detector that no goroutine uses the row
// groups that Abort returned.
func TestAbortWaitsForEncoders(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	before := runtime.NumGoroutine()
	for range 20 {
		w := NewWriter(io.Discard, allTypes)
		for range 3 {
			w.Add(randomGroup(random, 20000, []byte("abc")), true)
		}
		groups := w.Abort()
		if len(groups) != 3 || w.Pending() != 0 {
			t.Fatalf("%d row groups", len(groups))
		}
		for _, g := range groups {
			g.Reset(5)
			for i := range g.Values {
				clear(g.Values[i].Ints[:cap(g.Values[i].Ints)])
				clear(g.Values[i].encoded[:cap(g.Values[i].encoded)])
			}
		}
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// failing is a writer that fails after some bytes.
type failing struct{ left int }

var errFull = errors.New("no space left")

func (w *failing) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func TestWriteErrorIsReturned(t *testing.T) {
	for _, left := range []int{0, 10, 400} {
		g := new(RowGroup)
		g.Reset(5)
		for j, v := range []any{[]int64{1, 2}, []float64{1, 2}, []bool{true, false}, []int64{1, 2}, []string{"a", "b"}} {
			set(g, j, v, nil)
		}
		w := NewWriter(&failing{left}, allTypes)
		w.Add(g, true)
		_, err := w.Finish()
		if err == nil {
			err = w.Close(nil)
		}
		if !errors.Is(err, errFull) {
			t.Errorf("%d bytes: got %v", left, err)
		}
		w.Abort()
	}
}
