package pg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Rows encodes the rows of one file. Rows that the database could not take
// are passed to the file's Reject.
type Rows struct {
	enc      *encoder
	own      []Target
	file     store.FileInfo
	rejected int64
	rows     int64 // that Start was called for
	table    Ident
	texts    int               // rows with a text in place of an address
	text     *TextAddressError // about the first of them
}

// RowOptions say what rows are made of.
type RowOptions struct {
	Table   Ident    // that the user knows, for hints
	Own     []Target // columns that are not of the log; Source does not matter
	Targets []Target
	Columns Columns
	// AsWritten: a time stays the number that Tstat wrote, and every text but
	// "-" stays a text, as DBStream's own tables have it.
	AsWritten bool
	// Binary asks for the binary form of COPY. Types whose binary form is not
	// known here keep the text form.
	Binary bool
}

// NewRows returns the encoder of a file.
func NewRows(f store.FileInfo, opt RowOptions) *Rows {
	enc := newEncoder(f.Columns, opt.Targets, opt.AsWritten, opt.Binary && canBinary(opt.Own))
	enc.sep = f.Type.Separator()
	r := &Rows{enc: enc, own: opt.Own, file: f, table: opt.Table}
	if opt.Columns == Drop {
		r.file.Present = nil
	}
	return r
}

// Value is a value of one of the table's own columns: the text if there is
// one, else the time, else the integer.
type Value struct {
	Text string
	Int  int64
	Time time.Time
}

// Begin begins a row with the values of the table's own columns.
func (r *Rows) Begin(dst []byte, own ...Value) []byte {
	if r.enc.binary {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(own)+len(r.enc.cells)))
	}
	for i, v := range own {
		if i > 0 && !r.enc.binary {
			dst = append(dst, r.enc.sep)
		}
		switch t := r.own[i].Type; {
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

// Rejected is how many rows were rejected.
func (r *Rows) Rejected() int64 { return r.rejected }

// Start prepares for the rows of b, see encoder.start. It fails if b has a
// column that the table was not asked for: a later header can bring one.
func (r *Rows) Start(b *tstat.Batch) (changed bool, err error) {
	for i, p := range r.file.Present {
		if !p && !r.enc.has(i) {
			if _, ok := b.Column(i); ok {
				return false, Hinted(fmt.Errorf("line %d: a later header has a column that the table lacks: %s", b.LineNumber(0), Quote(r.file.Columns[i].Name)),
					"columns=drop leaves it out")
			}
		}
	}
	r.rows += int64(b.Len())
	return r.enc.start(b), nil
}

// fewRows is how many rows a log has in which one row with a text in place of
// an address is no accident.
const fewRows = 100

// CheckAddresses fails if the log holds texts where the table wants addresses,
// as anonymized logs do: the other rows alone would be wrong. One such row
// among many is a damaged line, and so only a reject; that is known at the end
// of the file, which final says.
func (r *Rows) CheckAddresses(final bool) error {
	if r.texts > 1 || r.texts == 1 && final && r.rows < fewRows {
		return r.text
	}
	return nil
}

// TextAddressError says that a log holds texts where the table wants addresses.
type TextAddressError struct {
	Line   int64
	Column string
	Value  string
	table  Ident
	inet   []string // all such columns of the table
}

func (e *TextAddressError) Error() string {
	return fmt.Sprintf("line %d: column %s: %.80q is a text, not an address: no row of the log is stored", e.Line, e.Column, e.Value)
}

// Hint says how the table can take the log.
func (e *TextAddressError) Hint() string {
	var alter []string
	for _, name := range e.inet {
		alter = append(alter, fmt.Sprintf("alter %s type text using host(%[1]s)", Quote(name)))
	}
	return "addresses in the log are anonymized; to store them as texts: alter table " + e.table.Sanitize() + " " + strings.Join(alter, ", ")
}

// countText notes a row with a text in place of an address.
func (r *Rows) countText(line int64, err error) {
	var re *rowError
	if !errors.As(err, &re) || !re.text {
		return
	}
	if r.texts++; r.text == nil {
		r.text = &TextAddressError{Line: line, Column: re.column, Value: string(re.value), table: r.table, inet: r.enc.inet}
	}
}

// columns returns the columns of the table that the rows have, in order, see
// Start.
func (r *Rows) columns() []Target { return append(slices.Clone(r.own), r.enc.columns()...) }

// Append appends row i of b to buf, after what Begin wrote, and ends it. It
// reports whether the row is one; else buf is as it was before from.
func (r *Rows) Append(buf []byte, from int, b *tstat.Batch, i int, reason string) ([]byte, bool) {
	buf, err := r.enc.append(buf, i)
	line := b.LineNumber(i)
	if why, ok := r.file.Refused[line]; ok {
		reason = why
	} else if reason == "" && err != nil {
		reason = err.Error()
		r.countText(line, err)
	}
	old := r.file.Append && line <= r.file.After
	if reason != "" {
		r.rejected++
		if r.file.Reject != nil && !old {
			r.file.Reject(line, reason, b.Line(i))
		}
		return buf[:from], false
	}
	if old {
		return buf[:from], false
	}
	if r.enc.binary {
		return buf, true
	}
	return append(buf, '\n'), true
}

// SQLType returns the type of a column that is made for values of c.
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
