package pg

import (
	"fmt"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Rows encodes the rows of one file. Rows that the database could not take
// are passed to the file's Reject.
type Rows struct {
	enc      *Encoder
	file     store.FileInfo
	rejected int64
}

// NewRows returns the encoder of a file.
func NewRows(f store.FileInfo, enc *Encoder, c Columns) *Rows {
	if c == Drop {
		f.Present = nil
	}
	return &Rows{enc: enc, file: f}
}

// Rejected is how many rows were rejected.
func (r *Rows) Rejected() int64 { return r.rejected }

// Start prepares for the rows of b, see Encoder.Start. It fails if b has a
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
	return r.enc.Start(b), nil
}

// Names returns the columns of the table that the rows have, in order, see
// Start.
func (r *Rows) Names() []string { return r.enc.Names() }

// Append appends row i of b to buf, after buf's own columns, and a newline.
// It reports whether the row is one; else buf is as it was before from.
func (r *Rows) Append(buf []byte, from int, b *tstat.Batch, i int, reason string) ([]byte, bool) {
	buf, err := r.enc.Append(buf, i)
	line := b.LineNumber(i)
	if why, ok := r.file.Refused[line]; ok {
		reason = why
	} else if reason == "" && err != nil {
		reason = err.Error()
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
