package parquet

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/internal/parquetfile"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// addGroup adds rows from a row group of s: those in the given range. In columns that s
// lacks, the added rows have NULL.
func (w *writer) addGroup(s *stored, index int, keep span) (err error) {
	defer recoverDamage(&err)
	n := int(keep.to - keep.from)
	if w.group.Rows > 0 && w.group.Rows+n > w.max {
		if err := w.flush(); err != nil {
			return err
		}
	}
	for len(w.ones) < w.group.Rows+n {
		w.ones = append(w.ones, 1)
		w.zeros = append(w.zeros, 0)
	}
	rg := s.r.RowGroup(index)
	for i, col := range w.columns {
		at := slices.IndexFunc(s.columns, func(c tstat.Column) bool { return c.Name == col.Name })
		if at < 0 {
			w.define(&w.group.Values[i], w.zeros[:n], 0)
			continue
		}
		cr, err := rg.Column(at)
		if err == nil {
			err = w.addColumn(&w.group.Values[i], cr, keep)
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", col.Name, err)
		}
	}
	w.group.Rows += n
	if w.group.Rows >= w.max || w.bytes() > w.maxText {
		return w.flush()
	}
	return nil
}

// batchSize is the maximum number of rows decoded at once.
const batchSize = 4 << 10

// input is a buffer for decoded values of a column.
type input struct {
	def, kept []int16
	ints      []int64
	floats    []float64
	bools     []bool
	texts     []parquet.ByteArray
}

func newInput() *input {
	return &input{make([]int16, batchSize), nil, make([]int64, batchSize), make([]float64, batchSize), make([]bool, batchSize), make([]parquet.ByteArray, batchSize)}
}

// read decodes up to n rows from one page of a column. rows is the number of decoded rows,
// and values is the number of those that are not NULL.
func (in *input) read(cr file.ColumnChunkReader, n int64) (rows int64, values int, err error) {
	switch cr := cr.(type) {
	case *file.Int64ColumnChunkReader:
		return cr.ReadBatchInPage(n, in.ints, in.def, nil)
	case *file.Float64ColumnChunkReader:
		return cr.ReadBatchInPage(n, in.floats, in.def, nil)
	case *file.BooleanColumnChunkReader:
		return cr.ReadBatchInPage(n, in.bools, in.def, nil)
	case *file.ByteArrayColumnChunkReader:
		return cr.ReadBatchInPage(n, in.texts, in.def, nil)
	}
	return 0, 0, fmt.Errorf("cannot read a column of %T", cr)
}

// addColumn appends values of a column chunk to c: those of the rows in the given range.
func (w *writer) addColumn(c *parquetfile.Values, cr file.ColumnChunkReader, keep span) error {
	in := &w.in
	if in.def == nil {
		*in = *newInput()
	}
	in.kept = in.kept[:0]
	values := 0
	for pos := int64(0); pos < keep.to; {
		if !cr.HasNext() {
			return errors.Join(io.ErrUnexpectedEOF, cr.Err())
		}
		// Decoded strings are valid only until the next page is read.
		n := min(batchSize, keep.to-pos)
		rows, read, err := in.read(cr, n)
		if err != nil {
			return err
		}
		if rows == 0 {
			return io.ErrUnexpectedEOF
		}
		skip, skipped := min(max(keep.from-pos, 0), rows), 0
		for _, d := range in.def[:skip] {
			skipped += int(d)
		}
		in.kept = append(in.kept, in.def[skip:rows]...)
		values += read - skipped
		switch cr.(type) {
		case *file.Int64ColumnChunkReader:
			c.Ints = append(c.Ints, in.ints[skipped:read]...)
		case *file.Float64ColumnChunkReader:
			c.Floats = append(c.Floats, in.floats[skipped:read]...)
		case *file.BooleanColumnChunkReader:
			c.Bools = append(c.Bools, in.bools[skipped:read]...)
		case *file.ByteArrayColumnChunkReader:
			for _, t := range in.texts[skipped:read] {
				c.Text = append(c.Text, t...)
				c.Ends = append(c.Ends, uint32(len(c.Text)))
			}
		}
		pos += rows
	}
	w.define(c, in.kept, values)
	return nil
}

// define records which of the rows just added to c have a value. def has a 1 for each row
// with a value and a 0 for each NULL; values is the number of 1s.
func (w *writer) define(c *parquetfile.Values, def []int16, values int) {
	if values == len(def) && c.Nulls == 0 {
		return
	}
	if c.Nulls == 0 {
		c.Def = append(grow(c.Def[:0], w.group.Rows, w.max), w.ones[:w.group.Rows]...)
	}
	c.Def = append(c.Def, def...)
	c.Nulls += len(def) - values
}
