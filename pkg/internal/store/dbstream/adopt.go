package dbstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// adoptedTable lists the streams adopted from math_repo. For each stream it holds the
// time, in seconds since the epoch, up to which math_repo has filled the stream. The time
// is 0 if tstatrepo stores all rows. It is determined once, before tstatrepo writes to
// the stream.
const adoptedTable = "tstatrepo_adopted"

// readAdopted returns the contents of adoptedTable.
func readAdopted(ctx context.Context, q pgdb.Querier) (map[string]int64, error) {
	adopted := map[string]int64{}
	table := pgdb.Ident{catalog, adoptedTable}
	if t, err := pgdb.FindTable(ctx, q, table); err != nil || t == nil {
		return adopted, err
	}
	rows, _ := q.Query(ctx, "select stream, until from "+table.Sanitize())
	var name string
	var until int64
	_, err := pgx.ForEachRow(rows, []any{&name, &until}, func() error {
		adopted[name] = until
		return nil
	})
	return adopted, err
}

// Adopt takes over a stream that math_repo has filled. math_repo stores windows in
// ascending order and never goes back to an earlier window, not even after a restart. So
// it has stored all rows up to the end of the last window. If a file has rows both before
// and after that time, tstatrepo stores only those from that time on.
//
// The end of the last window comes from math_repo's state or from the database,
// whichever is later: math_repo may have been stopped before it wrote its state.
func (s *Store) Adopt(ctx context.Context, a store.Adoption) error {
	name, err := s.streamName(a.Probe, a.Type)
	if err != nil {
		return err
	}
	var until int64
	var unlisted []int64
	err = s.Retry(ctx, func() error {
		return s.Change(ctx, catalog, func(tx pgx.Tx) (err error) {
			until, unlisted, err = s.adopt(ctx, tx, name, a)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("adopt stream %s: %w", name, err)
	}
	st := &stream{name: name, windows: map[int64]bool{}}
	for _, start := range unlisted { // math_repo was stopped before it updated the catalog
		if err := s.ensureWindow(ctx, st, start); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopted[name] = until
	delete(s.streams, name)
	return nil
}

// adopt returns the time that adoptedTable holds for a stream. If the table lacks the
// stream, adopt adds it, and also returns those of the stream's windows that are not in
// the catalog.
func (s *Store) adopt(ctx context.Context, tx pgx.Tx, name string, a store.Adoption) (until int64, unlisted []int64, err error) {
	adopted, err := readAdopted(ctx, tx)
	if err != nil {
		return 0, nil, err
	}
	if until, ok := adopted[name]; ok {
		if until > 0 && a.Stored.Unix() > until {
			s.Log.Warn("math_repo stored rows after its stream was taken over: they may be stored twice", "stream", name,
				"from", time.Unix(until, 0).UTC(), "to", a.Stored.UTC())
		}
		return until, nil, nil
	}
	until, unlisted, err = s.filledUntil(ctx, tx, name, a)
	if err != nil {
		return 0, nil, err
	}
	if until > time.Now().Add(time.Hour).Unix() {
		return 0, nil, hint.Add(fmt.Errorf("its last window ends in the future, %s: a row had a wrong time, so it is unknown which rows are stored", time.Unix(until, 0).UTC().Format(time.RFC3339)),
			"drop the partitions of the future, with their rows in "+catalog+"."+viewPrefix+name+", and set lastOutputFileTime of math_repo's dbs_stat file to the end of the last one that is left")
	}
	table := pgdb.Quote(catalog, adoptedTable)
	if _, err := tx.Exec(ctx, "create table if not exists "+table+" (stream text primary key, until bigint not null, adopted timestamptz not null)"); err != nil {
		return 0, nil, err
	}
	_, err = tx.Exec(ctx, "insert into "+table+" values ($1, $2, now())", name, until)
	return until, unlisted, err
}

// filledUntil returns the time up to which math_repo filled a stream, and those of the
// stream's windows that are not in the catalog. The time is 0 if the stream is not in
// this database, or if tstatrepo has already stored files in the stream.
func (s *Store) filledUntil(ctx context.Context, tx pgx.Tx, name string, a store.Adoption) (until int64, unlisted []int64, err error) {
	if t, err := pgdb.FindTable(ctx, tx, pgdb.Ident{public, name}); err != nil || t == nil {
		return 0, nil, err // another database
	}
	var hasFiles bool
	if err := tx.QueryRow(ctx, "select exists (select from "+pgdb.Quote(catalog, sqlstore.FilesTable)+" where location = $1)", name).Scan(&hasFiles); err != nil {
		return 0, nil, err
	}
	if hasFiles {
		s.Log.Warn("stream not taken over from math_repo: it has files of tstatrepo already", "stream", name)
		return 0, nil, nil
	}
	until, unlisted, err = s.lastWindow(ctx, tx, name)
	if err == nil && !a.Stored.IsZero() {
		until = max(until, a.Stored.Unix())
	}
	return until, unlisted, err
}

// lastWindow returns the end of a stream's last window, or 0 if it has no window. It also
// returns the windows that have a partition but are not in the catalog.
func (s *Store) lastWindow(ctx context.Context, tx pgx.Tx, name string) (end int64, unlisted []int64, err error) {
	view := pgdb.Ident{catalog, viewPrefix + name}
	listed := map[int64]bool{}
	if t, err := pgdb.FindTable(ctx, tx, view); err != nil {
		return 0, nil, err
	} else if t == nil {
		return 0, nil, errors.New("the catalog has no table " + view.Sanitize())
	}
	rows, _ := tx.Query(ctx, "select serial_time::int8, coalesce(part_length, 0)::int8 from "+view.Sanitize()+" where serial_time is not null")
	var start, length int64
	if _, err := pgx.ForEachRow(rows, []any{&start, &length}, func() error {
		listed[start] = true
		end = max(end, start+length)
		return nil
	}); err != nil {
		return 0, nil, err
	}
	rows, _ = tx.Query(ctx, `select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
		where i.inhparent = to_regclass($1) and n.nspname = $2`, pgdb.Quote(public, name), s.cfg.schema)
	parts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, nil, err
	}
	for _, part := range parts {
		text, ok := strings.CutPrefix(part, name+"_")
		start, err := strconv.ParseInt(text, 10, 32)
		if !ok || err != nil || listed[start] {
			continue
		}
		unlisted = append(unlisted, start)
		end = max(end, start+s.cfg.window)
	}
	return end, unlisted, nil
}

// Accepts implements store.Store. It rejects files whose rows were all stored by
// math_repo.
func (s *Store) Accepts(f store.FileInfo) bool { return f.Type != nil && !s.allAdopted(f) }

// allAdopted reports whether math_repo is certain to have stored all rows of f. This
// requires f.Next to be more than an hour plus maxZoneOffset before the end of the last
// adopted window. The margin is needed because folder names may be interpreted in a time
// zone other than the probe's.
func (s *Store) allAdopted(f store.FileInfo) bool {
	name, err := s.streamName(f.Probe, f.Type.Name)
	if err != nil || f.Next.IsZero() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.Next.Add(maxZoneOffset+time.Hour).Unix() < s.adopted[name]
}
