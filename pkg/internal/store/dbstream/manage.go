package dbstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
)

var _ store.Manager = (*Store)(nil)

// Count implements store.Manager. It is not supported, because rows do not say
// which file they come from.
func (s *Store) Count(context.Context, []store.Record) ([]int64, error) {
	return nil, errors.ErrUnsupported
}

// Prune implements store.Manager. Like DBStream's own retention, it drops the
// partitions of windows that end before the given time, and removes these
// windows from the catalog. It prunes all streams with records and all streams
// adopted from math_repo.
//
// Rows do not say which file they come from. So a record counts as pruned once all
// windows that may hold rows from its file are gone. Such windows start at most
// maxZoneOffset plus one hour after the time of the next folder in the stream.
func (s *Store) Prune(ctx context.Context, before time.Time, dryRun bool) (store.PruneResult, error) {
	var res store.PruneResult
	if !dryRun {
		if err := s.AddPruned(ctx); err != nil {
			return res, err
		}
	}
	streams, err := s.Locations(ctx)
	if err != nil {
		return res, err
	}
	s.mu.Lock()
	for name := range s.adopted {
		streams = append(streams, name)
	}
	s.mu.Unlock()
	slices.Sort(streams)
	for _, name := range slices.Compact(streams) {
		one, err := s.pruneStream(ctx, name, before, dryRun)
		res.Files += one.Files
		res.Rows += one.Rows
		res.Bytes += one.Bytes
		if err != nil {
			return res, pgdb.Classify(fmt.Errorf("prune stream %s: %w", name, err))
		}
	}
	return res, nil
}

// oldWindow is a window to drop.
type oldWindow struct {
	start int64
	table pgdb.Ident // nil if the table was dropped
	bytes int64
}

// dropBatch is the number of windows dropped in one transaction. Each window
// needs a lock, and by default the server has room for 64 locks per
// transaction.
const dropBatch = 30

func (s *Store) pruneStream(ctx context.Context, name string, before time.Time, dryRun bool) (res store.PruneResult, err error) {
	view := pgdb.Ident{catalog, viewPrefix + name}
	if t, err := pgdb.FindTable(ctx, s.Pool, view); err != nil || t == nil {
		return res, err
	}
	old, err := s.oldWindows(ctx, view, name, before)
	if err != nil {
		return res, err
	}
	if !dryRun {
		defer s.forget(name)
	}
	for batch := range slices.Chunk(old, dropBatch) {
		var bytes int64
		var starts []int64
		var drop []string
		for _, w := range batch {
			bytes += w.bytes
			starts = append(starts, w.start)
			if w.table != nil {
				drop = append(drop, w.table.Sanitize())
			}
		}
		if !dryRun {
			err := s.Change(ctx, name, func(tx pgx.Tx) error {
				if len(drop) > 0 {
					if _, err := tx.Exec(ctx, "drop table if exists "+strings.Join(drop, ", ")); err != nil {
						return err
					}
				}
				_, err := tx.Exec(ctx, "delete from "+view.Sanitize()+" where serial_time = any($1::int8[])", starts)
				return err
			})
			if err != nil {
				return res, err
			}
		}
		res.Bytes += bytes
	}
	var left *int64 // start of the first window that remains
	err = s.Pool.QueryRow(ctx, "select min(serial_time)::int8 from "+view.Sanitize()+" where serial_time::int8 + part_length > $1::int8", before.Unix()).Scan(&left)
	if err != nil {
		return res, err
	}
	condition, args := "r.location = $2", []any{name}
	if left != nil {
		condition += " and (select min(n.time) from " + s.RecordsTable() + " n where n.location = $2 and n.time > r.time) <= $3"
		args = append(args, time.Unix(*left, 0).Add(-maxZoneOffset-time.Hour))
	}
	one, err := s.Prunable(ctx, s.Pool, before, condition, args...)
	res.Files, res.Rows = one.Files, one.Rows
	if err != nil || dryRun || one.Files == 0 {
		return res, err
	}
	return res, s.Change(ctx, name, func(tx pgx.Tx) error { return s.MarkPruned(ctx, tx, before, condition, args...) })
}

// oldWindows returns the windows of a stream that end before the given time, oldest
// first. It sets oldWindow.table only if the window's table in the catalog is a partition
// of the stream.
func (s *Store) oldWindows(ctx context.Context, view pgdb.Ident, name string, before time.Time) ([]oldWindow, error) {
	rows, _ := s.Pool.Query(ctx, `select v.serial_time::int8, n.nspname::text, c.relname::text, coalesce(pg_total_relation_size(c.oid), 0)
		from `+view.Sanitize()+` v
		left join (pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace)
			on i.inhparent = to_regclass($1) and v.tablename = n.nspname || '.' || c.relname
		where v.serial_time::int8 + v.part_length <= $2::int8 order by 1`, pgdb.Quote(public, name), before.Unix())
	var list []oldWindow
	var start, bytes int64
	var schema, table *string
	_, err := pgx.ForEachRow(rows, []any{&start, &schema, &table, &bytes}, func() error {
		w := oldWindow{start: start, bytes: bytes}
		if schema != nil && table != nil {
			w.table = pgdb.Ident{*schema, *table}
		}
		list = append(list, w)
		return nil
	})
	return list, err
}
