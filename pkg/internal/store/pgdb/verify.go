package pgdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// ReadAll reads all values in a table. If the server reports damaged data, ReadAll calls
// fault and returns nil.
func (d *DB) ReadAll(ctx context.Context, table Ident, fault func(store.Fault)) error {
	var size *int64
	err := d.Pool.QueryRow(ctx, "select sum(length(t::text)) from "+table.Sanitize()+" t").Scan(&size)
	var pe *pgconn.PgError
	if errors.As(err, &pe) && len(pe.Code) == 5 && (pe.Code[:2] == "XX" || pe.Code[:2] == "58") {
		fault(store.Fault{Kind: store.Damaged, Path: table.Sanitize(), Reason: pe.Message})
		return nil
	}
	if err != nil {
		return Classify(fmt.Errorf("read %s: %w", table.Sanitize(), err))
	}
	return nil
}

// EndsInCR returns an SQL condition that selects the rows of t with a value that ends in
// CR, or "" if t has no text columns. Queries that use the condition must give the table
// the alias t.
func (t *Table) EndsInCR() string {
	var any []string
	for _, name := range slices.Sorted(maps.Keys(t.Columns)) {
		if typ := t.Columns[name]; typ == "text" || typ == "varchar" {
			any = append(any, "right(t."+Quote(name)+", 1) = chr(13)")
		}
	}
	return strings.Join(any, " or ")
}
