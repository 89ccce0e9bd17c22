package parquetfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/zstd"
)

// Values of the format's enums; see parquet.thrift in apache/parquet-format.
const (
	dataPage       = 0
	dictionaryPage = 2

	plain             = 0
	rle               = 3
	deltaBinaryPacked = 5
	rleDictionary     = 8

	codecZstd = 6
)

// Target page sizes. A page should fit into the CPU's cache during compression
// and decompression.
const (
	pageRows = 16 << 10
	pageSize = 128 << 10 // bytes of text
)

// Limits on dictionaries. Larger dictionaries hardly save space.
const (
	maxNumbers  = 4 << 10 // entries in a dictionary of numbers
	maxTexts    = 1 << 16 // entries in a dictionary of strings; indexes have 16 bits
	maxTextSize = 1 << 20 // bytes in a dictionary of strings
)

// minCompressed is the smallest page size, in bytes, that is worth compressing.
const minCompressed = 256

// maxBound is the maximum length, in bytes, of a string in statistics.
const maxBound = 4 << 10

// chunk is one encoded column chunk of a row group.
type chunk struct {
	data       []byte // encoded pages
	raw        int64  // bytes before compression
	dictionary int    // size in bytes of the dictionary page, which comes first; 0 without a dictionary
	pages      int    // number of data pages
	encoding   int    // encoding of the data pages
	nulls      int
	// min and max are the statistics in PLAIN encoding, or nil if unknown.
	min, max []byte
}

// encoder encodes column chunks, one after the other. It reuses its buffers for each
// chunk.
type encoder struct {
	zstd       *zstd.Encoder
	page       []byte
	compressed []byte
	thrift     compact
	indexes    []uint16
	numbers    numberTable
	texts      textTable
}

// encoders pools encoders, because they are large.
var encoders = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true),
		zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		panic(err) // an option is invalid
	}
	return &encoder{zstd: z}
}}

// encode encodes v, the values of a column of type t in a row group with the given number
// of rows. It appends the encoded pages to dst, and returns a chunk whose data is the
// extended slice.
func (e *encoder) encode(dst []byte, t Type, v *Values, rows int) chunk {
	if n := len(v.Ints) + len(v.Floats) + len(v.Bools) + len(v.Ends); n+v.Nulls != rows {
		panic(fmt.Sprintf("%d values and %d NULLs in %d rows", n, v.Nulls, rows))
	}
	c := chunk{data: dst, nulls: v.Nulls}
	var def []int16
	if v.Nulls > 0 {
		def = v.Def[:rows]
	}
	switch t {
	case Int64, Timestamp:
		e.ints(&c, v.Ints, def, rows)
	case Double:
		e.floats(&c, v.Floats, def, rows)
	case Boolean:
		e.bools(&c, v.Bools, def, rows)
	case String:
		e.strings(&c, v.Text, v.Ends, def, rows)
	default:
		panic("column of an unknown type")
	}
	return c
}

func (e *encoder) ints(c *chunk, v []int64, def []int16, rows int) {
	var low, high int64
	if len(v) > 0 {
		low, high = v[0], v[0]
		for _, x := range v {
			low, high = min(low, x), max(high, x)
		}
		c.min, c.max = plainNumber(uint64(low)), plainNumber(uint64(high))
	}
	if e.byDictionary(c, v, low, high, def, rows) {
		return
	}
	c.encoding = deltaBinaryPacked
	e.dataPages(c, def, rows, nil, func(dst []byte, from, to int) []byte { return appendDelta(dst, v[from:to]) })
}

func (e *encoder) floats(c *chunk, floats []float64, def []int16, rows int) {
	c.min, c.max = floatBounds(floats)
	// Compare bit patterns, because there are many NaNs, and 0 differs from
	// -0.
	v := unsafe.Slice((*int64)(unsafe.Pointer(unsafe.SliceData(floats))), len(floats))
	if e.byDictionary(c, v, math.MinInt64, math.MaxInt64, def, rows) {
		return
	}
	c.encoding = plain
	e.dataPages(c, def, rows, nil, func(dst []byte, from, to int) []byte { return appendPlain(dst, v[from:to]) })
}

