// Package dbstream stores rows in DBStream, a data stream warehouse on
// PostgreSQL, as its own importer math_repo does: a parent table per stream,
// a partition per window of time, and the rows of its catalog. Sinks see
// no difference.
//
// Unlike there, the rows of a log file and its record appear in one
// transaction, existing windows take further rows, and nobody needs to be
// superuser.
package dbstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	pg "github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// settings are those of the URL that are ours.
var settings = []string{"schema", "window", "template", "columns", "copy", "analyze", "tablespace", "scheduler"}

// Names of DBStream's catalog.
const (
	public        = "public" // parents and templates
	catalog       = "dbs"
	tablesTable   = "dbs_tables"
	viewPrefix    = "view_info_"
	colSerial     = "serial_time"
	defaultSchema = "dbs_ts0"
	defaultWindow = 600 * time.Second
)

// DefaultStream is the name of streams if Options.Stream is empty.
const DefaultStream = "{probe}_{type}"

// Options of a store.
type Options struct {
	pg.Options
	// Stream names the parent table; {probe} and {type} stand for those of
	// each file.
	Stream string
	// StreamType, if set, is the log type whose rows go to Stream; those of
	// another type go to Stream_<type>.
	StreamType string
	// ReadOnly opens for Lookup only and creates nothing.
	ReadOnly bool
}

// Store is a DBStream database.
type Store struct {
	*pg.DB
	cfg        config
	stream     string
	streamType string // see Options

	mu      sync.Mutex
	streams map[string]*stream
	adopted map[string]int64 // by stream, see Adopt

	sched *scheduler // nil: nobody wants to know
}

// Several importers share the store, see pg.DB.
var _ store.Claimer = (*Store)(nil)

type config struct {
	schema     string // of the partitions
	window     int64  // seconds
	template   string
	columns    sqlstore.Columns
	form       pg.Form
	analyze    string
	tablespace string
	scheduler  string // its address
}

// stream is what is known to be there of a stream.
type stream struct {
	name  string
	table *pg.Table
	key   store.Key // Probe and File of its rows; Folder is empty

	mu      sync.Mutex
	windows map[int64]bool
	written bool

	// adopted is the time before which the rows of other importers are all
	// there are.
	adopted int64
}

// Check reports what is wrong with a URL without connecting.
func Check(text string) error {
	_, _, err := parse(text)
	return err
}

func parse(text string) (dsn string, c config, err error) {
	dsn, own, err := pg.SplitURL(text, settings...)
	if err != nil {
		return "", c, err
	}
	c.schema, c.template, c.tablespace = cmp.Or(own["schema"], defaultSchema), own["template"], own["tablespace"]
	if c.form, err = pg.ParseForm(own["copy"]); err != nil {
		return "", c, err
	}
	if c.columns, err = sqlstore.ParseColumns(own["columns"]); err != nil {
		return "", c, err
	}
	c.analyze = cmp.Or(own["analyze"], "light")
	if !slices.Contains([]string{"light", "window", "end", "none"}, c.analyze) {
		return "", c, hint.Usage("analyze="+c.analyze+" is unknown", "known: light, window, end, none")
	}
	if c.scheduler, err = parseScheduler(own["scheduler"]); err != nil {
		return "", c, err
	}
	c.window, err = parseWindow(own)
	return dsn, c, err
}

