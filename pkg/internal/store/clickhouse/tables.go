package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// The columns that precede the log's columns in every table.
const (
	colProbe  = "probe"
	colFolder = "folder"
	colTime   = "folder_time"
	colFile   = "file_id"
)

var ownColumns = []struct{ name, typ string }{{colProbe, "String"}, {colFolder, "String"}, {colTime, "DateTime"}, {colFile, "UInt64"}}

// micros is the suffix of the column with the microseconds of a time, on servers
// without DateTime64.
const micros = "_us"

// names returns the names that the columns of f have in the table of its log type. They
// are the same as in the PostgreSQL store, so that the same queries work.
func names(f store.FileInfo) []string { return sqlstore.ColumnNames(f.Columns, ownNames(f.Type)) }

// ownNames returns the names that a table may use for the store's own columns: the names
// in ownColumns, and one for the microseconds of each time in the log.
func ownNames(typ *tstat.LogType) (own []string) {
	for _, c := range ownColumns {
		own = append(own, c.name)
	}
	for _, c := range typ.Columns {
		if c.Kind == tstat.Time {
			own = append(own, strings.ToLower(c.Name)+micros)
		}
	}
	return own
}

// Names of a log type's tables. The view has the name of the log type. On a cluster, the
// local table holds the rows of one node, and the table of rows is a Distributed table
// over all local tables.
func rowsTable(logType string) string  { return logType + "_rows" }
func localTable(logType string) string { return logType + "_local" }

// dataTable returns the name of the table that stores the rows of a log type: the local
// table on a cluster, and the table of rows otherwise.
func (s *Store) dataTable(logType string) string {
	if s.cluster {
		return localTable(logType)
	}
	return rowsTable(logType)
}

// onCluster returns the ON CLUSTER clause that follows the name of a table in DDL. It
// is empty without a cluster.
func (s *Store) onCluster() string {
	if s.cluster {
		return " on cluster " + name(s.cfg.cluster)
	}
	return ""
}

// ddlTimeout is how long DDL waits for the nodes of a cluster, in seconds. A node
// that is down executes the statement after its restart.
const ddlTimeout = "20"

// change runs DDL. If nodes of the cluster do not respond within ddlTimeout, it logs a
// warning instead of returning an error.
func (s *Store) change(ctx context.Context, host string, p params, sql string) error {
	all := params{"distributed_ddl_task_timeout": ddlTimeout}
	maps.Copy(all, p)
	err := s.query(ctx, host, all, sql, func([]string) error { return nil })
	if s.cluster && codeOf(err) == codeTimeout && strings.Contains(err.Error(), "distributed_ddl_task_timeout") {
		s.log.Warn("some nodes of the cluster are unavailable", "store", s.url, "err", err)
		return nil
	}
	return err
}

// columns returns the types of a table's columns by name. The map is empty if the
// table does not exist.
func (s *Store) columns(ctx context.Context, host, table string) (map[string]string, error) {
	cols := map[string]string{}
	err := s.query(ctx, host, nil, "select name, type from system.columns where database = "+text(s.cfg.database)+" and table = "+text(table), func(row []string) error {
		if len(row) != 2 {
			return errFields
		}
		cols[row[0]] = row[1]
		return nil
	})
	return cols, err
}

var errFields = errors.New("unexpected number of fields")

// serviceEngine returns the engine clause of the table of records or claims, and appends
// the rest of the table's definition to it. On a cluster, every node has all of the
// table's rows.
func (s *Store) serviceEngine(table, rest string) string {
	if !s.cluster {
		return " engine = MergeTree " + rest
	}
	return " engine = ReplicatedMergeTree(" + text("/clickhouse/tstatrepo/"+s.cfg.database+"/"+table) + ", '{shard}-{replica}') " + rest
}

