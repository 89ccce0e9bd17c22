package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// caseDatabases compares an import into a private PostgreSQL server with two parallel
// psql processes that \copy the logs into a plain table with the same columns. ANALYZE,
// which DBStream expects an importer to run, is measured separately.
func (b *bench) caseDatabases(ctx context.Context) (err error) {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	tb := &serverTB{}
	defer tb.end(&err)
	server := postgreSQL(tb)

	// Neither side uses TLS.
	host := func(db string) string { return server.Host(db) + "?sslmode=disable" }

	// Each run has its own database, which is dropped at the end. Otherwise one side
	// could profit from the server's warm caches and recently freed memory.
	empty := server.Database(tb)
	server.Exec(tb, empty, "create schema dbs_ts0")
	fresh := func(ctx context.Context, run func(db string) (usage, error)) (usage, error) {
		db := server.Copy(tb, empty)
		defer server.Exec(tb, "postgres", "drop database "+db)
		server.Exec(tb, db, "checkpoint")
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		return run(db)
	}

	// \copy has options for the logs' NULL and separator, so awk has little to
	// convert. Times stay numbers, which the server parses faster.
	var halves [2][]string
	logs, err := filepath.Glob(filepath.Join(t.dir, "*.out", "log_tcp_complete"))
	if err != nil {
		return err
	}
	for i, file := range logs {
		halves[i%2] = append(halves[i%2], file)
	}
	plain, err := plainTable(logs[0])
	if err != nil {
		return err
	}
	peer := func(ctx context.Context) (usage, error) {
		return fresh(ctx, func(db string) (usage, error) {
			server.Exec(tb, db, plain)
			u, err := b.run(ctx, "sh", "-c", `import() { awk '!/^#/ { gsub(" ---", " -"); print }' $1 | "$psql" -c "\\copy plain from stdin with (delimiter ' ', null '-')" "$url"; }
psql=$0 url=$1; import "$2" & import "$3" && wait $!`,
				server.Program("psql"), "postgres://"+host(db), strings.Join(halves[0], " "), strings.Join(halves[1], " "))
			var first, second int64
			if err == nil {
				if _, err = fmt.Sscanf(string(u.out), "COPY %d\nCOPY %d\n", &first, &second); err == nil && first+second != t.rows {
					err = fmt.Errorf("psql stored %d rows of %d", first+second, t.rows)
				}
			}
			return u, err
		})
	}
	remote, stop, err := b.serve(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	into := func(t tree, dest string, flags ...string) side {
		return func(ctx context.Context) (usage, error) {
			return fresh(ctx, func(db string) (usage, error) {
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
	toPostgres, toDBStream := into(t, "postgres://HOST"), into(t, dbs+"none", stream...)
	for _, c := range []struct {
		name   string
		target float64
		ours   side
	}{
		{"postgres / 2 x awk | psql \\copy, rows/s", 1, toPostgres},
		{"dbstream / 2 x awk | psql \\copy, rows/s", 1, toDBStream},
		{"math:// to dbstream / 2 x awk | psql \\copy, rows/s", 1, into(remote, dbs+"none", stream...)},
		{"dbstream with analyze=light, rows/s", 0, into(t, dbs+"light", stream...)},
	} {
		if err := b.compare(ctx, c.name, float64(t.rows), c.target, c.ours, peer); err != nil {
			return err
		}
	}
	if len(b.cpus) < 2 {
		return nil
	}
	// Bind the server to a CPU that the client does not use, as if it ran on another
	// machine.
	server.Bind(tb, b.cpus[0])
	both := b.prefix
	b.prefix = bind(b.cpus[1])
	defer func() { b.prefix = both }()
	if err := b.compare(ctx, "postgres on a separate CPU / 2 x awk | psql, rows/s", float64(t.rows), 1, toPostgres, peer); err != nil {
		return err
	}
	return b.compare(ctx, "dbstream on a separate CPU / 2 x awk | psql, rows/s", float64(t.rows), 1, toDBStream, peer)
}

// plainTable returns SQL that creates a table named plain with the columns of a
// log_tcp_complete file. The column types are the same as in tstatrepo's tables, except
// that times are numbers.
func plainTable(log string) (string, error) {
	f, err := os.Open(log)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r := tstat.NewReader(f, tstat.TypeByName("log_tcp_complete"), tstat.ReaderOptions{})
	batch, err := r.Next()
	if err != nil {
		return "", fmt.Errorf("%s: %w", log, err)
	}
	types := map[tstat.Kind]string{tstat.Int: "bigint", tstat.Float: "double precision", tstat.Bool: "boolean", tstat.Time: "double precision", tstat.Text: "text"}
	_, _, fields := batch.Row(0)
	var columns []string
	for _, c := range fields {
		if c < 0 {
			return "", fmt.Errorf("%s has an unknown column", log)
		}
		columns = append(columns, fmt.Sprintf("%q %s", r.Columns()[c].Name, types[r.Columns()[c].Kind]))
	}
	return "create table plain (" + strings.Join(columns, ", ") + ")", nil
}

// postgreSQL starts a server without autovacuum. Autovacuum could analyze one side's
// tables while the other side is measured.
func postgreSQL(tb *serverTB) *pgtest.Server {
	server := pgtest.Start(tb)
	server.Exec(tb, "postgres", "alter system set autovacuum = off")
	server.Exec(tb, "postgres", "select pg_reload_conf()")
	return server
}

// serverTB implements the part of testing.TB that pgtest, carbontest and rrdtest use, so
// that a program can use these test packages.
type serverTB struct {
	testing.TB
	cleanup []func()
}

// serverError is the value with which serverTB.Fatal panics.
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

// end runs the cleanup functions of t, which stop the server. If the caller is panicking
// with a serverError, end stops the panic and stores the error in *err. end must be
// deferred.
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
