package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/store/pgtest"
)

// caseDatabases imports into a private PostgreSQL server. The peer is what
// the server can take: two parallel psql that \copy the same rows, converted
// beforehand, into one plain table with the same columns. ANALYZE, which
// DBStream wants of an importer, is measured apart.
func (b *bench) caseDatabases(ctx context.Context) (err error) {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	tb := &serverTB{}
	defer tb.end(&err)
	server := postgreSQL(tb)

	// Both sides without TLS, which is not what is compared here.
	host := func(db string) string { return server.Host(db) + "?sslmode=disable" }

	// Each run has a database of its own, which goes when it ends: else one
	// side would find what it needs in the server's caches, and memory that
	// was given back a moment ago, and the other one would not.
	fresh := func(ctx context.Context, template string, run func(db string) (usage, error)) (usage, error) {
		db := server.Copy(tb, template)
		defer server.Exec(tb, "postgres", "drop database "+db)
		server.Exec(tb, db, "checkpoint")
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		return run(db)
	}
	empty := server.Database(tb)
	server.Exec(tb, empty, "create schema dbs_ts0")

	// peer makes the converted files: the rows of an import of ours, one file
	// for each partition or part of it that parts returns.
	peer := func(dest, table, parts string, flags ...string) (side, error) {
		if b.base != nil {
			return nil, nil // an older tstatrepo is the peer
		}
		base := server.Copy(tb, empty)
		url := "postgres://" + host(base)
		if err := b.fresh(ctx); err != nil {
			return nil, err
		}
		if _, _, err := b.importTo(ctx, t, strings.Replace(dest, "HOST", host(base), 1), flags...); err != nil {
			return nil, err
		}
		dir := filepath.Join(b.dir, "converted", table)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		queries, err := exec.CommandContext(ctx, server.Program("psql"), "-qAt", url, "-c", parts).Output()
		if err != nil {
			return nil, fmt.Errorf("list the parts of %s: %w", table, err)
		}
		var halves [2]strings.Builder
		for i, query := range strings.Split(strings.TrimSpace(string(queries)), "\n") {
			file := filepath.Join(dir, fmt.Sprint(i))
			if _, err := b.run(ctx, server.Program("psql"), "-q", url, "-c", fmt.Sprintf("\\copy (%s) to '%s'", query, file)); err != nil {
				return nil, err
			}
			fmt.Fprintf(&halves[i%2], "\\copy plain from '%s'\n", file)
		}
		server.Exec(tb, base, "create table plain (like "+table+"); drop table "+table+" cascade")
		return func(ctx context.Context) (usage, error) {
			return fresh(ctx, base, func(db string) (usage, error) {
				return b.run(ctx, "sh", "-c", `printf '%s' "$2" | "$0" -q "$1" & printf '%s' "$3" | "$0" -q "$1"; wait`,
					server.Program("psql"), "postgres://"+host(db), halves[0].String(), halves[1].String())
			})
		}, nil
	}
	remote, stop, err := b.serve(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	into := func(t tree, dest string, flags ...string) side {
		return func(ctx context.Context) (usage, error) {
			return fresh(ctx, empty, func(db string) (usage, error) {
				u, s, err := b.importTo(ctx, t, strings.Replace(dest, "HOST", host(db), 1), flags...)
				if err == nil && s.Rows != t.rows {
					err = fmt.Errorf("%d rows stored of %d", s.Rows, t.rows)
				}
				return u, err
			})
		}
	}
	stream := []string{"--type=log_tcp_complete", "--stream=bench"}
	const dbs = "dbstream://HOST&schema=dbs_ts0&window=3600s&analyze="
	toPlain, err := peer("postgres://HOST", "log_tcp_complete",
		"select format('select * from log_tcp_complete where folder = %L', folder) from (select distinct folder from tstatrepo_files) f order by folder")
	if err != nil {
		return err
	}
	toDBS, err := peer(dbs+"none", "bench", "select format('select * from %s', inhrelid::regclass) from pg_inherits where inhparent = 'bench'::regclass", stream...)
	if err != nil {
		return err
	}
	toPostgres, toDBStream := into(t, "postgres://HOST"), into(t, dbs+"none", stream...)
	for _, c := range []struct {
		name       string
		target     float64
		ours, peer side
	}{
		{"postgres / 2 x psql \\copy, rows/s", 0.9, toPostgres, toPlain},
		{"dbstream / 2 x psql \\copy, rows/s", 0.9, toDBStream, toDBS},
		{"math:// to dbstream / 2 x psql \\copy, rows/s", 0.9, into(remote, dbs+"none", stream...), toDBS},
		{"dbstream with analyze=light, rows/s", 0, into(t, dbs+"light", stream...), toDBS},
	} {
		if err := b.compare(ctx, c.name, float64(t.rows), c.target, c.ours, c.peer); err != nil {
			return err
		}
	}
	if len(b.cpus) < 2 {
		return nil
	}
	// A server that shares no CPU with the client, as on another machine.
	server.Bind(tb, b.cpus[0])
	both := b.prefix
	b.prefix = bind(b.cpus[1])
	defer func() { b.prefix = both }()
	if err := b.compare(ctx, "postgres on a CPU of its own / 2 x psql, rows/s", float64(t.rows), 0, toPostgres, toPlain); err != nil {
		return err
	}
	return b.compare(ctx, "dbstream on a CPU of its own / 2 x psql, rows/s", float64(t.rows), 0, toDBStream, toDBS)
}

// postgreSQL starts a server that does nothing by itself: its autovacuum
// would analyze what one side has stored while the other one is measured.
func postgreSQL(tb *serverTB) *pgtest.Server {
	server := pgtest.Start(tb)
	server.Exec(tb, "postgres", "alter system set autovacuum = off")
	server.Exec(tb, "postgres", "select pg_reload_conf()")
	return server
}

// serverTB lets pgtest, carbontest and rrdtest, which are for tests, serve a
// program: it is that part of testing.TB that they use.
type serverTB struct {
	testing.TB
	cleanup []func()
}

// serverError is the failure of a call of pgtest, as a panic.
type serverError string

func (*serverTB) Helper()                            {}
func (t *serverTB) Cleanup(f func())                 { t.cleanup = append(t.cleanup, f) }
func (*serverTB) Fatal(args ...any)                  { panic(serverError(fmt.Sprint(args...))) }
func (*serverTB) Fatalf(format string, args ...any)  { panic(serverError(fmt.Sprintf(format, args...))) }
func (t *serverTB) Skip(args ...any)                 { t.Fatal(args...) }
func (t *serverTB) Skipf(format string, args ...any) { t.Fatalf(format, args...) }

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
		*err = fmt.Errorf("server: %s", e)
	} else if p != nil {
		panic(p)
	}
}
