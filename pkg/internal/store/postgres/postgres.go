// Package postgres stores rows in PostgreSQL: one table per log type, with
// one schema for all Tstat versions, partitioned by the day of the log folder.
//
// Every row carries its probe, its folder and the id of its file's record in
// tstatrepo_files. A file's rows and its record are stored in one transaction.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// settings are the URL options that this package interprets. All other options of the
// URL are libpq's; see pgdb.SplitURL.
var settings = []string{"schema", "columns", "copy"}

// Options configures Open.
type Options struct {
	pgdb.Options
	// ReadOnly keeps Open from creating anything. The caller must then not modify the
	// store.
	ReadOnly bool
}

// Store stores rows in one schema of a PostgreSQL database.
type Store struct {
	*pgdb.DB
	schema  string
	columns sqlstore.Columns

	mu     sync.Mutex
	tables map[string]*table // per log type
}

// Several importers can share the store; see pgdb.DB.
var _ store.Claimer = (*Store)(nil)

// table is the cached state of a table.
type table struct {
	*pgdb.Table
	days map[string]bool // YYYYMMDD of the partitions known to exist
}

// Check returns an error if text is not a valid URL for Open. It does not connect.
func Check(text string) error {
	_, _, err := parse(text)
	return err
}

func parse(text string) (string, dest.Options, error) {
	dsn, own, err := pgdb.SplitURL(text, settings...)
	if err != nil {
		return "", nil, err
	}
	if _, err = sqlstore.ParseColumns(own["columns"]); err == nil {
		_, err = pgdb.ParseForm(own["copy"])
	}
	return dsn, own, err
}

// Open connects to the database at a URL, postgres://USER@HOST/DATABASE.
func Open(ctx context.Context, text string, opt Options) (*Store, error) {
	dsn, own, err := parse(text)
	if err != nil {
		return nil, err
	}
	opt.Form, _ = pgdb.ParseForm(own["copy"])
	db, err := pgdb.Open(ctx, dsn, text, opt.Options)
	if err != nil {
		return nil, err
	}
	s := &Store{DB: db, schema: own["schema"], tables: map[string]*table{}}
	s.columns, _ = sqlstore.ParseColumns(own["columns"])
	if err := s.Retry(ctx, func() error { return s.open(ctx, opt.ReadOnly) }); err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, readOnly bool) error {
	if s.schema == "" { // the first in the search path
		var name *string
		if err := s.Pool.QueryRow(ctx, "select current_schema()::text").Scan(&name); err != nil {
			return err
		}
		if name == nil {
			return hint.Add(errors.New("no schema in the search path exists"), "name one: ?schema=NAME")
		}
		s.schema = *name
	}
	var missing bool
	if err := s.Pool.QueryRow(ctx, "select to_regnamespace($1) is null", pgdb.Quote(s.schema)).Scan(&missing); err != nil {
		return err
	}
	if missing && !readOnly {
		err := s.Change(ctx, s.schema, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "create schema if not exists "+pgdb.Quote(s.schema))
			return err
		})
		if err != nil {
			return fmt.Errorf("create schema %s: %w", pgdb.Quote(s.schema), err)
		}
	}
	return s.UseRecords(ctx, s.schema, readOnly, func(k store.Key) string { return k.File })
}

// Close ends all connections.
func (s *Store) Close() error {
	s.DB.Close()
	return nil
}

// The columns that precede the log's columns in every table.
const (
	colProbe  = "probe"
	colFolder = "folder"
	colTime   = "folder_time"
	colFile   = "file_id"
)

var ownColumns = []string{colProbe, colFolder, colTime, colFile}

// names returns the names that a table uses for the columns of a file. They are in lower
// case, so that they need no quotes, and differ from ownColumns and from PostgreSQL's
// system columns.
func names(columns []tstat.Column) []string { return sqlstore.ColumnNames(columns, ownColumns) }

// Begin implements store.Store.
func (s *Store) Begin(ctx context.Context, f store.FileInfo) (store.FileTx, error) {
	if err := sqlstore.CheckKey(f.Key); err != nil {
		return nil, err
	}
	cols := names(f.Columns)
	t, err := s.prepare(ctx, f, cols)
	if err != nil {
		return nil, err
	}
	// COPY leaves out columns that the file lacks, which makes them NULL.
	targets, err := s.columns.Targets(f, cols, t.Columns)
	if err != nil {
		s.forget(f.Type.Name) // the user may add the column
		return nil, err
	}
	var own []sqlstore.Target
	for _, name := range ownColumns {
		own = append(own, sqlstore.Target{Name: name, Type: t.Columns[name]})
	}
	table := pgdb.Ident{s.schema, f.Type.Name}
	tx, err := s.DB.Begin(ctx, f, pgdb.RowOptions{Table: table, Own: own, Targets: targets, Columns: s.columns,
		Forget: func() { s.forget(f.Type.Name) }})
	if err != nil {
		return nil, err
	}
	return &fileTx{Tx: tx, table: table, own: []pgdb.Value{{Text: f.Probe}, {Text: f.Folder}, {Time: f.Time}, {Int: tx.ID}}}, nil
}

