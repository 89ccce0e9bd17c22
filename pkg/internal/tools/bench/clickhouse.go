package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
)

// caseClickHouse compares an import into a private ClickHouse server with two parallel
// curl processes that post the same rows into a plain table with the same columns. The
// rows are converted to TabSeparated beforehand.
func (b *bench) caseClickHouse(ctx context.Context) (err error) {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	tb := &serverTB{}
	defer tb.end(&err)
	server := clickhousetest.Start(tb)
	into := func(db string) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		u, s, err := b.importTo(ctx, t, "clickhouse://"+server.Host()+"/"+db)
		if err == nil && s.Rows != t.rows {
			err = fmt.Errorf("%d rows stored of %d", s.Rows, t.rows)
		}
		return u, err
	}

	ours := func(context.Context) (usage, error) {
		db := server.Database()
		defer server.Query(tb, "drop database if exists "+db)
		return into(db)
	}
	name := "clickhouse / 2 x curl of TabSeparated, rows/s"
	if b.base != nil {
		return b.compare(ctx, name, float64(t.rows), 0, ours, nil)
	}

	// Export the rows that tstatrepo imported to two files, with alternating folders.
	base := server.Database()
	if _, err := into(base); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "converted")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	post := "http://" + server.Host() + "/?max_memory_usage=0&query="
	var halves [2]string
	for i := range halves {
		halves[i] = filepath.Join(dir, fmt.Sprintf("clickhouse%d.tsv", i))
		sql := fmt.Sprintf("select * from %s.log_tcp_complete_rows where toHour(folder_time) %% 2 = %d order by folder_time format TabSeparated", base, i)
		if _, err := b.run(ctx, "curl", "-sSf", "-o", halves[i], "--data-binary", sql, post); err != nil {
			return err
		}
	}
	peer := func(ctx context.Context) (usage, error) {
		server.Query(tb, "drop table if exists "+base+".plain")
		server.Query(tb, "create table "+base+".plain as "+base+".log_tcp_complete_rows")
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		u, err := b.run(ctx, "sh", "-c", `curl -sSf --data-binary "@$1" "$0" & curl -sSf --data-binary "@$2" "$0" && wait $!`,
			post+"insert%20into%20"+base+".plain%20format%20TabSeparated", halves[0], halves[1])
		if n := server.Number(tb, "select count() from "+base+".plain"); err == nil && int64(n) != t.rows {
			err = fmt.Errorf("curl stored %d rows of %d", n, t.rows)
		}
		return u, err
	}
	return b.compare(ctx, name, float64(t.rows), 0.9, ours, peer)
}
