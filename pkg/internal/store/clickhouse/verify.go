package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Verify implements store.Manager. It does not report rows without a record, since the
// view of their log type hides them from readers. With opt.Deep it reads all rows.
func (s *Store) Verify(ctx context.Context, opt store.VerifyOptions) error {
	if !opt.Deep {
		return nil
	}
	types, err := s.logTypes(ctx)
	if err != nil {
		return err
	}
	for _, t := range types {
		if err := s.readAll(ctx, t, opt); err != nil {
			return err
		}
	}
	return nil
}

// readAll reads all rows of a log type. It reports tables that cannot be read, and
// visible rows with values that end in CR.
func (s *Store) readAll(ctx context.Context, logType string, opt store.VerifyOptions) error {
	table := rowsTable(logType)
	columns, err := s.columns(ctx, "", table)
	if err != nil || len(columns) == 0 { // Count reports the missing rows
		return err
	}
	ignore := func([]string) error { return nil }
	err = s.query(ctx, "", nil, "select sum(cityHash64(*)) from "+name(s.cfg.database, table), ignore)
	var refused *serverError
	if errors.As(err, &refused) && !errors.Is(err, store.ErrUnavailable) && !limitCodes[refused.code] {
		opt.Fault(store.Fault{Kind: store.Damaged, Path: table, Reason: refused.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	var any []string
	for _, c := range slices.Sorted(maps.Keys(columns)) {
		if strings.Contains(columns[c], "String") && !strings.HasPrefix(columns[c], "Array") {
			any = append(any, "endsWith("+name(c)+", '\\r')")
		}
	}
	if len(any) == 0 {
		return nil
	}
	rows := map[string]string{} // by file_id
	err = s.query(ctx, "", nil, "select "+colFile+", count() from "+name(s.cfg.database, table)+" where "+colFile+" in ("+s.visible(logType)+") and ("+
		strings.Join(any, " or ")+") group by "+colFile, func(row []string) error {
		if len(row) != 2 {
			return errFields
		}
		rows[row[0]] = row[1]
		return nil
	})
	if err != nil || len(rows) == 0 {
		return err
	}
	return s.histories(ctx, "file = "+text(logType), func(h history) error {
		for _, r := range h.records() {
			if n := rows[r.Location]; n != "" && (opt.Wants == nil || opt.Wants(&r)) {
				opt.Fault(store.Fault{Kind: store.CR, Key: r.Key, Path: table, Reason: fmt.Sprintf("%s rows have values that end in CR", n)})
			}
		}
		return nil
	})
}