// parseWindow reads the length of the windows, like 600s or 1h.
func parseWindow(own dest.Options) (int64, error) {
	text := own["window"]
	if text == "" {
		return int64(defaultWindow / time.Second), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 || d > 366*24*time.Hour {
		return 0, hint.Usage("window="+text+" is no length of a window", "whole seconds up to a year, like 600s or 1h")
	}
	return int64(d / time.Second), nil
}

// maxStream is the longest name of a stream: PostgreSQL cuts names of more
// than 63 bytes, and a partition has '_' and ten digits more.
const maxStream = 63 - 1 - 10

// StreamName expands a pattern to the name of a stream.
func StreamName(pattern, probe, logType string) (string, error) {
	if pattern == "" {
		pattern = DefaultStream
	}
	name := strings.NewReplacer("{probe}", probe, "{type}", logType).Replace(pattern)
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for i, c := range name {
		if c >= 'a' && c <= 'z' || c == '_' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		advice := "use letters, digits and '_', like `stream` " + fit(name)
		if strings.ContainsAny(pattern, "{}") {
			advice += "; {probe} and {type} stand for those of the file"
		}
		return "", hint.Usage(fmt.Sprintf("stream %q: %q cannot be in the name of a table", name, c), advice)
	}
	switch {
	case name == "":
		return "", hint.Usage("stream: it has no name", "for example `stream` '"+DefaultStream+"'")
	case len(name) > maxStream:
		return "", hint.Usage(fmt.Sprintf("stream %s: %d characters are too long for the names of its partitions", name, len(name)),
			fmt.Sprintf("use at most %d, like `stream` %s", maxStream, name[:maxStream]))
	case name == tablesTable || name == "log_tcp_complete_v15" || name == "log_video_complete" || strings.HasSuffix(name, allSuffix) && tstat.TypeByName(strings.TrimSuffix(name, allSuffix)) != nil:
		return "", hint.Usage(fmt.Sprintf("stream %s: DBStream has a table of that name", name), "use another name, like `stream` "+name[:min(len(name), maxStream-2)]+"_1")
	}
	return name, nil
}

// streamName returns the name of the stream of a probe and log type.
func (s *Store) streamName(probe, logType string) (string, error) {
	pattern := s.stream
	if s.streamType != "" && logType != s.streamType {
		pattern += "_{type}"
	}
	return StreamName(pattern, probe, logType)
}

// fit makes a name of a table out of a text.
func fit(name string) string {
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c == '_' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, name)
	if name == "" || name[0] <= '9' {
		name = "s_" + name
	}
	return name[:min(len(name), maxStream)]
}

