package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// caseImporters runs two imports with one job each into the same private PostgreSQL
// server, like importers on two machines. The peer is one import with two jobs. With many
// tiny files, the result shows the cost of claims.
func (b *bench) caseImporters(ctx context.Context) (err error) {
	large, err := b.load(ctx)
	if err != nil {
		return err
	}
	const tiny = 500
	small, err := b.generate(ctx, 10*tiny, tiny, time.Minute)
	if err != nil {
		return err
	}
	tb := &serverTB{}
	defer tb.end(&err)
	server := postgreSQL(tb)
	// into returns a side that runs f on an empty database.
	into := func(f func(dest string) (usage, int64, error), rows int64) side {
		return func(ctx context.Context) (usage, error) {
			db := server.Database(tb)
			defer server.Exec(tb, "postgres", "drop database "+db)
			server.Exec(tb, db, "checkpoint")
			if err := b.fresh(ctx); err != nil {
				return usage{}, err
			}
			u, n, err := f("postgres://" + server.Host(db))
			if err == nil && n != rows {
				err = fmt.Errorf("%d rows stored of %d", n, rows)
			}
			return u, err
		}
	}
	for _, c := range []struct {
		what   string
		t      tree
		target float64
	}{
		{fmt.Sprintf("%d files", large.files), large, 0.9},
		{fmt.Sprintf("%d tiny files", tiny), small, 0},
	} {
		two := into(func(dest string) (usage, int64, error) { return b.twoImports(ctx, c.t, dest) }, c.t.rows)
		one := into(func(dest string) (usage, int64, error) {
			u, s, err := b.importTo(ctx, c.t, dest)
			return u, s.Rows, err
		}, c.t.rows)
		name := "two importers / one with two connections, PostgreSQL, " + c.what + ", rows/s"
		if err := b.compare(ctx, name, float64(c.t.rows), c.target, two, one); err != nil {
			return err
		}
	}
	return nil
}

// twoImports runs two concurrent imports of a tree into the same store. It returns the
// total number of rows that they stored.
func (b *bench) twoImports(ctx context.Context, t tree, dest string) (u usage, rows int64, err error) {
	args := []string{"sh", "-c", `"$@" --state-dir "$0/state.a" >"$0/a" & first=$!
"$@" --state-dir "$0/state.b" >"$0/b" || exit
wait $first`, b.out()}
	if u, err = b.run(ctx, append(args, b.importArgs(t, dest, "state", 1)...)...); err != nil {
		return u, 0, err
	}
	var shares []string
	for _, name := range []string{"a", "b"} {
		text, err := os.ReadFile(filepath.Join(b.out(), name))
		if err != nil {
			return u, 0, err
		}
		s, err := readSummary(text)
		if err != nil {
			return u, 0, err
		}
		rows += s.Rows
		shares = append(shares, fmt.Sprint(s.Files))
	}
	b.logf("  files of each: %s", strings.Join(shares, ", "))
	return u, rows, nil
}
