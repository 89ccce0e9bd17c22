package pgdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Rows encodes the rows of one file. Rows that the database cannot hold are
// passed to FileInfo.Reject.
type Rows struct {
	enc      *encoder
	file     store.FileInfo
	opt      RowOptions
	rejected int64
	rows     int64 // passed to Start
	texts    int   // rows with a text in place of an address, see isText
	textErr  error // the error of the first such row
}

// RowOptions configures Rows.
type RowOptions struct {
	Table   Ident             // the table's name for hints
	Own     []sqlstore.Target // columns besides those of the log; Source is ignored
	Targets []sqlstore.Target
	Columns sqlstore.Columns
	// Skip is the number of lines at the start of the file that the table
	// already has.
	Skip int64
	// AsWritten stores times as the numbers that Tstat wrote, and all text
	// except "-" as it is, as in DBStream's own tables.
	AsWritten bool
	// Forget is called when an error shows that the table has changed. It
	// discards the cached state of the table.
	Forget func()
	// binary requests the binary form of COPY. Unsupported types use the
	// text form.
	binary bool
}

// newRows returns the Rows for a file.
func newRows(f store.FileInfo, opt RowOptions) *Rows {
	enc := newEncoder(f.Columns, opt.Targets, opt.AsWritten, opt.binary && canBinary(opt.Own))
	enc.sep = f.Type.Separator()
	return &Rows{enc: enc, file: f, opt: opt}
}

// Value is a value for one of the columns in RowOptions.Own: its Text if set, else its
// Time if set, else its Int.
type Value struct {
	Text string
	Int  int64
	Time time.Time
}

// Begin appends the start of a row to dst. own holds the values of the columns in
// RowOptions.Own.
func (r *Rows) Begin(dst []byte, own ...Value) []byte {
	if r.enc.binary {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(own)+len(r.enc.cells)))
	}
	for i, v := range own {
		if i > 0 && !r.enc.binary {
			dst = append(dst, r.enc.sep)
		}
		switch t := r.opt.Own[i].Type; {
		case r.enc.binary && v.Text != "":
			dst = appendBytes(dst, []byte(v.Text))
		case r.enc.binary && !v.Time.IsZero():
			dst = appendNumber(dst, uint64(v.Time.UnixMicro()-epoch), 8)
		case r.enc.binary:
			dst = appendNumber(dst, uint64(v.Int), sizes[t])
		case v.Text != "":
			dst = appendText(dst, []byte(v.Text), r.enc.sep)
		case !v.Time.IsZero():
			dst = AppendTime(dst, v.Time)
		default:
			dst = strconv.AppendInt(dst, v.Int, 10)
		}
	}
	return dst
}

// Start prepares for the rows of b, and reports whether the result of r.columns has
// changed; see encoder.start. It returns an error if a later header in the file has
// added a column that is not stored, see sqlstore.Columns.CheckLater.
func (r *Rows) Start(b *tstat.Batch) (changed bool, err error) {
	if err := r.opt.Columns.CheckLater(r.file, b, r.enc.has); err != nil {
		return false, err
	}
	r.rows += int64(b.Len())
	return r.enc.start(b), nil
}

// manyTexts limits early failures: checkAddresses fails before the end of a log only if
// at least manyTexts rows have text in place of an address.
const manyTexts = 100

// checkAddresses returns an error if more than 1 % of the rows have text in place of an
// address, as in anonymized logs. Storing only the remaining rows would be wrong. If
// fewer rows are affected, they count as damaged lines and become rejects.
//
// final is set at the end of the log. Before that, checkAddresses returns an error only
// if most rows, and at least manyTexts, are affected.
//
// The next attempt reads the types of the columns again, because the user may follow the
// hint of the error meanwhile.
func (r *Rows) checkAddresses(final bool) error {
	texts := int64(r.texts)
	if final && texts*100 > r.rows || texts >= manyTexts && texts*2 > r.rows {
		r.opt.Forget()
		return r.textErr
	}
	return nil
}

// countText counts a row if err says that the row has text in place of an address. line
// is the row's line number.
func (r *Rows) countText(line int64, err error) {
	var re *rowError
	if !errors.As(err, &re) || !re.text {
		return
	}
	if r.texts++; r.textErr != nil {
		return
	}
	var alter []string
	for _, name := range r.enc.inet {
		alter = append(alter, fmt.Sprintf("alter %s type text using host(%[1]s)", Quote(name)))
	}
	value := fmt.Sprintf("%.80q", re.value)
	if r.file.Private {
		value = "it"
	}
	r.textErr = hint.New(fmt.Sprintf("line %d: column %s: %s is a text, not an address: no row of the log is stored", line, re.column, value),
		"addresses in the log are anonymized; to store them as texts: alter table "+r.opt.Table.Sanitize()+" "+strings.Join(alter, ", "))
}

// columns returns the columns of the rows, in order; see Start.
func (r *Rows) columns() []sqlstore.Target {
	return append(slices.Clone(r.opt.Own), r.enc.columns()...)
}

// Append appends row i of b to a batch. begin is the start of the row as returned by
// Begin. Append rejects the row if reason is not empty or the table cannot hold the
// values. It skips a row that the table already has, see RowOptions.Skip. It reports
// whether it appended the row.
func (r *Rows) Append(to *Batch, begin []byte, b *tstat.Batch, i int, reason string) bool {
	from := len(to.data)
	data, err := r.enc.append(append(to.data, begin...), i)
	line := b.LineNumber(i)
	if reason == "" && err != nil {
		var re *rowError
		if errors.As(err, &re) {
			re.private = r.file.Private
		}
		reason = err.Error()
		r.countText(line, err)
	}
	if reason != "" {
		r.rejected++
	}
	old := line <= r.opt.Skip
	switch {
	case reason != "" || old:
		data = data[:from]
	case !r.enc.binary:
		data = append(data, '\n')
	}
	if to.data = data; !old {
		to.add(line, b.Line(i), reason)
	}
	return reason == "" && !old
}

// SQLType returns the type of a new column for values of c.
func SQLType(c tstat.Column) string {
	switch c.Kind {
	case tstat.Int:
		return "bigint"
	case tstat.Float:
		return "double precision"
	case tstat.Bool:
		return "boolean"
	case tstat.Time:
		return "timestamptz"
	}
	if c.Unit == "address" {
		return "inet"
	}
	return "text"
}