// createService creates the database and the tables that do not belong to a log
// type.
func (s *Store) createService(ctx context.Context) error {
	missing := true
	err := s.query(ctx, "", noDatabase, "select name from system.databases where name = "+text(s.cfg.database), func([]string) error {
		missing = false
		return nil
	})
	if err != nil {
		return err
	}
	if missing {
		if err := s.change(ctx, "", noDatabase, "create database if not exists "+name(s.cfg.database)+s.onCluster()); err != nil {
			return fmt.Errorf("create database %s: %w", name(s.cfg.database), err)
		}
	}
	for _, t := range []struct{ name, columns, rest string }{
		{sqlstore.FilesTable, createFiles, "order by " + filesOrder},
		{sqlstore.ClaimsTable, createClaims, "partition by toDate(at) order by " + claimsOrder},
	} {
		existing, err := s.columns(ctx, "", t.name)
		if err != nil {
			return err
		}
		if len(existing) > 0 {
			if t.name == sqlstore.FilesTable {
				if err := s.addColumns(ctx, absent(existing)); errors.Is(err, errNoTransform) {
					s.absent.Store(addedColumns[len(addedColumns)-1:])
				} else if err != nil {
					return fmt.Errorf("add columns to table %s, which an older version made: %w", name(s.cfg.database, t.name), err)
				}
			}
			continue
		}
		err = s.change(ctx, "", nil, "create table if not exists "+name(s.cfg.database, t.name)+s.onCluster()+t.columns+s.serviceEngine(t.name, t.rest))
		if err != nil {
			return fmt.Errorf("create table %s: %w", name(s.cfg.database, t.name), err)
		}
	}
	return nil
}

// absent returns the addedColumns that a table of records lacks. It expects the table's
// columns, as returned by Store.columns.
func absent(existing map[string]string) []string {
	return slices.DeleteFunc(slices.Clone(addedColumns), func(def string) bool {
		name, _, _ := strings.Cut(def, " ")
		return existing[name] != ""
	})
}

// absentColumns returns the addedColumns that the table of records lacked when it was last
// looked at.
func (s *Store) absentColumns() []string {
	columns, _ := s.absent.Load().([]string)
	return columns
}

// refreshAbsent looks at the table of records again if it lacked columns, because another
// user may have added them.
func (s *Store) refreshAbsent(ctx context.Context) error {
	if len(s.absentColumns()) == 0 {
		return nil
	}
	t, err := s.columns(ctx, "", sqlstore.FilesTable)
	if err == nil && len(t) > 0 {
		s.absent.Store(absent(t))
	}
	return err
}

// errNoTransform reports that the user has no permission to add colTransform.
var errNoTransform = errors.New("column " + colTransform + " was not added")

// addColumns adds columns to the table of records. On a cluster the table is
// replicated, and the node that gets the statement forwards it to the others. It
// returns errNoTransform if the user has no permission to add colTransform.
func (s *Store) addColumns(ctx context.Context, defs []string) error {
	for _, def := range defs {
		p := params{"replication_alter_partitions_sync": "2"}
		err := s.change(ctx, "", p, "alter table "+s.filesTable()+" add column "+def)
		if err != nil && codeOf(err) != codeDuplicateColumn && codeOf(err) != codeIllegalColumn { // another process added it first
			if def == addedColumns[len(addedColumns)-1] && codeOf(err) == codeAccessDenied {
				err = fmt.Errorf("%w: %w", errNoTransform, err)
			}
			return err
		}
	}
	return nil
}

// maxChanges is the maximum number of times that prepare rereads the tables
// after it or another client has changed them.
const maxChanges = 10

// prepare creates or widens the tables of a file's log type, and returns the types of
// their columns by name. The caller passes names(f) as cols.
func (s *Store) prepare(ctx context.Context, host string, f store.FileInfo, cols []string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[f.Type.Name]; t != nil {
		if missing, err := s.cfg.columns.Missing(f, cols, t, ownNames(f.Type)); err == nil && len(missing) == 0 {
			return t, nil
		}
	}
	for range maxChanges {
		t, changed, err := s.ensure(ctx, host, f, cols)
		switch codeOf(err) {
		case codeDuplicateColumn, codeIllegalColumn, codeTableExists, codeUnknownTable:
			continue // another process was first
		}
		if err != nil {
			return nil, fmt.Errorf("prepare table %s: %w", name(s.cfg.database, f.Type.Name), err)
		}
		if !changed {
			s.tables[f.Type.Name] = t
			return t, nil
		}
	}
	return nil, fmt.Errorf("prepare table %s: other clients keep changing it", name(s.cfg.database, f.Type.Name))
}

