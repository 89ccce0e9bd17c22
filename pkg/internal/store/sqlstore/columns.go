package sqlstore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Columns says what happens to columns of a file that a table lacks.
type Columns string

// The ways of Columns.
const (
	Widen  Columns = "widen"  // they are added to the table
	Drop   Columns = "drop"   // they are left out
	Refuse Columns = "refuse" // the file is not stored
)

// ParseColumns parses the setting columns of a URL.
func ParseColumns(text string) (Columns, error) {
	switch c := Columns(text); c {
	case "":
		return Widen, nil
	case Widen, Drop, Refuse:
		return c, nil
	}
	return "", hint.Usage(fmt.Sprintf("columns=%s is unknown", text), "known: widen, drop, refuse")
}

// Widens reports whether tables get new columns.
func (c Columns) Widens() bool { return c == Widen }

// MaxUnknown limits the columns of a table that no known Tstat writes. A table
// of PostgreSQL has room for 1,600 columns, including dropped ones, which
// crafted headers must not use up.
const MaxUnknown = 64

// Missing returns the indexes of the file's columns that must be added to the
// table. own are the columns of the store itself. Missing fails if the file has
// too many unknown columns, and must not be stored.
func (c Columns) Missing(f store.FileInfo, names []string, table map[string]string, own []string) ([]int, error) {
	var m []int
	var unknown []string
	if c == Widen {
		for i, n := range names {
			if n != "" && table[n] == "" && present(f, i) {
				m = append(m, i)
				if i >= len(f.Type.Columns) {
					unknown = append(unknown, n)
				}
			}
		}
	}
	if len(unknown) == 0 {
		return m, nil
	}
	known := names[:len(f.Type.Columns)]
	has := 0
	for n, typ := range table {
		// Unknown columns have the type text. The operator added those of others.
		if isText(typ) && !slices.Contains(known, n) && !slices.Contains(own, n) {
			has++
		}
	}
	if has+len(unknown) > MaxUnknown {
		shown := fmt.Sprintf("%.200q", strings.Join(unknown[:min(len(unknown), 5)], ", "))
		return nil, hint.New(fmt.Sprintf("the log has %d unknown columns that the table lacks, like %s; the table has %d of at most %d", len(unknown), shown, has, MaxUnknown),
			"drop the table's columns that no Tstat writes, or leave unknown columns out with columns=drop")
	}
	return m, nil
}

// isText reports whether a server's name of a type is that of a text type.
func isText(typ string) bool { return typ == "text" || strings.Contains(typ, "String") }

// present reports whether the file has a column.
func present(f store.FileInfo, i int) bool { return f.Present == nil || f.Present[i] }

// Target is a column of a table, and the source of its values.
type Target struct {
	Name   string // in the table
	Type   string // on the server
	Source int    // index into store.FileInfo.Columns
}

// Targets returns the columns of a file that the table has. names are their
// names in the table, "" for a column that is not stored.
func (c Columns) Targets(f store.FileInfo, names []string, table map[string]string) ([]Target, error) {
	var ts []Target
	for i, n := range names {
		switch {
		case n == "":
		case table[n] != "":
			ts = append(ts, Target{n, table[n], i})
		case c == Refuse && present(f, i):
			return nil, hint.New(fmt.Sprintf("the table has no column %q", n), "columns=widen adds it, columns=drop leaves it out")
		}
	}
	return ts, nil
}

// CheckLater fails if a batch has a column that the file did not have at its
// start and that is not stored: a later header may add columns.
func (c Columns) CheckLater(f store.FileInfo, b *tstat.Batch, stored func(column int) bool) error {
	if c == Drop {
		return nil
	}
	for i, p := range f.Present {
		if p || stored(i) {
			continue
		}
		if _, has := b.Column(i); has {
			return hint.New(fmt.Sprintf("line %d: a later header has a column that the table lacks: %q", b.LineNumber(0), f.Columns[i].Name),
				"columns=drop leaves it out")
		}
	}
	return nil
}

// maxName is the length of the longest name that PostgreSQL does not truncate,
// in bytes.
const maxName = 63

// taken are the names of PostgreSQL's own columns.
var taken = []string{"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}

// ColumnNames returns names for a table's columns: in lower case, so that they
// need no quotes, and different from those of own.
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