// prepare creates the table, columns and partition that f needs, unless they exist, and
// returns the table. cols are the names that the table uses for f.Columns.
func (s *Store) prepare(ctx context.Context, f store.FileInfo, cols []string) (*pgdb.Table, error) {
	day := f.Time.UTC().Format("20060102")
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[f.Type.Name]
	if t != nil && t.days[day] {
		if missing, err := s.columns.Missing(f, cols, t.Columns, ownColumns); err == nil && len(missing) == 0 {
			return t.Table, nil
		}
	}
	name := pgdb.Ident{s.schema, f.Type.Name}
	var found *pgdb.Table
	err := s.Change(ctx, name.Sanitize(), func(tx pgx.Tx) (err error) {
		if found, err = s.ensureTable(ctx, tx, name, f, cols); err == nil && found.Partitioned {
			err = s.ensureDay(ctx, tx, name, found, f.Time.UTC())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prepare table %s: %w", name.Sanitize(), err)
	}
	n := &table{Table: found, days: map[string]bool{day: true}}
	if t != nil && t.OID == found.OID {
		maps.Copy(n.days, t.days)
	}
	s.tables[f.Type.Name] = n
	return found, nil
}

// forget discards the cached state of the table for logType. It is called after the
// table has changed.
func (s *Store) forget(logType string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, logType)
}

func (s *Store) ensureTable(ctx context.Context, tx pgx.Tx, name pgdb.Ident, f store.FileInfo, cols []string) (*pgdb.Table, error) {
	t, err := pgdb.FindTable(ctx, tx, name)
	if err != nil {
		return nil, err
	}
	if t == nil {
		// The table gets the columns of every Tstat version. If the file
		// may widen tables, it also gets the file's other columns.
		if _, err := s.columns.Missing(f, cols, nil, ownColumns); err != nil {
			return nil, err
		}
		all := f.Columns
		if !s.columns.Widens() {
			all = f.Type.Columns
		}
		var b strings.Builder
		fmt.Fprintf(&b, "create table %s (%s text not null, %s text not null, %s timestamptz not null, %s bigint not null",
			name.Sanitize(), pgdb.Quote(colProbe), pgdb.Quote(colFolder), pgdb.Quote(colTime), pgdb.Quote(colFile))
		for i, c := range all {
			fmt.Fprintf(&b, ", %s %s", pgdb.Quote(cols[i]), pgdb.SQLType(c))
		}
		fmt.Fprintf(&b, ") partition by range (%s)", pgdb.Quote(colTime))
		if _, err := tx.Exec(ctx, b.String()); err != nil {
			return nil, err
		}
		return pgdb.FindTable(ctx, tx, name)
	}
	for _, own := range ownColumns {
		if t.Columns[own] == "" {
			return nil, hint.Add(fmt.Errorf("the table exists, but has no column %s", own), "import into another schema: ?schema=NAME")
		}
	}
	missing, err := s.columns.Missing(f, cols, t.Columns, ownColumns)
	if err != nil || len(missing) == 0 {
		return t, err
	}
	if err := pgdb.AddColumns(ctx, tx, name, missing, f.Columns, cols, pgdb.SQLType); err != nil {
		return nil, err
	}
	return pgdb.FindTable(ctx, tx, name)
}

// ensureDay creates the partition of parent for the day of the given time, unless it
// exists or the user has partitioned parent by something else than ranges of the folder's
// time. It first creates a separate table and then attaches it to parent, because "create
// table ... partition of" would wait for all running imports.
func (s *Store) ensureDay(ctx context.Context, tx pgx.Tx, parent pgdb.Ident, t *pgdb.Table, at time.Time) error {
	part := pgdb.Ident{s.schema, parent[1] + "_" + at.Format("20060102")}
	var needed bool
	err := tx.QueryRow(ctx, `select p.partstrat = 'r' and p.partnatts = 1 and pg_get_partkeydef(p.partrelid) ~ '\m`+colTime+`\M'
		and not exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
			join pg_namespace n on n.oid = c.relnamespace
			where i.inhparent = p.partrelid and n.nspname = $2 and c.relname = $3)
		from pg_partitioned_table p where p.partrelid = $1::oid`, t.OID, part[0], part[1]).Scan(&needed)
	if err != nil || !needed {
		return err
	}
	from := at.Truncate(24 * time.Hour)
	// A partition must have the generated columns of its parent. Attaching it
	// creates indexes, and fails if it has identity columns.
	sql := "create table " + part.Sanitize() + " (like " + parent.Sanitize() + " including all excluding identity excluding indexes excluding statistics)"
	attach := fmt.Sprintf("alter table %s attach partition %s for values from ('%s') to ('%s')", parent.Sanitize(), part.Sanitize(),
		pgdb.AppendTime(nil, from), pgdb.AppendTime(nil, from.AddDate(0, 0, 1)))
	// If the user has created larger partitions, tstatrepo need not create one
	// for the day.
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, attach)
		return err
	})
	if code := pgdb.CodeOf(err); code == "42P17" || code == "23514" { // it would overlap, or the default partition has such rows
		return nil
	}
	return err
}

// fileTx is the transaction that imports one file.
type fileTx struct {
	*pgdb.Tx
	table  pgdb.Ident
	to     *pgdb.Dest // nil before the first row
	own    []pgdb.Value
	prefix []byte // the encoded own columns, the same in every row
}

func (x *fileTx) Write(_ context.Context, b *tstat.Batch) error {
	changed, err := x.Start(b)
	if err != nil {
		return err
	}
	if changed || x.to == nil {
		x.to = x.NewDest(x.table)
		x.prefix = x.Begin(nil, x.own...)
	}
	batch := x.to.NewBatch()
	for i := range b.Len() {
		x.Append(batch, x.prefix, b, i, "")
	}
	return x.Send(batch)
}

func (x *fileTx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	return x.Tx.Commit(ctx, r, known, replace, func(ctx context.Context, tx pgx.Tx, gone pgdb.Replaced) error {
		// The time selects the partitions.
		_, err := tx.Exec(ctx, "delete from "+x.table.Sanitize()+" where "+pgdb.Quote(colFile)+" = any($1) and "+pgdb.Quote(colTime)+" = any($2)",
			gone.IDs, gone.Times)
		return err
	})
}
