package parquet

import (
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// writer collects the rows of a row group, column by column, and writes them
// to a Parquet file. Its buffers serve one file after the other.
type writer struct {
	columns []tstat.Column
	pw      *file.Writer
	cols    []column
	rows    int
	max     int // rows of a row group
	maxText int // bytes of text of a row group
	ones    []int16
	zeros   []int16
	view    []parquet.ByteArray
	in      input
}

// column holds the values of one column, without the NULLs.
type column struct {
	ints   []int64
	floats []float64
	bools  []bool
	text   []byte
	ends   []uint32 // in text, of each value
	nulls  int
	def    []int16 // per row 1 or 0; only kept from the first NULL on
}

// newSchema gives every column its own type, all of them optional: one schema
// serves all Tstat versions, and each lacks some columns.
func newSchema(columns []tstat.Column) (*schema.GroupNode, error) {
	var fields schema.FieldList
	for _, c := range columns {
		var n schema.Node
		var err error
		switch c.Kind {
		case tstat.Int:
			n = schema.NewInt64Node(c.Name, parquet.Repetitions.Optional, -1)
		case tstat.Float:
			n = schema.NewFloat64Node(c.Name, parquet.Repetitions.Optional, -1)
		case tstat.Bool:
			n = schema.NewBooleanNode(c.Name, parquet.Repetitions.Optional, -1)
		case tstat.Time:
			n, err = schema.NewPrimitiveNodeLogical(c.Name, parquet.Repetitions.Optional,
				schema.NewTimestampLogicalType(true, schema.TimeUnitMicros), parquet.Types.Int64, 0, -1)
		case tstat.Text:
			n, err = schema.NewPrimitiveNodeLogical(c.Name, parquet.Repetitions.Optional,
				schema.StringLogicalType{}, parquet.Types.ByteArray, 0, -1)
		default:
			err = fmt.Errorf("column %s: no Parquet type for %s", c.Name, c.Kind)
		}
		if err != nil {
			return nil, err
		}
		fields = append(fields, n)
	}
	return schema.NewGroupNode("tstat", parquet.Repetitions.Required, fields, -1)
}

// reset begins a file. A row group is written when it has that many rows, or
// that many bytes of text: rows may be much longer than Tstat's own.
func (w *writer) reset(out io.Writer, columns []tstat.Column, rowGroup, maxText int) error {
	root, err := newSchema(columns)
	if err != nil {
		return err
	}
	opts := []parquet.WriterProperty{
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(1),
		parquet.WithDictionaryDefault(false),
		parquet.WithCreatedBy("tstatrepo"),
		parquet.WithMaxRowGroupLength(int64(rowGroup)),
		parquet.WithBatchSize(batchSize),
		parquet.WithDataPageSize(pageSize),
	}
	for _, c := range columns {
		if c.Kind == tstat.Text {
			opts = append(opts, parquet.WithDictionaryFor(c.Name, true))
		}
	}
	pw, err := file.NewParquetWriterWithError(out, root, file.WithWriterProps(parquet.NewWriterProperties(opts...)))
	if err != nil {
		return err
	}
	w.pw, w.columns, w.max, w.maxText = pw, columns, rowGroup, maxText
	if n := len(columns) - len(w.cols); n > 0 {
		w.cols = append(w.cols, make([]column, n)...)
	}
	w.clear()
	return nil
}

// Sizes inside a row group, in rows and bytes. A page is what a reader
// decompresses at once; 128 KiB stay in the CPU's cache while we compress them
// (1 MiB was a quarter slower).
const (
	batchSize = 4 << 10
	pageSize  = 128 << 10
)

// clear forgets the rows that are not written yet.
func (w *writer) clear() {
	w.rows = 0
	for i := range w.cols {
		c := &w.cols[i]
		c.ints, c.floats, c.bools = c.ints[:0], c.floats[:0], c.bools[:0]
		c.text, c.ends, c.def, c.nulls = c.text[:0], c.ends[:0], c.def[:0], 0
	}
}

// write adds the rows of b.
func (w *writer) write(b *tstat.Batch) error {
	n := b.Len()
	for len(w.ones) < w.rows+n {
		w.ones = append(w.ones, 1)
		w.zeros = append(w.zeros, 0)
	}
	for i := range w.columns {
		c := &w.cols[i]
		v, ok := b.Column(i)
		if !ok {
			v.Def = w.zeros[:n]
		}
		values := len(v.Ints) + len(v.Floats) + len(v.Bools) + len(v.Texts)
		if values < n || c.nulls > 0 {
			if c.nulls == 0 {
				c.def = append(grow(c.def[:0], w.rows, w.max), w.ones[:w.rows]...)
			}
			c.def = append(grow(c.def, n, w.max), v.Def...)
			c.nulls += n - values
		}
		switch w.columns[i].Kind {
		case tstat.Int, tstat.Time:
			c.ints = append(grow(c.ints, len(v.Ints), w.max), v.Ints...)
		case tstat.Float:
			c.floats = append(grow(c.floats, len(v.Floats), w.max), v.Floats...)
		case tstat.Bool:
			c.bools = append(grow(c.bools, len(v.Bools), w.max), v.Bools...)
		case tstat.Text:
			c.ends = grow(c.ends, len(v.Texts), w.max)
			for _, t := range v.Texts {
				c.text = append(c.text, t...)
				c.ends = append(c.ends, uint32(len(c.text)))
			}
		}
	}
	w.rows += n
	if w.rows >= w.max || w.bytes() > w.maxText {
		return w.flush()
	}
	return nil
}

// grow makes room for n more values. Most logs are short; a long one gets the
// room of a whole row group at once, for copying buffers as they grow took a
// third of the time.
func grow[T any](s []T, n, rows int) []T {
	if cap(s)-len(s) >= n {
		return s
	}
	if len(s) >= longLog {
		n = max(n, rows+longLog-len(s))
	}
	return slices.Grow(s, n)
}

// longLog is the count of rows from which a log is a long one.
const longLog = 4 << 10

// bytes is the text that is collected.
func (w *writer) bytes() int {
	n := 0
	for i := range w.columns {
		n += len(w.cols[i].text)
	}
	return n
}

// flush writes the collected rows as a row group.
func (w *writer) flush() error {
	if w.rows == 0 {
		return nil
	}
	rg, err := w.pw.AppendRowGroupChecked()
	if err != nil {
		return err
	}
	for i := range w.columns {
		cw, err := rg.NextColumn()
		if err != nil {
			return err
		}
		c := &w.cols[i]
		def := w.ones[:w.rows]
		if c.nulls > 0 {
			def = c.def
		}
		switch cw := cw.(type) {
		case *file.Int64ColumnChunkWriter:
			_, err = cw.WriteBatch(c.ints, def, nil)
		case *file.Float64ColumnChunkWriter:
			_, err = cw.WriteBatch(c.floats, def, nil)
		case *file.BooleanColumnChunkWriter:
			_, err = cw.WriteBatch(c.bools, def, nil)
		case *file.ByteArrayColumnChunkWriter:
			_, err = cw.WriteBatch(w.texts(c), def, nil)
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", w.columns[i].Name, err)
		}
		if err := cw.Close(); err != nil {
			return fmt.Errorf("column %s: %w", w.columns[i].Name, err)
		}
	}
	w.clear()
	return rg.Close()
}

// texts returns the values of a text column.
func (w *writer) texts(c *column) []parquet.ByteArray {
	w.view = w.view[:0]
	start := uint32(0)
	for _, end := range c.ends {
		w.view = append(w.view, c.text[start:end:end])
		start = end
	}
	return w.view
}

// close ends the file, with keys and values as metadata in its footer.
func (w *writer) close(metadata [][2]string) error {
	if err := w.flush(); err != nil {
		return err
	}
	for _, kv := range metadata {
		if err := w.pw.AppendKeyValueMetadata(kv[0], kv[1]); err != nil {
			return err
		}
	}
	return w.pw.Close()
}