// forget discards the cached columns of a log type's table. It is called after an
// error that shows that someone has changed the table.
func (s *Store) forget(logType string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, logType)
}

// ensure makes the next change that the tables of a file's log type need, and reports
// whether it changed anything. If the tables need no change, it returns the types of
// their columns by name.
func (s *Store) ensure(ctx context.Context, host string, f store.FileInfo, cols []string) (_ map[string]string, changed bool, err error) {
	typ := f.Type.Name
	data := s.dataTable(typ)
	existing, err := s.columns(ctx, host, data)
	if err != nil {
		return nil, false, err
	}
	missing, err := s.cfg.columns.Missing(f, cols, existing, ownNames(f.Type))
	if err != nil {
		return nil, false, err
	}
	if len(existing) == 0 {
		return nil, true, s.change(ctx, host, nil, "create table if not exists "+name(s.cfg.database, data)+s.onCluster()+s.definition(f, cols)+s.dataEngine(data))
	}
	for _, own := range ownColumns {
		if base, _, _ := strings.Cut(unwrap(existing[own.name], "LowCardinality"), "("); base != own.typ {
			return nil, false, hint.Add(fmt.Errorf("%s exists, but has no column %s of type %s", name(data), own.name, own.typ), "import into another database")
		}
	}
	var add []string
	for _, c := range missing {
		for _, def := range s.columnDefs(cols[c], f.Columns[c]) {
			add = append(add, "add column "+def)
		}
	}
	if len(add) > 0 {
		return nil, true, s.change(ctx, host, nil, "alter table "+name(s.cfg.database, data)+s.onCluster()+" "+strings.Join(add, ", "))
	}
	if s.cluster {
		changed, err := s.ensureDerived(ctx, host, rowsTable(typ), "Distributed", existing, func(table string) string {
			return "create table if not exists " + name(s.cfg.database, table) + s.onCluster() + " as " + name(s.cfg.database, data) +
				fmt.Sprintf(" engine = Distributed(%s, %s, %s, %s)", name(s.cfg.cluster), name(s.cfg.database), name(data), colFile)
		})
		if err != nil || changed {
			return nil, changed, err
		}
	}
	changed, err = s.ensureDerived(ctx, host, typ, "View", existing, func(view string) string {
		in := " in "
		if s.cluster {
			in = " global in "
		}
		return "create view if not exists " + name(s.cfg.database, view) + s.onCluster() + " as select " + strings.Join(s.orderedNames(existing), ", ") +
			" from " + name(s.cfg.database, rowsTable(typ)) + " where " + colFile + in + "(" + s.visible(typ) + ")"
	})
	return existing, changed, err
}

