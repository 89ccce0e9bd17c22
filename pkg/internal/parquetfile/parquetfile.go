// Package parquetfile writes Parquet files with flat schemas: columns of
// numbers, booleans, times and strings, all of them optional. It encodes row
// groups in parallel, and uses only these parts of the format:
//
//   - dictionaries of numbers and strings, where values repeat;
//   - DELTA_BINARY_PACKED for other integers, PLAIN for the rest;
//   - Zstandard, and its raw blocks for pages that hardly compress;
//   - data pages of version 1, statistics of column chunks, no indexes.
//
// Spark's vectorized reader supports DELTA_BINARY_PACKED in 3.3 and later (SPARK-36879).
//
// The format is defined at https://github.com/apache/parquet-format.
package parquetfile

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
)

// Type is the type of a column.
type Type int

// Column types.
const (
	Int64     Type = iota + 1
	Double         // a float64
	Boolean        //
	Timestamp      // microseconds since the epoch, UTC
	String         // UTF-8
)

// Column is a column of a file.
type Column struct {
	Name string
	Type Type
}

// Schema describes the columns of a file and names the program that writes it.
type Schema struct {
	Name      string // name of the schema's root
	CreatedBy string // program that writes the file
	Columns   []Column
}

// Values holds the values of a column in a row group, without NULLs. The
// column's type determines which slice is used.
type Values struct {
	Ints   []int64   // Int64, Timestamp
	Floats []float64 // Double
	Bools  []bool    // Boolean
	Text   []byte    // String: all values concatenated, at most 4 GiB
	Ends   []uint32  // String: end of each value in Text
	// Nulls is the number of rows without a value. Def contains, for each
	// row, 1 for a value and 0 for NULL. Def is ignored if Nulls is 0.
	Nulls int
	Def   []int16

	encoded []byte // encoded column chunk, for reuse
}

// RowGroup holds rows that a Writer encodes. Reset prepares it for new rows.
// The zero value is empty.
type RowGroup struct {
	Rows   int
	Values []Values // of each column

	columns []Column
	chunks  []chunk
	next    atomic.Int32 // the next column to encode
	err     atomic.Pointer[error]
	done    chan struct{} // closed when the goroutine that Add started has ended; nil if none is running
}

// Reset empties g for rows with the given number of columns.
func (g *RowGroup) Reset(columns int) {
	g.Rows = 0
	for len(g.Values) < columns {
		g.Values = append(g.Values, Values{})
	}
	for i := range g.Values {
		v := &g.Values[i]
		v.Ints, v.Floats, v.Bools = v.Ints[:0], v.Floats[:0], v.Bools[:0]
		v.Text, v.Ends, v.Def, v.Nulls = v.Text[:0], v.Ends[:0], v.Def[:0], 0
	}
}

// encode encodes the columns of g that no goroutine has started to encode yet. Several
// goroutines may call it at the same time.
func (g *RowGroup) encode() {
	e := encoders.Get().(*encoder)
	for {
		i := int(g.next.Add(1)) - 1
		if i >= len(g.columns) {
			break
		}
		g.encodeColumn(e, i)
	}
	if g.err.Load() == nil { // after a panic the encoder is in an unknown state
		encoders.Put(e)
	}
}

// encodeColumn encodes column i of g with e. It turns a panic into an error of g, so that
// the process does not end.
func (g *RowGroup) encodeColumn(e *encoder, i int) {
	defer func() {
		if p := recover(); p != nil {
			err := fmt.Errorf("column %s: internal error, please report it: %v\n%s", g.columns[i].Name, p, debug.Stack())
			g.err.CompareAndSwap(nil, &err)
			g.stop()
		}
	}()
	v := &g.Values[i]
	g.chunks[i] = e.encode(v.encoded[:0], g.columns[i].Type, v, g.Rows)
	v.encoded = g.chunks[i].data
}

// stop tells the goroutines encoding g to exit once each has finished its current column.
func (g *RowGroup) stop() { g.next.Store(int32(len(g.columns))) }

// wait waits until the goroutine that encodes g has ended, if Writer.Add started one.
func (g *RowGroup) wait() {
	if g.done != nil {
		<-g.done
		g.done = nil
	}
}

// Writer writes a file one row group at a time. It is not safe for concurrent
// use. After an error, only Abort may be called.
type Writer struct {
	out     io.Writer
	schema  Schema
	at      int64       // bytes written
	rows    int64       // rows written
	groups  compact     // footer elements of the row groups written
	count   int         // row groups written
	pending []*RowGroup // row groups to be written, in order
}

// magic is the start and the end of every file.
const magic = "PAR1"

// NewWriter returns a Writer. It does not write to out yet.
func NewWriter(out io.Writer, schema Schema) *Writer { return &Writer{out: out, schema: schema} }

func (w *Writer) write(p []byte) error {
	if w.at == 0 {
		n, err := io.WriteString(w.out, magic)
		w.at += int64(n)
		if err != nil {
			return err
		}
	}
	n, err := w.out.Write(p)
	w.at += int64(n)
	return err
}

// Add adds g as the next row group of the file. The caller must not use g again until
// Finish or Abort returns it. If inBackground is true, a goroutine starts to encode g.
func (w *Writer) Add(g *RowGroup, inBackground bool) {
	g.columns = w.schema.Columns
	g.chunks = sized(g.chunks, len(g.columns))
	g.next.Store(0)
	g.err.Store(nil)
	w.pending = append(w.pending, g)
	if inBackground {
		g.done = make(chan struct{})
		go func() {
			defer close(g.done)
			g.encode()
		}()
	}
}

// Pending returns the number of row groups that have been added but not written yet.
func (w *Writer) Pending() int { return len(w.pending) }

// Finish writes the oldest pending row group and returns it for reuse. It panics if no
// row group is pending.
func (w *Writer) Finish() (*RowGroup, error) {
	g := w.pending[0]
	g.encode()
	g.wait()
	if err := g.err.Load(); err != nil {
		return nil, *err
	}
	start := max(w.at, int64(len(magic)))
	for _, c := range g.chunks {
		if err := w.write(c.data); err != nil {
			return nil, err
		}
	}
	w.addGroup(g, start)
	w.pending = w.pending[1:]
	return g, nil
}

// Close writes the footer with the given key-value metadata. Call it only after Finish has
// returned all row groups. Close does not close the io.Writer passed to NewWriter.
func (w *Writer) Close(metadata [][2]string) error {
	footer := w.footer(metadata)
	footer = binary.LittleEndian.AppendUint32(footer, uint32(len(footer)))
	return w.write(append(footer, magic...))
}

// Abort abandons the file. It waits for the goroutines that encode its row groups, then
// returns the pending row groups for reuse.
func (w *Writer) Abort() []*RowGroup {
	for _, g := range w.pending {
		g.stop()
	}
	for _, g := range w.pending {
		g.wait()
	}
	groups := w.pending
	w.pending = nil
	return groups
}
