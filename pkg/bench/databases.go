package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/store/pgtest"
)

// caseDatabases imports into a private PostgreSQL server. The peer is what
// the server can take: two parallel psql that \copy the same rows, converted
// beforehand, into one plain table. ANALYZE, which DBStream wants of an
// importer, is measured apart.
func (b *bench) caseDatabases(ctx context.Context) (err error) {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	tb := &serverTB{}
	defer tb.end(&err)
	server := pgtest.Start(tb)

	// The converted files are the rows of an import of ours, one for each log
	// folder.
	base := server.Database(tb)
	if err := b.fresh(ctx); err != nil {
		return err
	}
	if _, _, err := b.importTo(ctx, t, "postgres://"+server.Host(base)); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "converted")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	folders, err := filepath.Glob(filepath.Join(t.dir, "*.out"))
	if err != nil {
		return err
	}
	url := "postgres://" + server.Host(base)
	var halves [2]strings.Builder
	for i, f := range folders {
		file := filepath.Join(dir, fmt.Sprint(i))
		if _, err := b.run(ctx, server.Program("psql"), "-q", url, "-c",
			fmt.Sprintf("\\copy (select * from log_tcp_complete where folder = '%s') to '%s'", filepath.Base(f), file)); err != nil {
			return err
		}
		fmt.Fprintf(&halves[i%2], "\\copy plain from '%s'\n", file)
	}
	server.Exec(tb, base, "create table plain (like log_tcp_complete)")
	peer := func(ctx context.Context) (usage, error) {
		server.Exec(tb, base, "truncate plain; checkpoint")
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		return b.run(ctx, "sh", "-c", `printf '%s' "$2" | "$0" -q "$1" & printf '%s' "$3" | "$0" -q "$1"; wait`,
			server.Program("psql"), url, halves[0].String(), halves[1].String())
	}
	remote, stop, err := b.serve(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	into := func(t tree, dest string, flags ...string) side {
		return func(ctx context.Context) (usage, error) {
			db := server.Database(tb)
			defer server.Exec(tb, "postgres", "drop database "+db)
			server.Exec(tb, db, "create schema dbs_ts0; checkpoint")
			if err := b.fresh(ctx); err != nil {
				return usage{}, err
			}
			u, s, err := b.importTo(ctx, t, strings.Replace(dest, "HOST", server.Host(db), 1), flags...)
			if err == nil && s.Rows != t.rows {
				err = fmt.Errorf("%d rows stored of %d", s.Rows, t.rows)
			}
			return u, err
		}
	}
	stream := []string{"--type", "log_tcp_complete", "--stream", "bench"}
	for _, c := range []struct {
		name   string
		target float64
		ours   side
	}{
		{"postgres / 2 x psql \\copy, rows/s", 0.9, into(t, "postgres://HOST")},
		{"dbstream / 2 x psql \\copy, rows/s", 0.9, into(t, "dbstream://HOST?schema=dbs_ts0&window=3600s&analyze=none", stream...)},
		{"math:// to dbstream / 2 x psql \\copy, rows/s", 0.9, into(remote, "dbstream://HOST?schema=dbs_ts0&window=3600s&analyze=none", stream...)},
		{"dbstream with analyze=light, rows/s", 0, into(t, "dbstream://HOST?schema=dbs_ts0&window=3600s&analyze=light", stream...)},
	} {
		if err := b.compare(ctx, c.name, float64(t.rows), c.target, c.ours, peer); err != nil {
			return err
		}
	}
	return nil
}

// serverTB lets pgtest, which is for tests, serve a program: it is that part
// of testing.TB that pgtest uses.
type serverTB struct {
	testing.TB
	cleanup []func()
}

// serverError is the failure of a call of pgtest, as a panic.
type serverError string

func (*serverTB) Helper()                           {}
func (t *serverTB) Cleanup(f func())                { t.cleanup = append(t.cleanup, f) }
func (*serverTB) Fatal(args ...any)                 { panic(serverError(fmt.Sprint(args...))) }
func (*serverTB) Fatalf(format string, args ...any) { panic(serverError(fmt.Sprintf(format, args...))) }
func (t *serverTB) Skip(args ...any)                { t.Fatal(args...) }

func (t *serverTB) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// end stops the server and turns a failure into an error.
func (t *serverTB) end(err *error) {
	p := recover()
	for i := len(t.cleanup) - 1; i >= 0; i-- {
		t.cleanup[i]()
	}
	if e, ok := p.(serverError); ok {
		*err = fmt.Errorf("PostgreSQL: %s", e)
	} else if p != nil {
		panic(p)
	}
}
