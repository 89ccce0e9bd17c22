package parquet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// stored is an open Parquet file of the store.
type stored struct {
	footer
	f       *os.File
	r       *file.Reader
	columns []tstat.Column
}

// openStored opens a file that tstatrepo wrote. It returns an error for files from other
// programs.
func openStored(path string) (*stored, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &stored{f: f}
	if err := s.open(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// open reads the footer of s.f.
func (s *stored) open() (err error) {
	defer recoverDamage(&err)
	if s.r, err = file.NewParquetReader(s.f); err != nil {
		return err
	}
	if s.footer, err = parseFooter("footer", s.r.MetaData()); err != nil {
		return err
	}
	s.columns, err = columnsOf(s.r.MetaData().Schema)
	return err
}

func (s *stored) close() { s.f.Close() }

// errColumns reports that another program has written a file, although the file has
// tstatrepo's metadata.
var errColumns = errors.New("its columns are not those that tstatrepo writes")

// columnsOf returns the columns of a schema. It returns errColumns if the schema differs
// from the one that this package would write for these columns.
func columnsOf(sc *schema.Schema) ([]tstat.Column, error) {
	var columns []tstat.Column
	for i := range sc.NumColumns() {
		d := sc.Column(i)
		c := tstat.Column{Name: d.Name()}
		switch d.PhysicalType() {
		case parquet.Types.Int64:
			c.Kind = tstat.Int
			if _, ok := d.LogicalType().(schema.TimestampLogicalType); ok {
				c.Kind = tstat.Time
			}
		case parquet.Types.Double:
			c.Kind = tstat.Float
		case parquet.Types.Boolean:
			c.Kind = tstat.Bool
		case parquet.Types.ByteArray:
			c.Kind = tstat.Text
		}
		columns = append(columns, c)
	}
	expected, err := emptyFile(columns, nil)
	if err != nil {
		return nil, err
	}
	if !expected.Schema.Root().Equals(sc.Root()) {
		return nil, errColumns
	}
	return columns, nil
}

// widen returns the columns of a, followed by the columns that only b has. It
// returns nil if a column has different types in a and b.
func widen(a, b []tstat.Column) []tstat.Column {
	all := slices.Clone(a)
	for _, c := range b {
		i := slices.IndexFunc(all, func(o tstat.Column) bool { return o.Name == c.Name })
		switch {
		case i < 0:
			all = append(all, c)
		case all[i].Kind != c.Kind:
			return nil
		}
	}
	return all
}

// span is the range [from, to) of row indexes.
type span struct{ from, to int64 }

// Row groups with at least minCopied rows are copied unchanged, if possible. Smaller row
// groups are merged with their neighbors, because a footer that lists many small row
// groups would be larger than their rows.
const minCopied = 4 << 10

// scratchSize is the size, in bytes, that assembly.scratch may reach before its row
// groups are written to the file.
const scratchSize = 32 << 20

// assembly writes a Parquet file with rows from other files. It copies large row groups
// unchanged and merges small ones.
type assembly struct {
	ctx     context.Context
	store   *Store
	out     *os.File
	pos     int64
	columns []tstat.Column
	groups  *metadata.FileMetaData // the row groups of out
	rows    int64

	w       *writer // writes to scratch
	scratch *bytes.Buffer
	pending *group // a small row group that may be merged with the next one
	current *stored
}

// group is a range of rows in a row group of a stored file.
type group struct {
	s     *stored
	index int
	keep  span
}

// magic is at the start and the end of every Parquet file.
const magic = "PAR1"

// assemble returns an assembly that writes a file with the given columns to out.
func (s *Store) assemble(ctx context.Context, out *os.File, columns []tstat.Column) (*assembly, error) {
	a := &assembly{ctx: ctx, store: s, out: out, columns: columns}
	n, err := out.WriteString(magic)
	a.pos = int64(n)
	return a, err
}

// add appends the rows of s that are in the given ranges; nil means all rows. The
// assembly closes s when it no longer needs it.
func (a *assembly) add(s *stored, keep []span) error {
	a.current = s
	defer func() {
		a.current = nil
		if a.pending == nil || a.pending.s != s {
			s.close()
		}
	}()
	if keep == nil {
		keep = []span{{0, s.Rows}}
	}
	same := slices.Equal(s.columns, a.columns)
	start := int64(0)
	for i, rg := range s.r.MetaData().RowGroups {
		all := span{0, rg.NumRows}
		for _, k := range keep {
			g := &group{s, i, span{max(k.from-start, 0), min(k.to-start, all.to)}}
			if g.keep.from >= g.keep.to {
				continue
			}
			if err := a.ctx.Err(); err != nil {
				return err
			}
			whole := same && g.keep == all && contiguous(s.r.MetaData(), i)
			var err error
			switch {
			case whole && all.to >= minCopied:
				if err = a.flushAll(); err == nil {
					err = a.copy(s.f, s.r.MetaData(), i)
				}
			case whole && a.scratch == nil && a.pending == nil:
				a.pending = g
			default:
				if err = a.decodePending(); err == nil {
					err = a.decode(g)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.f.Name(), err)
			}
		}
		start += all.to
	}
	return nil
}

// flushAll writes what assembly.add left unwritten: either the pending row group,
// which is copied unchanged, or the collected rows. An assembly never has both.
func (a *assembly) flushAll() error {
	if h := a.pending; h != nil {
		a.pending = nil
		err := a.copy(h.s.f, h.s.r.MetaData(), h.index)
		a.closeUnused(h)
		return err
	}
	return a.flush()
}

// decodePending adds the rows of the pending row group, if any, to the collected rows.
func (a *assembly) decodePending() error {
	h := a.pending
	if h == nil {
		return nil
	}
	a.pending = nil
	defer a.closeUnused(h)
	return a.decode(h)
}

// closeUnused closes the file of h, which is no longer pending, unless add is still
// reading that file.
func (a *assembly) closeUnused(h *group) {
	if h.s != a.current {
		h.s.close()
	}
}

// contiguous reports whether the column chunks of a row group follow each other in the
// file without gaps.
func contiguous(m *metadata.FileMetaData, index int) bool {
	from, to, sum := extent(m, index)
	return to-from == sum
}

// extent returns the range of bytes from the first to the last column chunk of a row
// group, and the sum of the chunks' sizes. The sum is -1 if a chunk has no metadata or is
// in another file.
func extent(m *metadata.FileMetaData, index int) (from, to, sum int64) {
	for i, c := range m.RowGroups[index].Columns {
		if c.MetaData == nil || c.FilePath != nil {
			return 0, 0, -1
		}
		start := c.MetaData.DataPageOffset
		if d := c.MetaData.DictionaryPageOffset; d != nil && *d > 0 && *d < start {
			start = *d
		}
		if i == 0 || start < from {
			from = start
		}
		to = max(to, start+c.MetaData.TotalCompressedSize)
		sum += c.MetaData.TotalCompressedSize
	}
	return from, to, sum
}

// copy copies a row group byte for byte from another file, which has the footer m. It
// omits indexes and Bloom filters, which are elsewhere in the file and which tstatrepo
// never writes.
func (a *assembly) copy(in io.ReaderAt, m *metadata.FileMetaData, index int) error {
	from, to, _ := extent(m, index)
	n, err := io.Copy(a.out, io.NewSectionReader(in, from, to-from))
	if err != nil {
		return err
	}
	if n != to-from {
		return io.ErrUnexpectedEOF
	}
	shift := a.pos - from
	moved := func(p *int64) *int64 {
		if p == nil {
			return nil
		}
		v := *p + shift
		return &v
	}
	rg := *m.RowGroups[index]
	rg.Columns = slices.Clone(rg.Columns)
	for i := range rg.Columns {
		c, md := *rg.Columns[i], *rg.Columns[i].MetaData
		md.DataPageOffset += shift
		md.DictionaryPageOffset, md.IndexPageOffset = moved(md.DictionaryPageOffset), nil
		md.BloomFilterOffset, md.BloomFilterLength = nil, nil
		if c.FileOffset > 0 { // a deprecated field that some writers leave 0
			c.FileOffset += shift
		}
		c.OffsetIndexOffset, c.OffsetIndexLength, c.ColumnIndexOffset, c.ColumnIndexLength = nil, nil, nil, nil
		c.MetaData = &md
		rg.Columns[i] = &c
	}
	rg.FileOffset = moved(rg.FileOffset)
	if a.groups == nil {
		if a.groups, err = m.Subset(nil); err != nil {
			return err
		}
	}
	rg.Ordinal = nil
	a.groups.RowGroups = append(a.groups.RowGroups, &rg)
	a.rows += rg.NumRows
	a.pos += n
	return nil
}

// decode decodes the rows of g and adds them to the collected rows.
func (a *assembly) decode(g *group) error {
	if a.scratch != nil && a.scratch.Len() > scratchSize && a.w.group.Rows+int(g.keep.to-g.keep.from) > a.w.max {
		if err := a.flush(); err != nil {
			return err
		}
	}
	if a.scratch == nil {
		a.scratch, a.w = new(bytes.Buffer), a.store.writer()
		a.w.begin(a.scratch, a.columns)
	}
	return a.w.addGroup(g.s, g.index, g.keep)
}

// flush writes the collected rows to the file, as row groups.
func (a *assembly) flush() error {
	if a.scratch == nil {
		return nil
	}
	scratch := a.scratch
	defer a.drop()
	if err := a.w.close(nil); err != nil {
		return err
	}
	in := bytes.NewReader(scratch.Bytes())
	r, err := file.NewParquetReader(in)
	if err != nil {
		return err
	}
	for i := range r.NumRowGroups() {
		if err := a.copy(in, r.MetaData(), i); err != nil {
			return err
		}
	}
	return nil
}

// drop discards the collected rows.
func (a *assembly) drop() {
	if a.scratch != nil {
		a.store.releaseWriter(a.w)
		a.scratch, a.w = nil, nil
	}
}

// discard closes the file of a pending row group and drops the collected rows. It may be
// called after finish.
func (a *assembly) discard() {
	if a.pending != nil {
		a.pending.s.close()
		a.pending = nil
	}
	a.drop()
}

// finish writes the remaining rows and the footer, and syncs the file. The records must
// be in the same order as their rows. For replaces see replacesKey.
func (a *assembly) finish(records []store.Record, replaces []string) error {
	defer a.discard()
	if err := a.flushAll(); err != nil {
		return err
	}
	want := int64(0)
	for i, r := range records {
		want += r.Rows
		records[i].Location = ""
	}
	if want != a.rows {
		return fmt.Errorf("%d rows, but the records have %d", a.rows, want)
	}
	meta, err := footerMetadata(records, replaces)
	if err != nil {
		return err
	}
	// The footer of an empty file has everything but the row groups.
	m, err := emptyFile(a.columns, meta)
	if err != nil {
		return err
	}
	if a.groups != nil {
		m.RowGroups = a.groups.RowGroups
	}
	m.NumRows = a.rows
	n, err := m.WriteTo(a.out, nil)
	if err != nil {
		return err
	}
	if _, err := a.out.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), magic...)); err != nil {
		return err
	}
	return durable.Sync(a.out)
}

// footerMetadata returns tstatrepo's key-value metadata for a footer; for replaces see
// replacesKey.
func footerMetadata(records []store.Record, replaces []string) ([][2]string, error) {
	js, err := losslessjson.Marshal(records)
	if err != nil {
		return nil, err
	}
	meta := [][2]string{{formatKey, strconv.Itoa(format)}, {RecordsKey, string(js)}}
	if len(replaces) > 0 {
		if js, err = losslessjson.Marshal(replaces); err != nil {
			return nil, err
		}
		meta = append(meta, [2]string{replacesKey, string(js)})
	}
	return meta, nil
}
