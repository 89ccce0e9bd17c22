package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
)

// Verify implements store.Manager. It searches for rows whose file has no record. With
// opt.Deep, it also searches all values for damage and for text that ends in CR.
func (s *Store) Verify(ctx context.Context, opt store.VerifyOptions) error {
	types, err := s.Locations(ctx)
	if err != nil {
		return err
	}
	for _, name := range types {
		table := pgdb.Ident{s.schema, name}
		t, err := pgdb.FindTable(ctx, s.Pool, table)
		if err != nil {
			return pgdb.Classify(err)
		}
		if t == nil {
			continue // Count reports the missing rows
		}
		if err := s.verifyTable(ctx, name, t, opt); err != nil {
			return pgdb.Classify(fmt.Errorf("verify table %s: %w", table.Sanitize(), err))
		}
	}
	return nil
}

func (s *Store) verifyTable(ctx context.Context, name string, t *pgdb.Table, opt store.VerifyOptions) error {
	table := pgdb.Ident{s.schema, name}.Sanitize()
	var files, rows int64
	// Use a single statement, which sees rows and records as of the same
	// moment.
	orphans := ` from ` + table + ` t where not exists (select from ` + s.RecordsTable() + ` r where r.id = t.` + colFile + ` and r.location = '` + strings.ReplaceAll(name, "'", "''") + `')`
	err := s.Pool.QueryRow(ctx, `select count(distinct t.`+colFile+`), count(*)`+orphans).Scan(&files, &rows)
	if err != nil {
		return err
	}
	if rows > 0 {
		opt.Fault(store.Fault{Kind: store.Unrecorded, Path: table, Reason: fmt.Sprintf("%d rows of files without a record (%d)", rows, files), Mend: "delete" + orphans})
	}
	if !opt.Deep {
		return nil
	}
	if err := s.ReadAll(ctx, pgdb.Ident{s.schema, name}, opt.Fault); err != nil {
		return err
	}
	condition := t.EndsInCR()
	if condition == "" {
		return nil
	}
	found, _ := s.Pool.Query(ctx, `select r.probe, r.folder, r.file, r.time, count(*) from `+table+` t join `+s.RecordsTable()+` r on r.id = t.`+colFile+`
		where `+condition+` group by r.id, r.probe, r.folder, r.file, r.time`)
	var r store.Record
	_, err = pgx.ForEachRow(found, []any{&r.Probe, &r.Folder, &r.File, &r.Time, &rows}, func() error {
		if r.Type = name; opt.Wants == nil || opt.Wants(&r) {
			opt.Fault(store.Fault{Kind: store.CR, Key: r.Key, Path: table, Reason: fmt.Sprintf("%d rows have values that end in CR", rows)})
		}
		return nil
	})
	return err
}