// ensureDerived creates a view or Distributed table, which stores no rows itself. It
// replaces an existing view or table that lacks one of the given columns. It also
// replaces a view if lacksPlaces returns true for it. It reports whether it changed
// anything.
func (s *Store) ensureDerived(ctx context.Context, host, table, engine string, columns map[string]string, create func(table string) string) (changed bool, err error) {
	existing, err := s.columns(ctx, host, table)
	if err != nil {
		return false, err
	}
	lacks := false
	for n := range columns {
		lacks = lacks || existing[n] == ""
	}
	if !lacks && engine == "View" {
		lacks, err = s.lacksPlaces(ctx, host, table)
	}
	switch {
	case !lacks:
		return false, err
	case len(existing) == 0:
		return true, s.change(ctx, host, nil, create(table))
	}
	err = s.query(ctx, host, nil, "select engine from system.tables where database = "+text(s.cfg.database)+" and name = "+text(table), func(row []string) error {
		if row[0] != engine {
			return hint.Add(fmt.Errorf("%s exists, but its engine is not %s", name(table), engine), "import into another database")
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	// Old servers can neither change a view nor replace it in one step.
	number := fmt.Sprintf("_%016x", rand.Uint64())
	next, old := table+"_new"+number, table+"_old"+number
	if err := s.change(ctx, host, nil, create(next)); err != nil {
		return true, err
	}
	err = s.change(ctx, host, nil, "rename table "+name(s.cfg.database, table)+" to "+name(s.cfg.database, old)+", "+
		name(s.cfg.database, next)+" to "+name(s.cfg.database, table)+s.onCluster())
	if err == nil {
		next = old
	}
	return true, errors.Join(err, s.change(ctx, host, nil, "drop table if exists "+name(s.cfg.database, next)+s.onCluster()))
}

// wordPlace matches the column name place in a view's definition.
var wordPlace = regexp.MustCompile(`\bplace\b`)

// lacksPlaces reports whether a view was created by one of the first versions. Such a
// view shows the rows of a log only once, even if logs with the same content are
// stored for several places; see store.Record.Place.
func (s *Store) lacksPlaces(ctx context.Context, host, view string) (bool, error) {
	var def string
	err := s.query(ctx, host, nil, "show create table "+name(s.cfg.database, view), func(row []string) error {
		def += strings.Join(row, " ")
		return nil
	})
	return err == nil && !wordPlace.MatchString(def), err
}

// columnDefs returns the SQL definitions of the one or two columns that hold the
// values of c. n is the name of the first.
func (s *Store) columnDefs(n string, c tstat.Column) []string {
	typ := map[tstat.Kind]string{tstat.Int: "Int64", tstat.Float: "Float64", tstat.Bool: "UInt8", tstat.Text: "String"}[c.Kind]
	if c.Kind != tstat.Time {
		return []string{name(n) + " Nullable(" + typ + ")"}
	}
	if s.dateTime == "DateTime64" {
		return []string{name(n) + " Nullable(DateTime64(6, 'UTC'))"}
	}
	return []string{name(n) + " Nullable(DateTime('UTC'))", name(n+micros) + " Nullable(UInt32)"}
}

// definition returns the columns of a new table. The table gets the columns of
// every Tstat version. If the file may widen tables, it also gets the file's
// other columns.
func (s *Store) definition(f store.FileInfo, cols []string) string {
	all := f.Columns
	if !s.cfg.columns.Widens() {
		all = f.Type.Columns
	}
	defs := []string{
		name(colProbe) + " " + s.shortText, name(colFolder) + " " + s.shortText,
		name(colTime) + " DateTime('UTC')", name(colFile) + " UInt64",
	}
	for i, c := range all {
		defs = append(defs, s.columnDefs(cols[i], c)...)
	}
	return " (" + strings.Join(defs, ", ") + ")"
}

// dataEngine returns the engine of the table of rows. The sorting key keeps the rows of a
// file together. Each partition holds one day, so that a whole day can be dropped at
// once.
func (s *Store) dataEngine(table string) string {
	const rest = "partition by toDate(" + colTime + ") order by (" + colTime + ", " + colProbe + ", " + colFile + ")"
	if !s.cluster {
		return " engine = MergeTree " + rest
	}
	return " engine = ReplicatedMergeTree(" + text("/clickhouse/tables/{shard}/"+s.cfg.database+"/"+table) + ", '{replica}') " + rest
}

// orderedNames returns the quoted names of columns: first the store's own, then
// the others in alphabetical order.
func (s *Store) orderedNames(columns map[string]string) []string {
	var out []string
	for _, own := range ownColumns {
		out = append(out, name(own.name))
	}
	var rest []string
	for n := range columns {
		if q := name(n); !slices.Contains(out, q) {
			rest = append(rest, q)
		}
	}
	slices.Sort(rest)
	return append(out, rest...)
}

// targets returns the columns of a table for which a file has values. A block
// must use exactly the table's types, because old servers crash on others.
func (s *Store) targets(f store.FileInfo, cols []string, table map[string]string) ([]target, error) {
	found, err := s.cfg.columns.Targets(f, cols, table)
	if err != nil {
		return nil, err
	}
	var out []target
	for _, t := range found {
		kind := f.Columns[t.Source].Kind
		add := func(n string) error {
			form, nullable, ok := formOf(table[n], kind)
			if !ok {
				return hint.Add(fmt.Errorf("column %s of the table has the type %s, which does not fit %s", name(n), table[n], kind), "import into another database")
			}
			out = append(out, target{name: n, typ: table[n], form: form, nullable: nullable, source: t.Source})
			return nil
		}
		if err := add(t.Name); err != nil {
			return nil, err
		}
		if kind == tstat.Time && table[t.Name+micros] != "" {
			if err := add(t.Name + micros); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
