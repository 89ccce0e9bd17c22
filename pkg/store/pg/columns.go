package pg

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Columns says what happens to columns of a file that a table lacks.
type Columns string

// The ways of Columns.
const (
	Widen  Columns = "widen"  // the table gets them
	Drop   Columns = "drop"   // they are left out
	Refuse Columns = "refuse" // the file is not stored
)

// ParseColumns reads the setting columns of a URL.
func ParseColumns(text string) (Columns, error) {
	switch c := Columns(text); c {
	case "":
		return Widen, nil
	case Widen, Drop, Refuse:
		return c, nil
	}
	return "", &URLError{fmt.Sprintf("columns=%s is unknown", text), "known: widen, drop, refuse"}
}

// Widens reports whether tables get new columns.
func (c Columns) Widens() bool { return c == Widen }

// Missing returns the indexes of the columns that a table should get: those
// of the file that it lacks.
func (c Columns) Missing(f store.FileInfo, names []string, table map[string]string) []int {
	var m []int
	if c == Widen {
		for i, n := range names {
			if n != "" && table[n] == "" && present(f, i) {
				m = append(m, i)
			}
		}
	}
	return m
}

// present reports whether the file has a column.
func present(f store.FileInfo, i int) bool { return f.Present == nil || f.Present[i] }

// Targets returns the columns of a file that a table has. names are the
// table's, "" for a column that stays out.
func (c Columns) Targets(f store.FileInfo, names []string, table map[string]string) ([]Target, error) {
	var ts []Target
	for i, n := range names {
		switch {
		case n == "":
		case table[n] != "":
			ts = append(ts, Target{n, table[n], i})
		case c == Refuse && present(f, i):
			return nil, Hinted(fmt.Errorf("the table has no column %s", Quote(n)), "columns=widen adds it, columns=drop leaves it out")
		}
	}
	return ts, nil
}

// maxName is the longest name that PostgreSQL does not cut off, in bytes.
const maxName = 63

// taken are the names of PostgreSQL's own columns.
var taken = []string{"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}

// ColumnNames returns names for a table's columns: in lower case, so that
// nobody has to quote them, and different from those of own.
func ColumnNames(columns []tstat.Column, own []string) []string {
	seen := map[string]bool{}
	for _, n := range slices.Concat(taken, own) {
		seen[n] = true
	}
	names := make([]string, len(columns))
	for i, c := range columns {
		base := strings.ToLower(c.Name)
		name := base
		for n := 2; seen[name]; n++ {
			suffix := "_" + strconv.Itoa(n)
			name = base[:min(len(base), maxName-len(suffix))] + suffix
		}
		seen[name] = true
		names[i] = name
	}
	return names
}

// AddColumns adds columns to a table: those of the given indexes, of the types
// that sqlType says.
func AddColumns(ctx context.Context, tx pgx.Tx, table Ident, indexes []int, columns []tstat.Column, names []string, sqlType func(tstat.Column) string) error {
	var b strings.Builder
	b.WriteString("alter table " + table.Sanitize())
	for i, c := range indexes {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(" add column " + Quote(names[c]) + " " + sqlType(columns[c]))
	}
	_, err := tx.Exec(ctx, b.String())
	return err
}

// hinted is an error with a hint.
type hinted struct {
	error
	hint string
}

// Hinted adds a hint to an error.
func Hinted(err error, hint string) error { return &hinted{err, hint} }

func (h *hinted) Unwrap() error { return h.error }
func (h *hinted) Hint() string  { return h.hint }
