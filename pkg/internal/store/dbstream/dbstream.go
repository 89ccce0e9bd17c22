// Package dbstream stores rows in DBStream, a data stream warehouse on
// PostgreSQL, in the same form as DBStream's own importer math_repo: a parent
// table per stream, a partition per time window, and entries in the catalog.
// DBStream's jobs cannot tell the difference.
//
// Unlike math_repo, it stores the rows of a log file and its record in one
// transaction, adds rows to existing windows, and needs no superuser.
package dbstream

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// Names in DBStream's catalog.
const (
	public        = "public" // parents and templates
	catalog       = "dbs"
	tablesTable   = "dbs_tables"
	viewPrefix    = "view_info_"
	colSerial     = "serial_time"
	defaultSchema = "dbs_ts0"
	defaultWindow = 600 * time.Second
)

// Store is a DBStream database.
type Store struct {
	*pgdb.DB
	cfg        config
	stream     string
	streamType string // see Options

	mu      sync.Mutex
	streams map[string]*stream
	written map[string]bool  // names of the streams that got rows
	adopted map[string]int64 // contents of adoptedTable

	sched *scheduler // nil without a scheduler
}

// Several importers can share the store; see pgdb.DB.
var _ store.Claimer = (*Store)(nil)

// Open connects to the database at a URL, dbstream://USER@HOST/DATABASE.
func Open(ctx context.Context, text string, opt Options) (*Store, error) {
	dsn, cfg, err := parse(text)
	if err != nil {
		return nil, err
	}
	opt.Form = cfg.form
	db, err := pgdb.Open(ctx, dsn, text, opt.Options)
	if err != nil {
		return nil, err
	}
	s := &Store{DB: db, cfg: cfg, stream: opt.Stream, streamType: opt.StreamType, streams: map[string]*stream{}, written: map[string]bool{}}
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
		return hint.Usage(fmt.Sprintf("tablespace %s does not exist", pgdb.Quote(name)), "leave tablespace= out to use the default one")
	}
	if found {
		s.cfg.tablespace = name
	}
	if len(missing) > 0 && !readOnly {
		err := s.Change(ctx, catalog, func(tx pgx.Tx) error {
			for _, name := range missing {
				if _, err := tx.Exec(ctx, "create schema if not exists "+pgdb.Quote(name)); err != nil {
					return fmt.Errorf("create schema %s: %w", pgdb.Quote(name), err)
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
		name, _ := s.streamName(k.Probe, k.File) // Begin reports the error
		return name
	})
}

// Properties implements store.Store.
func (s *Store) Properties() store.Properties { return store.Properties{AppendOnly: true} }

// Plan implements store.Store. The scheduler needs the plan to announce windows
// in order.
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
		s.sched.lookup(name).expect(files)
	}
}

// Done implements store.Store.
func (s *Store) Done(f store.FileInfo) {
	if s.sched == nil {
		return
	}
	if name, err := s.streamName(f.Probe, f.Type.Name); err == nil {
		s.sched.lookup(name).fileDone(f.Key)
	}
}

// series returns the scheduler's series for st, or nil if the store has no scheduler. The
// first call for a stream starts the series.
func (s *Store) series(ctx context.Context, st *stream) *series {
	if s.sched == nil {
		return nil
	}
	series := s.sched.lookup(st.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !series.started {
		last, open, err := s.lastAnnounced(ctx, st)
		if err != nil { // announce windows from the first new one on
			last, open = -1, nil
		}
		series.start(catalog+"."+viewPrefix+st.name, last, open)
	}
	return series
}

// lastAnnounced returns the last window of a stream that the scheduler lists as done, and
// the stream's later windows. If no window is listed, it returns -1 and nil.
func (s *Store) lastAnnounced(ctx context.Context, st *stream) (last int64, open []int64, err error) {
	view := pgdb.Quote(catalog, viewPrefix+st.name)
	err = s.Pool.QueryRow(ctx, "select coalesce(max(q.input_time), -1) from "+pgdb.Quote(catalog, "query_stats")+" q join "+view+
		" v on v.serial_time = q.input_time where q.job_series = $1", st.name).Scan(&last)
	if err != nil || last < 0 {
		return -1, nil, err
	}
	rows, _ := s.Pool.Query(ctx, "select serial_time::int8 from "+view+" where serial_time > $1::int8", last)
	open, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	return last, open, err
}

// Close updates the statistics of the written tables, announces the remaining
// windows to the scheduler, and closes all connections.
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

// analyzeStreams runs ANALYZE on the parent tables of the written streams, but not on
// their partitions. Since PostgreSQL 18, leaving out the partitions requires ANALYZE
// ONLY, which older servers do not support.
func (s *Store) analyzeStreams(ctx context.Context) {
	option := ""
	for name := range s.written {
		if option == "" {
			err := s.Pool.QueryRow(ctx, "select case when current_setting('server_version_num')::int >= 180000 then 'only ' else ' ' end").Scan(&option)
			if err != nil {
				s.Log.Warn("analyze failed", "store", s.String(), "err", err)
				return
			}
		}
		s.analyze(ctx, option, pgdb.Ident{public, name}, "")
	}
}

// analyze runs PostgreSQL's ANALYZE on a table, with the given option and list of
// columns. It logs an error instead of returning it: without new statistics, queries are
// slower but correct, and autovacuum eventually updates the statistics.
func (s *Store) analyze(ctx context.Context, option string, table pgdb.Ident, columns string) {
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
		s.forget(st.name) // the user may add the column
		return nil, err
	}
	series := s.series(ctx, st)
	if series != nil {
		series.begin(f.Key, f.Time)
	}
	opt := pgdb.RowOptions{Table: pgdb.Ident{public, st.name}, Own: []sqlstore.Target{{Name: colSerial, Type: st.table.Columns[colSerial]}},
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
		series: series, begun: time.Now(), low: math.MaxInt64, earliest: f.Time.Add(-time.Hour - maxZoneOffset).Unix()}
	// latest limits how far into the future a row with a wrong time can move the rows
	// after it.
	x.latest = time.Now().Add(time.Hour).Unix()
	if !f.Next.IsZero() {
		x.latest = min(x.latest, f.Next.Add(time.Hour+maxZoneOffset).Unix())
	}
	return x, nil
}

// forget discards the cached state of a stream. It is called when partitions may have
// been dropped, for example by a retention job.
func (s *Store) forget(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, stream)
}
