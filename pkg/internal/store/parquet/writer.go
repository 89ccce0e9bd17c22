package parquet

import (
	"bytes"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"

	"github.com/tstatrepo/tstatrepo/pkg/internal/parquetfile"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// writer collects the rows of a row group, column by column, and writes them to a
// Parquet file. It can be reused for another file.
type writer struct {
	buffers *buffers
	columns []tstat.Column
	source  []int // maps indexes of columns to those in batches; nil if they are equal
	file    *parquetfile.Writer
	group   *parquetfile.RowGroup // being filled; nil after an error
	extra   int                   // row groups besides the first
	max     int                   // rows of a row group
	maxText int                   // bytes of text of a row group
	ones    []int16
	zeros   []int16
	in      input
}

// fileTypes maps kinds of values to the types of Parquet columns.
var fileTypes = map[tstat.Kind]parquetfile.Type{
	tstat.Int:   parquetfile.Int64,
	tstat.Float: parquetfile.Double,
	tstat.Bool:  parquetfile.Boolean,
	tstat.Time:  parquetfile.Timestamp,
	tstat.Text:  parquetfile.String,
}

// newFile starts a Parquet file with the given columns.
func newFile(out io.Writer, columns []tstat.Column) *parquetfile.Writer {
	sc := parquetfile.Schema{Name: "tstat", CreatedBy: "tstatrepo"}
	for _, c := range columns {
		sc.Columns = append(sc.Columns, parquetfile.Column{Name: c.Name, Type: fileTypes[c.Kind]})
	}
	return parquetfile.NewWriter(out, sc)
}

// emptyFile returns the footer of a file without rows, as read by Arrow.
func emptyFile(columns []tstat.Column, meta [][2]string) (*metadata.FileMetaData, error) {
	var b bytes.Buffer
	if err := newFile(&b, columns).Close(meta); err != nil {
		return nil, err
	}
	r, err := file.NewParquetReader(bytes.NewReader(b.Bytes()))
	if err != nil {
		return nil, err
	}
	return r.MetaData(), nil
}

// begin starts a file. Call end afterwards.
func (w *writer) begin(out io.Writer, columns []tstat.Column) {
	w.columns, w.source, w.file = columns, nil, newFile(out, columns)
	w.max, w.maxText = w.buffers.limits(len(columns))
	w.group = w.buffers.begin()
	w.group.Reset(len(columns))
}

// beginKept starts a file that has columns[i] if kept[i] is set. If kept is nil, the file
// has all columns.
func (w *writer) beginKept(out io.Writer, columns []tstat.Column, kept []bool) {
	if kept == nil {
		w.begin(out, columns)
		return
	}
	var some []tstat.Column
	var source []int
	for i, c := range columns {
		if kept[i] {
			some, source = append(some, c), append(source, i)
		}
	}
	w.begin(out, some)
	w.source = source
}

// end ends a file, complete or not, and releases its row groups.
func (w *writer) end() {
	groups := w.file.Abort()
	if w.group != nil {
		groups = append(groups, w.group)
	}
	w.buffers.end(w.extra, groups)
	w.file, w.group, w.extra = nil, nil, 0
}

// write adds the rows of b.
func (w *writer) write(b *tstat.Batch) error {
	n := b.Len()
	for len(w.ones) < w.group.Rows+n {
		w.ones = append(w.ones, 1)
		w.zeros = append(w.zeros, 0)
	}
	for i := range w.columns {
		c := &w.group.Values[i]
		at := i
		if w.source != nil {
			at = w.source[i]
		}
		v, ok := b.Column(at)
		if !ok {
			v.Def = w.zeros[:n]
		}
		values := len(v.Ints) + len(v.Floats) + len(v.Bools) + len(v.Texts)
		if values < n || c.Nulls > 0 {
			if c.Nulls == 0 {
				c.Def = append(grow(c.Def[:0], w.group.Rows, w.max), w.ones[:w.group.Rows]...)
			}
			c.Def = append(grow(c.Def, n, w.max), v.Def...)
			c.Nulls += n - values
		}
		switch w.columns[i].Kind {
		case tstat.Int, tstat.Time:
			c.Ints = append(grow(c.Ints, len(v.Ints), w.max), v.Ints...)
		case tstat.Float:
			c.Floats = append(grow(c.Floats, len(v.Floats), w.max), v.Floats...)
		case tstat.Bool:
			c.Bools = append(grow(c.Bools, len(v.Bools), w.max), v.Bools...)
		case tstat.Text:
			c.Ends = grow(c.Ends, len(v.Texts), w.max)
			for _, t := range v.Texts {
				c.Text = append(c.Text, t...)
				c.Ends = append(c.Ends, uint32(len(c.Text)))
			}
		}
	}
	w.group.Rows += n
	if w.group.Rows >= w.max || w.bytes() > w.maxText {
		return w.flush()
	}
	return nil
}

// grow makes room in s for n more values. Once s has longLog values, grow makes room for
// a whole row group, which has at most the given number of rows. Smaller steps would copy
// a long s many times.
func grow[T any](s []T, n, rows int) []T {
	if cap(s)-len(s) >= n {
		return s
	}
	if len(s) >= longLog {
		n = max(n, rows+longLog-len(s))
	}
	return slices.Grow(s, n)
}

// longLog is the row count from which the function grow treats a log as long. Most logs
// are shorter.
const longLog = 4 << 10

// bytes returns the total size in bytes of the collected strings.
func (w *writer) bytes() int {
	n := 0
	for i := range w.columns {
		n += len(w.group.Values[i].Text)
	}
	return n
}

// flush passes the collected rows to the file. If the file gets an extra row group,
// another goroutine encodes these rows while the extra row group is filled.
func (w *writer) flush() error {
	next := w.buffers.extraGroup(w.extra)
	w.file.Add(w.group, next != nil || w.file.Pending() > 0)
	w.group = next
	if next != nil {
		w.extra++
	} else if err := w.finish(); err != nil {
		return err
	}
	for w.extra > 0 && w.buffers.scarce() {
		w.release()
		if err := w.finish(); err != nil {
			return err
		}
	}
	w.group.Reset(len(w.columns))
	return nil
}

// finish writes the oldest row group that was passed to the file, and reuses it as
// w.group.
func (w *writer) finish() (err error) {
	w.group, err = w.file.Finish()
	return err
}

// release returns w.group to w.buffers. Another row group of the file must be pending.
func (w *writer) release() {
	w.buffers.release(w.group)
	w.group = nil
	w.extra--
}

// close completes the file, with the given key-value metadata in its footer.
func (w *writer) close(metadata [][2]string) error {
	if w.group.Rows > 0 {
		w.file.Add(w.group, w.file.Pending() > 0)
		w.group = nil
	}
	for w.file.Pending() > 0 {
		if w.group != nil {
			w.release()
		}
		if err := w.finish(); err != nil {
			return err
		}
	}
	return w.file.Close(metadata)
}