// floatBounds returns the minimum and maximum of v for statistics, or nil if v is empty
// or contains NaN. The format's TypeDefinedOrder ignores NaN, but a reader may sort NaN
// above all other values, and thus above the maximum. A minimum of zero is written as -0,
// and a maximum of zero as +0.
func floatBounds(v []float64) (least, greatest []byte) {
	if len(v) == 0 {
		return nil, nil
	}
	low, high, nan := v[0], v[0], false
	for _, x := range v {
		if x < low {
			low = x
		}
		if x > high {
			high = x
		}
		nan = nan || x != x
	}
	if nan {
		return nil, nil
	}
	if low == 0 {
		low = math.Copysign(0, -1)
	}
	if high == 0 {
		high = 0 // turns -0 into +0
	}
	return plainNumber(math.Float64bits(low)), plainNumber(math.Float64bits(high))
}

func plainNumber(x uint64) []byte { return binary.LittleEndian.AppendUint64(nil, x) }

func (e *encoder) bools(c *chunk, v []bool, def []int16, rows int) {
	if len(v) > 0 {
		one, all := false, true
		for _, x := range v {
			one = one || x
			all = all && x
		}
		c.min, c.max = appendPlainBools(nil, []bool{all}), appendPlainBools(nil, []bool{one})
	}
	c.encoding = plain
	e.dataPages(c, def, rows, nil, func(dst []byte, from, to int) []byte { return appendPlainBools(dst, v[from:to]) })
}

// byDictionary adds v to c, encoded with a dictionary. If v has too many distinct
// numbers, it returns false and adds nothing. low and high are bounds of the numbers in
// v.
func (e *encoder) byDictionary(c *chunk, v []int64, low, high int64, def []int16, rows int) bool {
	limit := min(maxNumbers, len(v)/8)
	if limit == 0 {
		return false
	}
	e.indexes = sized(e.indexes, len(v))
	entries, ok := e.numbers.index(e.indexes, v, low, high, limit)
	if !ok {
		return false
	}
	e.page = appendPlain(e.page[:0], entries)
	e.dictionary(c, len(entries), def, rows)
	return true
}

// dictionary adds two pages to c: e.page as a dictionary page of n entries, and e.indexes
// as a data page. One data page suffices, because an index takes at most 2 bytes.
func (e *encoder) dictionary(c *chunk, n int, def []int16, rows int) {
	e.addPage(c, dictionaryPage, n, plain, true)
	c.dictionary = len(c.data)
	c.encoding = rleDictionary
	e.page = appendLevels(e.page[:0], def, rows)
	width := max(bits.Len(uint(n-1)), 1) // some readers reject a width of 0
	e.page = append(e.page, byte(width))
	if n == 1 {
		e.page = appendRun(e.page, len(e.indexes), 0, width)
	} else {
		e.page = appendHybrid(e.page, e.indexes, width)
	}
	e.addPage(c, dataPage, rows, rleDictionary, true)
}

// dataPages adds data pages of about pageRows rows to c. It calls the function values to
// append the encoding of a half-open range of the column values to dst. If size is not
// nil, it must return the size of a value in bytes. A page then has at most pageSize
// bytes, unless a single value is larger.
func (e *encoder) dataPages(c *chunk, def []int16, rows int, size func(value int) int, values func(dst []byte, from, to int) []byte) {
	compress := c.encoding != deltaBinaryPacked // its pages do not compress
	value := 0
	for row := 0; row < rows; {
		n := min(pageRows, rows-row)
		if rest := rows - row - n; rest < pageRows/4 {
			n += rest
		}
		first := value
		if size == nil && def == nil {
			value += n
		} else {
			total := 0
			for i := range n {
				if def != nil && def[row+i] == 0 {
					continue
				}
				if size != nil {
					if total += size(value); total > pageSize && value > first {
						n = i
						break
					}
				}
				value++
			}
		}
		var d []int16
		if def != nil {
			d = def[row : row+n]
		}
		e.page = values(appendLevels(e.page[:0], d, n), first, value)
		compress = e.addPage(c, dataPage, n, c.encoding, compress)
		row += n
	}
}

