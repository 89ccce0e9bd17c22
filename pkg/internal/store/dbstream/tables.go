package dbstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// stream is the cached state of a stream.
type stream struct {
	name  string
	table *pgdb.Table
	key   store.Key // Probe and File of its rows; Folder is empty

	mu      sync.Mutex
	windows map[int64]bool

	// adopted is the time, in seconds since the epoch, before which all rows
	// come from math_repo.
	adopted int64
}

// maxZoneOffset is the maximum difference between the local times of two time
// zones. Folder names may be interpreted in a time zone other than the probe's.
const maxZoneOffset = 26 * time.Hour

// prepare creates the missing parts of a stream. It returns the stream, and the names
// that the file's columns have in the stream's table.
func (s *Store) prepare(ctx context.Context, name string, f store.FileInfo) (*stream, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.streams[name]; st != nil {
		if err := st.fits(f.Key); err != nil {
			return nil, nil, err
		}
		cols := columnNames(f, s.cfg, st.table.Columns)
		if missing, err := s.cfg.columns.Missing(f, cols, st.table.Columns, ownColumns); err == nil && len(missing) == 0 {
			return st, cols, nil
		}
	}
	var table *pgdb.Table
	var cols []string
	err := s.Change(ctx, catalog, func(tx pgx.Tx) error {
		other := store.Key{}
		err := tx.QueryRow(ctx, "select probe, file from "+pgdb.Quote(catalog, sqlstore.FilesTable)+
			" where location = $1 and (probe <> $2 or file <> $3) limit 1", name, f.Probe, f.File).Scan(&other.Probe, &other.File)
		if err == nil {
			return (&stream{name: name, key: other}).fits(f.Key)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		table, cols, err = s.ensureStream(ctx, tx, name, f)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("prepare stream %s: %w", name, err)
	}
	st := &stream{name: name, table: table, key: store.Key{Probe: f.Probe, File: f.File}, windows: map[int64]bool{}, adopted: s.adopted[name]}
	if old := s.streams[name]; old != nil {
		old.mu.Lock()
		maps.Copy(st.windows, old.windows)
		old.mu.Unlock()
	}
	s.streams[name] = st
	return st, cols, nil
}

// fits returns an error if the probe or log type of k differs from that of st. Rows do
// not say which probe or log type they come from, so a stream can have only one of each.
func (st *stream) fits(k store.Key) error {
	switch {
	case k.Probe != st.key.Probe:
		return hint.Usage(fmt.Sprintf("stream %s has the rows of probe %s; those of %s could not be told apart", st.name, st.key.Probe, k.Probe),
			"name another stream: `stream` "+validName(st.name[:min(len(st.name), 40)]+"_2"))
	case k.File != st.key.File:
		return hint.Usage(fmt.Sprintf("stream %s has the rows of %s, not of %s", st.name, st.key.File, k.File),
			"import one log type with `type`, or let the stream's name have {type}")
	}
	return nil
}

// ensureStream creates the missing parts of a stream: its catalog entry, its table of
// windows, its template, its parent table, and columns of the parent table. It returns
// the parent table and the names of the file's columns in that table.
func (s *Store) ensureStream(ctx context.Context, tx pgx.Tx, name string, f store.FileInfo) (*pgdb.Table, []string, error) {
	exec := func(sql string, args ...any) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	}
	tables, view := pgdb.Ident{public, tablesTable}, pgdb.Ident{catalog, viewPrefix + name}
	if t, err := pgdb.FindTable(ctx, tx, tables); err != nil {
		return nil, nil, err
	} else if t == nil {
		if err := exec("create table " + tables.Sanitize() + " (tablename varchar(256), part_tablename varchar(256), tabletype varchar(256))"); err != nil {
			return nil, nil, err
		}
	}
	if err := exec("insert into "+tables.Sanitize()+" select $1::text, $2::text, 'view' where not exists (select from "+tables.Sanitize()+" where tablename = $1::text)",
		name, strings.Join(view, ".")); err != nil {
		return nil, nil, err
	}
	if t, err := pgdb.FindTable(ctx, tx, view); err != nil {
		return nil, nil, err
	} else if t == nil {
		if err := exec("create table " + view.Sanitize() + ` (serial_time integer, part_length integer, hostname varchar(256),
			port integer, dbname varchar(256), tablename varchar(256))`); err != nil {
			return nil, nil, err
		}
		index := view[1] + "_serial_time_idx"
		if len(index) > 63 { // the truncated name could belong to another stream's index
			index = ""
		} else {
			index = pgdb.Quote(index)
		}
		if err := exec("create index " + index + " on " + view.Sanitize() + " (serial_time)"); err != nil {
			return nil, nil, err
		}
	}
	parent := pgdb.Ident{public, name}
	t, err := pgdb.FindTable(ctx, tx, parent)
	if err != nil {
		return nil, nil, err
	}
	if t == nil {
		template, err := s.ensureTemplate(ctx, tx, f.Type)
		if err != nil {
			return nil, nil, err
		}
		if err := exec("create table " + parent.Sanitize() + " (like " + template.Sanitize() + ")"); err != nil {
			return nil, nil, err
		}
		if t, err = pgdb.FindTable(ctx, tx, parent); err != nil {
			return nil, nil, err
		}
	}
	if t.Columns[colSerial] == "" {
		return nil, nil, hint.Add(fmt.Errorf("table %s exists, but is not a stream: it has no column %s", parent.Sanitize(), colSerial), "use another name with `stream`")
	}
	cols := columnNames(f, s.cfg, t.Columns)
	missing, err := s.cfg.columns.Missing(f, cols, t.Columns, ownColumns)
	if err != nil {
		return nil, nil, fmt.Errorf("table %s: %w", parent.Sanitize(), err)
	}
	if len(missing) > 0 {
		if err := pgdb.AddColumns(ctx, tx, parent, missing, f.Columns, cols, columnType(s.cfg, f.Type)); err != nil {
			return nil, nil, err
		}
		t, err = pgdb.FindTable(ctx, tx, parent)
	}
	return t, cols, err
}

// ensureWindow creates the partition of the window that begins at start, and the window's
// row in the catalog. It uses a separate transaction, so that the parent table is not
// locked during the whole import. If the import fails later, an empty window is harmless.
func (s *Store) ensureWindow(ctx context.Context, st *stream, start int64) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.windows[start] {
		return nil
	}
	length := s.cfg.window
	part, view := s.part(st, start), pgdb.Ident{catalog, viewPrefix + st.name}
	name := strings.Join(part, ".")
	host, port, database := s.Server()
	err := s.Change(ctx, st.name, func(tx pgx.Tx) error {
		var at, n int64
		err := tx.QueryRow(ctx, "select serial_time, part_length from "+view.Sanitize()+
			" where serial_time < $1::int8 + $2::int8 and serial_time > $1::int8 - 31622400 and serial_time + part_length > $1::int8 and (serial_time <> $1::int8 or part_length <> $2::int8) limit 1",
			start, length).Scan(&at, &n)
		if err == nil {
			return hint.Usage(fmt.Sprintf("stream %s has a window of %d s from %d on, and windows of %d s would overlap it", st.name, n, at, length),
				fmt.Sprintf("use ?window=%ds", n))
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		t, err := pgdb.FindTable(ctx, tx, part)
		if err != nil {
			return err
		}
		if t == nil {
			sql := fmt.Sprintf("create table %s (check (serial_time between %d and %d)) inherits (%s)", part.Sanitize(), start, start+length-1, pgdb.Quote(public, st.name))
			if s.cfg.tablespace != "" {
				sql += " tablespace " + pgdb.Quote(s.cfg.tablespace)
			}
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "insert into "+view.Sanitize()+" select $1::int4, $2::int4, $3::text, $4::int4, $5::text, $6::text where not exists (select from "+
			view.Sanitize()+" where serial_time = $1::int4)", start, length, host, int64(port), database, name)
		return err
	})
	if err != nil {
		return fmt.Errorf("prepare partition %s: %w", name, err)
	}
	st.windows[start] = true
	return nil
}

// part returns the name of a window's partition.
func (s *Store) part(st *stream, start int64) pgdb.Ident {
	return pgdb.Ident{s.cfg.schema, st.name + "_" + strconv.FormatInt(start, 10)}
}
