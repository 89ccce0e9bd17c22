package dbstream

import (
	"context"
	"fmt"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
)

// Verify implements store.Manager. Rows do not say which file they come from, so Verify
// compares the number of rows in a stream with the total in the stream's records. It
// skips this comparison for streams adopted from math_repo, and does not report missing
// rows if a stream's oldest windows were dropped. With opt.Deep it reads all rows.
func (s *Store) Verify(ctx context.Context, opt store.VerifyOptions) error {
	names, err := s.Locations(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		table := pgdb.Ident{public, name}
		t, err := pgdb.FindTable(ctx, s.Pool, table)
		if err != nil {
			return pgdb.Classify(err)
		}
		if t == nil {
			opt.Fault(store.Fault{Kind: store.Unreadable, Path: table.Sanitize(), Reason: "the table of the stream is gone"})
			continue
		}
		if err := s.verifyStream(ctx, name, t, opt); err != nil {
			return pgdb.Classify(fmt.Errorf("verify stream %s: %w", name, err))
		}
	}
	return nil
}

func (s *Store) verifyStream(ctx context.Context, name string, t *pgdb.Table, opt store.VerifyOptions) error {
	table := pgdb.Ident{public, name}.Sanitize()
	var rows, recorded int64
	var first *int64
	var oldest, second *time.Time
	// Use a single statement, which sees rows and records as of the same
	// moment.
	err := s.Pool.QueryRow(ctx, `select (select count(*) from `+table+`),
		(select coalesce(sum(r.rows), 0)::bigint from `+s.RecordsTable()+` r where r.location = $1),
		(select min(r.time) from `+s.RecordsTable()+` r where r.location = $1 and r.rows > 0),
		(select min(r.time) from `+s.RecordsTable()+` r where r.location = $1
			and r.time > (select min(o.time) from `+s.RecordsTable()+` o where o.location = $1 and o.rows > 0)),
		min(v.serial_time)::int8 from `+pgdb.Ident{catalog, viewPrefix + name}.Sanitize()+` v`, name).
		Scan(&rows, &recorded, &oldest, &second, &first)
	if err != nil {
		return err
	}
	s.mu.Lock()
	_, adopted := s.adopted[name]
	s.mu.Unlock()
	// The rows of the oldest log that has rows begin before the next log. If there is no
	// next log, they begin at most maxZoneOffset after the time of its folder.
	dropped := false
	if oldest != nil {
		latest := oldest.Add(maxZoneOffset)
		if second != nil && second.Before(latest) {
			latest = *second
		}
		dropped = first == nil || time.Unix(*first, 0).After(latest)
	}
	switch {
	case adopted:
	case rows > recorded:
		opt.Fault(store.Fault{Kind: store.Unrecorded, Path: table, Reason: fmt.Sprintf("%d rows, of which the records know %d", rows, recorded)})
	case rows < recorded && !dropped:
		opt.Fault(store.Fault{Kind: store.Damaged, Path: table, Reason: fmt.Sprintf("%d rows are missing of %d", recorded-rows, recorded)})
	}
	if !opt.Deep {
		return nil
	}
	if err := s.ReadAll(ctx, pgdb.Ident{public, name}, opt.Fault); err != nil {
		return err
	}
	condition := t.EndsInCR()
	if condition == "" {
		return nil
	}
	if err := s.Pool.QueryRow(ctx, "select count(*) from "+table+" t where "+condition).Scan(&rows); err != nil {
		return err
	}
	if rows > 0 {
		opt.Fault(store.Fault{Kind: store.CR, Path: table, Reason: fmt.Sprintf("%d rows have values that end in CR", rows)})
	}
	return nil
}
