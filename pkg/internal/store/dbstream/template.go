package dbstream

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// templatesTSV lists the Tstat columns of the template tables in DBStream's
// initialize.sql. Each line has a template, a column and the column's type.
//
//go:embed templates.tsv
var templatesTSV string

// allSuffix is the suffix of tstatrepo's own templates, which have all columns
// of a log type.
const allSuffix = "_all"

// templateOf returns the template for the streams of a log type.
func templateOf(c config, t *tstat.LogType) string {
	switch {
	case c.template != "":
		return c.template
	case t.Name == "log_tcp_complete":
		return "log_tcp_complete_v15"
	case t.Name == "log_video_complete":
		return "log_video_complete"
	}
	return t.Name + allSuffix
}

// ensureTemplate creates the template of a log type if it does not exist.
func (s *Store) ensureTemplate(ctx context.Context, tx pgx.Tx, lt *tstat.LogType) (pgdb.Ident, error) {
	name := templateOf(s.cfg, lt)
	table := pgdb.Ident{public, name}
	t, err := pgdb.FindTable(ctx, tx, table)
	if err != nil {
		return nil, err
	}
	if t != nil {
		if t.Columns[colSerial] == "" {
			return nil, hint.Usage(fmt.Sprintf("table %s is not a template: it lacks column %s", table.Sanitize(), colSerial), "leave template= out to use the usual one")
		}
		return table, nil
	}
	var cols []string
	for line := range strings.Lines(templatesTSV) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if f[0] == name {
			cols = append(cols, pgdb.Quote(f[1])+" "+f[2])
		}
	}
	if cols == nil && name == lt.Name+allSuffix {
		cols = append(cols, pgdb.Quote(colSerial)+" integer")
		for i, n := range sqlstore.ColumnNames(lt.Columns, ownColumns) {
			cols = append(cols, pgdb.Quote(n)+" "+pgdb.SQLType(lt.Columns[i]))
		}
	}
	if cols == nil {
		return nil, hint.Usage(fmt.Sprintf("template %s does not exist", table.Sanitize()), "known: "+lt.Name+allSuffix+", log_tcp_complete_v15 and log_video_complete, and tables that you made")
	}
	_, err = tx.Exec(ctx, "create table "+table.Sanitize()+" ("+strings.Join(cols, ", ")+")")
	return table, err
}

// ownColumns lists the columns that every stream has besides those from logs.
var ownColumns = []string{colSerial}

// older maps names of columns to the older names that DBStream uses.
var older = map[string]string{"c_tls_sni": "c_ssl_sni", "s_tls_scn": "s_ssl_scn"}

// columnNames returns the names that a file's columns have in a table, or would
// get if they were added. The name is "" for a column that is not stored.
func columnNames(f store.FileInfo, c config, table map[string]string) []string {
	names := sqlstore.ColumnNames(f.Columns, ownColumns)
	for i, n := range names {
		if o := older[n]; table[n] == "" && table[o] != "" {
			names[i] = o
		}
	}
	if f.Type.Name != "log_video_complete" || strings.HasSuffix(templateOf(c, f.Type), allSuffix) {
		return names
	}
	// In Tstat 2, first and last are relative to first_abs.
	relative := has(f, "first_rel_ms")
	for i, n := range names {
		switch n {
		case "first_rel_ms":
			names[i] = "first"
		case "last_rel_ms":
			names[i] = "last"
		case "first": // equals first_abs in files that have it
			if names[i] = "first_abs"; relative {
				names[i] = ""
			}
		case "last":
			if names[i] = "last_abs"; relative {
				names[i] = ""
			}
		case "first_abs":
			if !relative {
				names[i] = ""
			}
		}
	}
	return names
}

// has reports whether a file has the column with the given name.
func has(f store.FileInfo, name string) bool {
	i := f.Type.Column(name)
	return i >= 0 && (f.Present == nil || f.Present[i])
}

// columnType returns a function that chooses the SQL type of a new column. In
// DBStream's own tables, times and flags are numbers, as Tstat writes them.
func columnType(c config, t *tstat.LogType) func(tstat.Column) string {
	if strings.HasSuffix(templateOf(c, t), allSuffix) {
		return pgdb.SQLType
	}
	return func(col tstat.Column) string {
		switch col.Kind {
		case tstat.Time:
			return "double precision"
		case tstat.Bool:
			return "smallint"
		}
		return pgdb.SQLType(col)
	}
}