// Open connects to the database at a URL, dbstream://USER@HOST/DATABASE.
func Open(ctx context.Context, text string, opt Options) (*Store, error) {
	dsn, cfg, err := parse(text)
	if err != nil {
		return nil, err
	}
	opt.Form = cfg.form
	db, err := pg.Open(ctx, dsn, text, opt.Options)
	if err != nil {
		return nil, err
	}
	s := &Store{DB: db, cfg: cfg, stream: opt.Stream, streamType: opt.StreamType, streams: map[string]*stream{}}
	if err := s.Retry(ctx, func() error { return s.open(ctx, opt.ReadOnly) }); err != nil {
		db.Close()
		return nil, err
	}
	if cfg.scheduler != "" && !opt.ReadOnly {
		s.sched = newScheduler(cfg.scheduler, cfg.window, s.Log, defaultTiming)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, readOnly bool) error {
	rows, _ := s.Pool.Query(ctx, "select n from unnest($1::text[]) n where to_regnamespace(quote_ident(n)) is null", []string{catalog, s.cfg.schema})
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	// DBStream has a tablespace of the same name for each schema.
	name := s.cfg.tablespace
	if name == "" {
		name = s.cfg.schema
	}
	var found bool
	if err := s.Pool.QueryRow(ctx, "select exists (select from pg_tablespace where spcname = $1)", name).Scan(&found); err != nil {
		return err
	}
	if !found && s.cfg.tablespace != "" {
		return hint.Usage(fmt.Sprintf("there is no tablespace %s", pg.Quote(name)), "leave tablespace= out to use the default one")
	}
	if found {
		s.cfg.tablespace = name
	}
	if len(missing) > 0 && !readOnly {
		err := s.Change(ctx, catalog, func(tx pgx.Tx) error {
			for _, name := range missing {
				if _, err := tx.Exec(ctx, "create schema if not exists "+pg.Quote(name)); err != nil {
					return fmt.Errorf("create schema %s: %w", pg.Quote(name), err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if s.adopted, err = readAdopted(ctx, s.Pool); err != nil {
		return err
	}
	return s.UseRecords(ctx, catalog, readOnly, func(k store.Key) string {
		name, _ := s.streamName(k.Probe, k.File) // Begin reports errors
		return name
	})
}

// Properties implements store.Store.
func (s *Store) Properties() store.Properties { return store.Properties{AppendOnly: true} }

// Plan implements store.Store: the scheduler learns of windows in their order.
func (s *Store) Plan(files []store.FileInfo) {
	if s.sched == nil {
		return
	}
	streams := map[string][]store.FileInfo{}
	for _, series := range s.sched.all() {
		streams[series.name] = nil
	}
	for _, f := range files {
		if name, err := s.streamName(f.Probe, f.Type.Name); err == nil {
			streams[name] = append(streams[name], f)
		}
	}
	for name, files := range streams {
		s.sched.of(name).expect(files)
	}
}

// Done implements store.Store.
func (s *Store) Done(f store.FileInfo) {
	if s.sched == nil {
		return
	}
	if name, err := s.streamName(f.Probe, f.Type.Name); err == nil {
		s.sched.of(name).settled(f.Key)
	}
}

// series returns a stream's series of the scheduler, registered; nil if there
// is none.
func (s *Store) series(ctx context.Context, st *stream) *series {
	if s.sched == nil {
		return nil
	}
	series := s.sched.of(st.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !series.started {
		last, open, err := s.announced(ctx, st)
		if err != nil { // sinks wait for the first window that is new
			last, open = -1, nil
		}
		series.start(catalog+"."+viewPrefix+st.name, last, open)
	}
	return series
}

// announced returns the last window of a stream that the scheduler was told
// of, by the list that it keeps, -1 if there is none, and those after it.
func (s *Store) announced(ctx context.Context, st *stream) (last int64, open []int64, err error) {
	view := pg.Quote(catalog, viewPrefix+st.name)
	err = s.Pool.QueryRow(ctx, "select coalesce(max(q.input_time), -1) from "+pg.Quote(catalog, "query_stats")+" q join "+view+
		" v on v.serial_time = q.input_time where q.job_series = $1", st.name).Scan(&last)
	if err != nil || last < 0 {
		return -1, nil, err
	}
	rows, _ := s.Pool.Query(ctx, "select serial_time::int8 from "+view+" where serial_time > $1::int8", last)
	open, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	return last, open, err
}

// Close ends all connections. Before that the statistics of what was written
// are brought up to date.
func (s *Store) Close() error {
	if s.cfg.analyze == "light" || s.cfg.analyze == "end" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.analyzeStreams(ctx)
	}
	if s.sched != nil {
		s.sched.close()
	}
	s.DB.Close()
	return nil
}

// analyzeStreams updates the statistics of the streams that were written,
// without those of their windows. From PostgreSQL 18 on that takes ONLY, which
// older servers do not know.
func (s *Store) analyzeStreams(ctx context.Context) {
	option := ""
	for _, st := range s.streams {
		if !st.written {
			continue
		}
		if option == "" {
			err := s.Pool.QueryRow(ctx, "select case when current_setting('server_version_num')::int >= 180000 then 'only ' else ' ' end").Scan(&option)
			if err != nil {
				s.Log.Warn("analyze failed", "store", s.String(), "err", err)
				return
			}
		}
		s.analyze(ctx, option, pg.Ident{public, st.name}, "")
	}
}

// analyze updates the statistics of a table. Without them queries are slower,
// not wrong, and autovacuum updates them eventually.
func (s *Store) analyze(ctx context.Context, option string, table pg.Ident, columns string) {
	if _, err := s.Pool.Exec(ctx, "analyze "+option+table.Sanitize()+columns); err != nil {
		s.Log.Warn("analyze failed", "store", s.String(), "table", strings.Join(table, "."), "err", err)
	}
}

// Begin implements store.Store.
func (s *Store) Begin(ctx context.Context, f store.FileInfo) (store.FileTx, error) {
	if err := sqlstore.CheckKey(f.Key); err != nil {
		return nil, err
	}
	name, err := s.streamName(f.Probe, f.Type.Name)
	if err != nil {
		return nil, err
	}
	st, cols, err := s.prepare(ctx, name, f)
	if err != nil {
		return nil, err
	}
	targets, err := s.cfg.columns.Targets(f, cols, st.table.Columns)
	if err != nil {
		return nil, err
	}
	series := s.series(ctx, st)
	if series != nil {
		series.begin(f.Key, f.Time)
	}
	opt := pg.RowOptions{Table: pg.Ident{public, st.name}, Own: []sqlstore.Target{{Name: colSerial, Type: st.table.Columns[colSerial]}},
		Skip: f.PrefixLines, Targets: targets, Columns: s.cfg.columns, AsWritten: !strings.HasSuffix(templateOf(s.cfg, f.Type), allSuffix),
		Forget: func() { s.forget(st.name) }}
	tx, err := s.DB.Begin(ctx, f, opt)
	if err != nil {
		if series != nil {
			series.end(f.Key)
		}
		return nil, err
	}
	x := &fileTx{Tx: tx, s: s, st: st, file: f, window: -1,
		series: series, begun: time.Now(), low: math.MaxInt64, earliest: f.Time.Add(-time.Hour - zones).Unix()}
	// A probe whose clock runs ahead must not drag all later rows along.
	x.latest = time.Now().Add(time.Hour).Unix()
	if !f.Next.IsZero() {
		x.latest = min(x.latest, f.Next.Add(time.Hour+zones).Unix())
	}
	return x, nil
}

// forget makes the next file look at its stream again: a retention job may have
// dropped a partition.
func (s *Store) forget(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, stream)
}

// zones is how far apart clocks in two zones can be: the names of folders may
// be read in another zone than the probe's.
const zones = 26 * time.Hour

// prepare makes what a stream needs to be there, and returns the names that
// the file's columns have in its table.
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
	var table *pg.Table
	var cols []string
	err := s.Change(ctx, catalog, func(tx pgx.Tx) error {
		other := store.Key{}
		err := tx.QueryRow(ctx, "select probe, file from "+pg.Quote(catalog, sqlstore.FilesTable)+
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
		st.written = old.written
		old.mu.Unlock()
	}
	s.streams[name] = st
	return st, cols, nil
}

// fits refuses rows of another probe or type: nothing in a row tells them
// apart.
func (st *stream) fits(k store.Key) error {
	switch {
	case k.Probe != st.key.Probe:
		return hint.Usage(fmt.Sprintf("stream %s has the rows of probe %s; those of %s could not be told apart", st.name, st.key.Probe, k.Probe),
			"name another stream: `stream` "+fit(st.name[:min(len(st.name), 40)]+"_2"))
	case k.File != st.key.File:
		return hint.Usage(fmt.Sprintf("stream %s has the rows of %s, not of %s", st.name, st.key.File, k.File),
			"import one log type with `type`, or let the stream's name have {type}")
	}
	return nil
}

// ensureStream makes catalog, template and parent table of a stream.
func (s *Store) ensureStream(ctx context.Context, tx pgx.Tx, name string, f store.FileInfo) (*pg.Table, []string, error) {
	exec := func(sql string, args ...any) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	}
	tables, view := pg.Ident{public, tablesTable}, pg.Ident{catalog, viewPrefix + name}
	if t, err := pg.FindTable(ctx, tx, tables); err != nil {
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
	if t, err := pg.FindTable(ctx, tx, view); err != nil {
		return nil, nil, err
	} else if t == nil {
		if err := exec("create table " + view.Sanitize() + ` (serial_time integer, part_length integer, hostname varchar(256),
			port integer, dbname varchar(256), tablename varchar(256))`); err != nil {
			return nil, nil, err
		}
		index := view[1] + "_serial_time_idx"
		if len(index) > 63 { // cut, it could be another stream's
			index = ""
		} else {
			index = pg.Quote(index)
		}
		if err := exec("create index " + index + " on " + view.Sanitize() + " (serial_time)"); err != nil {
			return nil, nil, err
		}
	}
	parent := pg.Ident{public, name}
	t, err := pg.FindTable(ctx, tx, parent)
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
		if t, err = pg.FindTable(ctx, tx, parent); err != nil {
			return nil, nil, err
		}
	}
	if t.Columns[colSerial] == "" {
		return nil, nil, hint.Add(fmt.Errorf("table %s is there, and no stream: it has no column %s", parent.Sanitize(), colSerial), "use another name with `stream`")
	}
	cols := columnNames(f, s.cfg, t.Columns)
	missing, err := s.cfg.columns.Missing(f, cols, t.Columns, ownColumns)
	if err != nil {
		return nil, nil, fmt.Errorf("table %s: %w", parent.Sanitize(), err)
	}
	if len(missing) > 0 {
		if err := pg.AddColumns(ctx, tx, parent, missing, f.Columns, cols, columnType(s.cfg, f.Type)); err != nil {
			return nil, nil, err
		}
		t, err = pg.FindTable(ctx, tx, parent)
	}
	return t, cols, err
}

// ensureWindow makes the partition of a window and its row in the catalog,
// in a transaction of its own: the parent stays locked for others until it
// commits. An empty window is harmless.
func (s *Store) ensureWindow(ctx context.Context, st *stream, start int64) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.windows[start] {
		return nil
	}
	length := s.cfg.window
	part, view := s.part(st, start), pg.Ident{catalog, viewPrefix + st.name}
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
		t, err := pg.FindTable(ctx, tx, part)
		if err != nil {
			return err
		}
		if t == nil {
			sql := fmt.Sprintf("create table %s (check (serial_time between %d and %d)) inherits (%s)", part.Sanitize(), start, start+length-1, pg.Quote(public, st.name))
			if s.cfg.tablespace != "" {
				sql += " tablespace " + pg.Quote(s.cfg.tablespace)
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

func (s *Store) part(st *stream, start int64) pg.Ident {
	return pg.Ident{s.cfg.schema, st.name + "_" + strconv.FormatInt(start, 10)}
}
