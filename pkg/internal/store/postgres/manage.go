package postgres

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
)

var _ store.Manager = (*Store)(nil)

// Prune implements store.Manager. It drops partitions whose range ends before the given
// time. It drops each partition in a separate transaction, which also marks the records
// of the files in the partition as pruned. If the user has no permission to drop a
// partition, or the table has no partitions, Prune deletes the rows instead.
//
// Dropping needs a brief exclusive lock. Prune waits for the lock for at most one second
// at a time, because new imports and queries wait behind Prune.
func (s *Store) Prune(ctx context.Context, before time.Time, dryRun bool) (store.PruneResult, error) {
	var res store.PruneResult
	if !dryRun {
		if err := s.AddPruned(ctx); err != nil {
			return res, err
		}
	}
	// The location of a file's rows is the name of their log type.
	types, err := s.Locations(ctx)
	if err != nil {
		return res, err
	}
	for _, name := range types {
		one, err := s.pruneTable(ctx, name, before, dryRun)
		res.Files += one.Files
		res.Rows += one.Rows
		res.Bytes += one.Bytes
		if err != nil {
			return res, pgdb.Classify(fmt.Errorf("prune table %s: %w", pgdb.Quote(s.schema, name), err))
		}
	}
	return res, nil
}

// partition is a daily partition of a table.
type partition struct {
	name     pgdb.Ident
	from, to time.Time // bounds; from is zero if there is no lower bound
	bytes    int64
}

func (s *Store) pruneTable(ctx context.Context, name string, before time.Time, dryRun bool) (res store.PruneResult, err error) {
	table := pgdb.Ident{s.schema, name}
	t, err := pgdb.FindTable(ctx, s.Pool, table)
	if err != nil {
		return res, err
	}
	var parts []partition
	if t != nil && t.Partitioned {
		if parts, err = s.droppable(ctx, t, before); err != nil {
			return res, err
		}
	}
	if dryRun {
		res, err = s.Prunable(ctx, s.Pool, before, "r.location = $2", name)
		for _, p := range parts {
			res.Bytes += p.bytes
		}
		return res, err
	}
	defer s.forget(name)
	prune := func(until time.Time, remove func(pgx.Tx) error, condition string, args ...any) error {
		var one store.PruneResult
		err := s.Change(ctx, table.Sanitize(), func(tx pgx.Tx) (err error) {
			if err := remove(tx); err != nil {
				return err
			}
			if one, err = s.Prunable(ctx, tx, until, condition, args...); err == nil && one.Files > 0 {
				err = s.MarkPruned(ctx, tx, until, condition, args...)
			}
			return err
		})
		if err == nil {
			res.Files += one.Files
			res.Rows += one.Rows
		}
		return err
	}
	for _, p := range parts {
		drop := func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "drop table if exists "+p.name.Sanitize())
			return err
		}
		if err := prune(p.to, drop, "r.location = $2 and r.time >= $3", name, p.from); err != nil {
			return res, err
		}
		res.Bytes += p.bytes
	}
	rest := func(tx pgx.Tx) error {
		if t == nil {
			return nil
		}
		_, err := tx.Exec(ctx, "delete from "+table.Sanitize()+" where "+pgdb.Quote(colTime)+" < $1", before)
		return err
	}
	return res, prune(before, rest, "r.location = $2", name)
}

// bounds matches the SQL text of a partition's range.
var bounds = regexp.MustCompile(`^FOR VALUES FROM \((?:MINVALUE|'([^']+)')\) TO \('([^']+)'\)$`)

// droppable returns the partitions of a table that end before the given time
// and that this user has permission to drop, oldest first.
func (s *Store) droppable(ctx context.Context, t *pgdb.Table, before time.Time) ([]partition, error) {
	rows, _ := s.Pool.Query(ctx, `select n.nspname::text, c.relname::text, pg_get_expr(c.relpartbound, c.oid), pg_total_relation_size(c.oid)
		from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
		where i.inhparent = $1::oid and pg_has_role(c.relowner, 'usage') and pg_get_partkeydef(i.inhparent) = $2`,
		t.OID, "RANGE ("+colTime+")")
	var list []partition
	var schema, name, bound string
	var bytes int64
	_, err := pgx.ForEachRow(rows, []any{&schema, &name, &bound, &bytes}, func() error {
		m := bounds.FindStringSubmatch(bound)
		if m == nil {
			return nil // the default partition, or a range without an upper bound
		}
		const layout = "2006-01-02 15:04:05Z07" // the sessions use UTC
		p := partition{name: pgdb.Ident{schema, name}, bytes: bytes}
		var err error
		if p.to, err = time.Parse(layout, m[2]); err != nil || p.to.After(before) {
			return nil
		}
		if m[1] != "" {
			if p.from, err = time.Parse(layout, m[1]); err != nil {
				return nil
			}
		}
		list = append(list, p)
		return nil
	})
	slices.SortFunc(list, func(a, b partition) int { return a.to.Compare(b.to) })
	return list, err
}

// Count implements store.Manager. For each log type and day it runs a single query,
// which reads only the partition of that day.
func (s *Store) Count(ctx context.Context, records []store.Record) ([]int64, error) {
	counts := make([]int64, len(records))
	files := s.RecordsTable()
	if files == "" {
		return counts, nil
	}
	type group struct {
		table string
		day   time.Time
	}
	days := map[group][]int{}
	for i, r := range records {
		if r.Pruned.IsZero() {
			g := group{r.File, r.Time.UTC().Truncate(24 * time.Hour)}
			days[g] = append(days[g], i)
		}
	}
	for g, indexes := range days {
		table := pgdb.Ident{s.schema, g.table}
		if t, err := pgdb.FindTable(ctx, s.Pool, table); err != nil {
			return nil, pgdb.Classify(err)
		} else if t == nil {
			continue
		}
		var n []int64
		var probe, folder, sha, place []string
		for _, i := range indexes {
			r := records[i]
			n, probe, folder, sha, place = append(n, int64(i)), append(probe, r.Probe), append(folder, r.Folder), append(sha, r.SHA256), append(place, losslessjson.Escape(r.Place))
		}
		rows, _ := s.Pool.Query(ctx, `with rows_of as (select `+colFile+` as id, count(*) as n from `+table.Sanitize()+`
				where `+colTime+` >= $1 and `+colTime+` < $2 group by 1)
			select k.i, c.n from unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[]) as k (i, probe, folder, sha256, place)
			join `+files+` f using (probe, folder, sha256) join rows_of c on c.id = f.id
			where f.location = $8 and f.file = $8 and k.place = `+s.PlaceOf("f"), g.day, g.day.AddDate(0, 0, 1), n, probe, folder, sha, place, g.table)
		var i, count int64
		_, err := pgx.ForEachRow(rows, []any{&i, &count}, func() error {
			counts[i] = count
			return nil
		})
		if err != nil {
			return nil, pgdb.Classify(fmt.Errorf("count rows of %s: %w", table.Sanitize(), err))
		}
	}
	return counts, nil
}
