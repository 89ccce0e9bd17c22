package pgdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// colPruned is the column of sqlstore.FilesTable that holds the time when a file's rows
// were pruned. It is NULL if they were not.
const colPruned = "pruned"

// Records implements store.Manager.
func (d *DB) Records(ctx context.Context, f func(store.Record) error) error {
	if d.records.table == nil {
		return nil
	}
	if err := d.refreshColumns(ctx); err != nil {
		return Classify(err)
	}
	rows, _ := d.Pool.Query(ctx, "select "+d.recordColumns()+" from "+d.records.table.Sanitize()+" r")
	return Classify(eachRecord(rows, f))
}

// refreshColumns rereads which columns the table of records has, since another process
// may have added some. It does nothing if d already knows of all columns.
func (d *DB) refreshColumns(ctx context.Context) error {
	if d.records.pruned.Load() && d.records.hasAll() {
		return nil
	}
	t, err := FindTable(ctx, d.Pool, d.records.table)
	if err == nil && t != nil {
		d.setColumns(t)
	}
	return err
}

// AddPruned adds the column colPruned to the table of records if an older version
// created the table without it. Only the owner of the table can add the column.
func (d *DB) AddPruned(ctx context.Context) error {
	if d.records.table == nil {
		return nil
	}
	if err := d.refreshColumns(ctx); err != nil || d.records.pruned.Load() {
		return Classify(err)
	}
	table := d.records.table.Sanitize()
	err := d.Change(ctx, table, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "alter table "+table+" add column if not exists "+colPruned+" timestamptz")
		return err
	})
	if err != nil {
		return fmt.Errorf("add column %s to %s: %w", colPruned, table, err)
	}
	d.records.pruned.Store(true)
	return nil
}

// Prunable counts the records whose folder is older than the given time and whose rows
// are still stored, and adds up their rows. If condition is not empty, it is an
// additional SQL condition on the table of records, which has the alias r. In the
// condition, $2 stands for args[0], $3 for args[1] and so on.
func (d *DB) Prunable(ctx context.Context, q Querier, before time.Time, condition string, args ...any) (store.PruneResult, error) {
	var res store.PruneResult
	if d.records.table == nil {
		return res, nil
	}
	err := q.QueryRow(ctx, "select count(*), coalesce(sum(r.rows), 0)::bigint from "+d.records.table.Sanitize()+" r where "+d.prunable(condition),
		append([]any{before}, args...)...).Scan(&res.Files, &res.Rows)
	return res, err
}

// MarkPruned marks as pruned the records that Prunable counts for the same arguments.
func (d *DB) MarkPruned(ctx context.Context, tx pgx.Tx, before time.Time, condition string, args ...any) error {
	_, err := tx.Exec(ctx, "update "+d.records.table.Sanitize()+" r set "+colPruned+" = now() where "+d.prunable(condition), append([]any{before}, args...)...)
	return err
}

func (d *DB) prunable(condition string) string {
	sql := "r.time < $1"
	if d.records.pruned.Load() {
		sql += " and r." + colPruned + " is null"
	}
	if condition != "" {
		sql += " and (" + condition + ")"
	}
	return sql
}

// Locations returns the distinct locations in the table of records; see UseRecords.
func (d *DB) Locations(ctx context.Context) ([]string, error) {
	if d.records.table == nil {
		return nil, nil
	}
	rows, _ := d.Pool.Query(ctx, "select distinct location from "+d.records.table.Sanitize()+" order by 1")
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, Classify(err)
}

// RecordsTable returns the name of the table of records as SQL text, or "" if UseRecords
// was not called or has found no table.
func (d *DB) RecordsTable() string {
	if d.records.table == nil {
		return ""
	}
	return d.records.table.Sanitize()
}