// addPage adds e.page to c. The page has the given number of values, including NULLs. If
// compress is true, addPage compresses the page, unless the page is tiny or compression
// saves no more than 5 %. It reports whether it compressed the page.
func (e *encoder) addPage(c *chunk, kind, values, encoding int, compress bool) (compressed bool) {
	e.compressed = e.compressed[:0]
	if compress && len(e.page) >= minCompressed {
		e.compressed = e.zstd.EncodeAll(e.page, e.compressed)
		compressed = len(e.compressed) < len(e.page)/20*19 // smaller savings are not worth the readers' time
	}
	if !compressed {
		e.compressed = appendStored(e.compressed[:0], e.page)
	}
	t := &e.thrift
	t.b = t.b[:0]
	t.open() // PageHeader
	t.i32(1, kind)
	t.i32(2, len(e.page))
	t.i32(3, len(e.compressed))
	if kind == dictionaryPage {
		t.begin(7)
		t.i32(1, values)
		t.i32(2, encoding)
		t.end()
	} else {
		t.begin(5)
		t.i32(1, values)
		t.i32(2, encoding)
		t.i32(3, rle) // definition levels
		t.i32(4, rle) // repetition levels; flat columns have none, but the field is required
		t.end()
		c.pages++
	}
	t.end()
	c.data = append(append(c.data, t.b...), e.compressed...)
	c.raw += int64(len(t.b) + len(e.page))
	return compressed
}

// strings adds strings to c. They are stored as in Values: concatenated in text, with the
// end of each string in ends.
func (e *encoder) strings(c *chunk, text []byte, ends []uint32, def []int16, rows int) {
	begin := func(i int) uint32 {
		if i == 0 {
			return 0
		}
		return ends[i-1]
	}
	e.indexes = sized(e.indexes, len(ends))
	if e.texts.index(e.indexes, text, ends) {
		// Use the dictionary if it and the indexes are smaller than PLAIN.
		n := len(e.texts.ends)
		dictionary, indexes := len(e.texts.plain), len(ends)*bits.Len(uint(n))/8
		if n > 0 && dictionary+indexes < len(text)+4*len(ends) {
			from := uint32(0)
			for _, to := range e.texts.ends {
				c.bound(e.texts.plain[from+4 : to])
				from = to
			}
			e.page = append(e.page[:0], e.texts.plain...)
			e.dictionary(c, n, def, rows)
			c.limitBounds()
			return
		}
	}
	for i, end := range ends {
		c.bound(text[begin(i):end])
	}
	c.limitBounds()
	c.encoding = plain
	e.dataPages(c, def, rows, func(i int) int { return int(4 + ends[i] - begin(i)) }, func(dst []byte, from, to int) []byte {
		for i := from; i < to; i++ {
			s := text[begin(i):ends[i]]
			dst = append(binary.LittleEndian.AppendUint32(dst, uint32(len(s))), s...)
		}
		return dst
	})
}

// bound extends c.min and c.max, the bounds for statistics, to include s. It compares
// strings as unsigned bytes.
func (c *chunk) bound(s []byte) {
	if s == nil {
		s = []byte{} // nil would mean unknown
	}
	if c.min == nil || bytes.Compare(s, c.min) < 0 {
		c.min = s
	}
	if c.max == nil || bytes.Compare(s, c.max) > 0 {
		c.max = s
	}
}

// limitBounds removes c.min and c.max if one of them is longer than maxBound. Otherwise
// it copies both, because they refer to memory that c does not own.
func (c *chunk) limitBounds() {
	if len(c.min) > maxBound || len(c.max) > maxBound {
		c.min, c.max = nil, nil
	}
	c.min, c.max = bytes.Clone(c.min), bytes.Clone(c.max)
}
