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

// Columns says what to do if a file has columns that the table for the file's rows
// lacks.
type Columns string

// The values of Columns.
const (
	Widen  Columns = "widen"  // add the columns to the table
	Drop   Columns = "drop"   // leave the columns out
	Refuse Columns = "refuse" // do not store the file
)

// ParseColumns parses the value of the URL option "columns".
func ParseColumns(text string) (Columns, error) {
	switch c := Columns(text); c {
	case "":
		return Widen, nil
	case Widen, Drop, Refuse:
		return c, nil
	}
	return "", hint.Usage(fmt.Sprintf("columns=%s is unknown", text), "known: widen, drop, refuse")
}

// Widens reports whether missing columns are added to tables.
func (c Columns) Widens() bool { return c == Widen }

// MaxUnknown is the maximum number of unknown columns in a table, that is, columns that
// no known Tstat version writes. A PostgreSQL table can have 1,600 columns, including
// dropped ones; crafted headers must not use them up.
const MaxUnknown = 64

// Missing returns the indexes of the file's columns that must be added to the table.
// names[i] is the name that the table uses for column i of the file. table maps the names
// of the table's columns to their types. own lists the columns that the store itself adds
// to every table. Missing returns an error if the table would get more than MaxUnknown
// unknown columns.
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
		// Unknown columns are added with a text type, so columns of other types
		// were added by the operator.
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

// isText reports whether typ is a server's name for a text type.
func isText(typ string) bool { return typ == "text" || strings.Contains(typ, "String") }

// present reports whether the file has column i, see store.FileInfo.Present.
func present(f store.FileInfo, i int) bool { return f.Present == nil || f.Present[i] }

// Target is a table's column and the source of its values.
type Target struct {
	Name   string // in the table
	Type   string // on the server
	Source int    // index into store.FileInfo.Columns
}

// Targets returns a Target for each column of f that the table has. names contains, for
// each column of f, its name in the table, or "" if the column is not stored. table maps
// the table's column names to their types. If c is Refuse and the table lacks a column of
// the file that is to be stored, Targets returns an error.
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

// CheckLater returns an error if b has a column that first appears in a later header of
// the file and is not stored. If c is Drop, CheckLater always returns nil. stored reports
// whether the store keeps f.Columns[column].
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

// maxName is the length, in bytes, of the longest name that PostgreSQL does not
// truncate.
const maxName = 63

// systemColumns are PostgreSQL's own columns. Other columns cannot have these
// names.
var systemColumns = []string{"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}

// ColumnNames returns the names that a table uses for the given columns. The names are
// unique and in lower case, so they need no quotes. They differ from systemColumns and
// from own, the names of the columns that the store itself adds to the table.
func ColumnNames(columns []tstat.Column, own []string) []string {
	seen := map[string]bool{}
	for _, n := range slices.Concat(systemColumns, own) {
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
