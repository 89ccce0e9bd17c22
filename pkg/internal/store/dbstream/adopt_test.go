package dbstream_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/dbstream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// filled creates a database as math_repo left it, from the golden files.
func filled(t *testing.T, server *pgtest.Server, database string) (url string, conn *pgx.Conn) {
	t.Helper()
	server.Exec(t, "postgres", "create database "+database)
	schema := strings.ReplaceAll(golden(t, "expected/schema.sql"), "\\", "--")
	server.Exec(t, database, "create schema dbs; create schema dbs_ts0; grant usage, create on schema public, dbs, dbs_ts0 to dbs_test;")
	server.Exec(t, database, schema)
	server.Exec(t, database, "grant select, insert on dbs_tables to dbs_test; grant select on log_tcp_complete_v15 to dbs_test")
	conn = server.Connect(t, database)
	load := func(table, file string) {
		if _, err := conn.PgConn().CopyFrom(context.Background(), strings.NewReader(golden(t, file)), "copy "+table+" from stdin (null '-')"); err != nil {
			t.Fatal(table, ": ", err)
		}
	}
	load("dbs_tables", "expected/dbs_tables.tsv")
	load("dbs.view_info_golden_tcp", "expected/view_info.tsv")
	files, _ := filepath.Glob("testdata/golden/expected/partitions/*.tsv")
	for _, f := range files {
		part := strings.TrimSuffix(filepath.Base(f), ".tsv")
		load("dbs_ts0."+part, "expected/partitions/"+part+".tsv")
	}
	return fmt.Sprintf("dbstream://dbs_test@127.0.0.1:%d/%s?sslmode=disable", server.Port, database), conn
}

// source returns a folder with the golden log folders, as on the probe.
func source(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"input", "pusher"} {
		if err := os.CopyFS(dir, os.DirFS("testdata/golden/"+part)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func adopt(t *testing.T, s *dbstream.Store, stored int64) error {
	t.Helper()
	a := store.Adoption{Stream: "golden_tcp", Probe: "p1", Type: "log_tcp_complete", Location: time.UTC}
	if stored != 0 {
		a.Stored = time.Unix(stored, 0)
	}
	return s.Adopt(context.Background(), a)
}

const goldenStored = 1458870000 // lastOutputFileTime of the golden state

// TestAdopt adopts streams of math_repo. All subtests share one server.
func TestAdopt(t *testing.T) {
	server := pgtest.Start(t)
	url := administer(t, server, "dbs_test") // with the role and the tablespace
	t.Run("other database", func(t *testing.T) { testAdoptNothing(t, server, url) })
	t.Run("stored", func(t *testing.T) { testAdoptStored(t, server) })
	t.Run("held", func(t *testing.T) { testAdoptHeld(t, server) })
	t.Run("future", func(t *testing.T) { testAdoptFuture(t, server) })
	t.Run("repository", func(t *testing.T) { testAdoptState(t, server) })
}

// testAdoptStored checks that rows that math_repo stored are not stored again,
// and that all other rows are stored, even if parts of math_repo's state are lost.
func testAdoptStored(t *testing.T, server *pgtest.Server) {
	for _, tt := range []struct {
		name   string
		stored int64
		before string // SQL
	}{
		{name: "whole_state", stored: goldenStored},
		{name: "without_state"},
		{name: "old_state", stored: goldenStored - 3600},
		{name: "unlisted", stored: goldenStored - 600, before: "delete from dbs.view_info_golden_tcp where serial_time = 1458869400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url, conn := filled(t, server, tt.name)
			if tt.before != "" {
				server.Exec(t, tt.name, tt.before)
			}
			before := table(t, conn, "select * from golden_tcp order by tableoid::regclass::text, ctid")
			src := source(t)
			s := open(t, url, "golden_tcp")
			if err := adopt(t, s, tt.stored); err != nil {
				t.Fatal(err)
			}
			sum := imports(t, s, src, nil)
			// The pusher's 20 rows are those that math_repo had not stored.
			if sum.Total.Files != 6 || sum.Total.Rejects != 0 {
				t.Errorf("summary %+v", sum.Total)
			}
			after := table(t, conn, "select * from golden_tcp where serial_time < 1458870000 order by tableoid::regclass::text, ctid")
			if before != after {
				t.Errorf("what was there has changed: %d and %d bytes", len(before), len(after))
			}
			if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1220 {
				t.Errorf("%d rows, want the 1200 that were there and 20", n)
			}
			if n := scan[int](t, conn, "select count(*) from dbs.view_info_golden_tcp"); n != 26 {
				t.Errorf("%d windows are listed, want 26", n)
			}
			// A second adoption, as after a restart, changes nothing.
			s = open(t, url, "golden_tcp")
			if err := adopt(t, s, tt.stored); err != nil {
				t.Fatal(err)
			}
			if sum = imports(t, s, src, nil); sum.Total.Skipped != 6 {
				t.Errorf("second run: %+v", sum.Total)
			}
			// The adoption is stored in the database.
			sum = imports(t, open(t, url, "golden_tcp"), src, nil)
			if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1220 || sum.Total.Skipped != 6 {
				t.Errorf("third run: %d rows, %+v", n, sum.Total)
			}
		})
	}
}

// testAdoptHeld checks that a folder that ended long before the last window is
// not read.
func testAdoptHeld(t *testing.T, server *pgtest.Server) {
	url, conn := filled(t, server, "held")
	src := source(t)
	// Add a folder two days before the others.
	old := filepath.Join(src, "2016_03_22_21_37.out")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(src, "2016_03_24_21_37.out"))); err != nil {
		t.Fatal(err)
	}
	old = filepath.Join(src, "2016_03_22_22_37.out")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(src, "2016_03_24_21_37.out"))); err != nil {
		t.Fatal(err)
	}
	s := open(t, url, "golden_tcp")
	if err := adopt(t, s, goldenStored); err != nil {
		t.Fatal(err)
	}
	sum := imports(t, s, src, nil)
	if sum.Total.Skipped != 1 || sum.Total.Files != 7 {
		t.Errorf("summary %+v", sum.Total)
	}
	if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1220 {
		t.Errorf("%d rows", n)
	}
}

// testAdoptNothing checks that streams that math_repo did not fill are not
// adopted.
func testAdoptNothing(t *testing.T, server *pgtest.Server, url string) {
	s := open(t, url, "golden_tcp")
	if err := adopt(t, s, goldenStored); err != nil {
		t.Fatal(err)
	}
	if sum := imports(t, s, "testdata/golden/input", nil); sum.Total.Rows != 1200 {
		t.Errorf("summary %+v", sum.Total)
	}
	// Now tstatrepo has stored files in the stream.
	s = open(t, url, "golden_tcp")
	if err := adopt(t, s, goldenStored+7200); err != nil {
		t.Fatal(err)
	}
	imports(t, s, source(t), nil)
	conn := server.Connect(t, "dbs_test")
	if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1220 {
		t.Errorf("%d rows", n)
	}
	// Windows without a record, as after a crash, belong to tstatrepo too.
	server.Exec(t, "dbs_test", "delete from dbs.tstatrepo_files; delete from golden_tcp")
	s = open(t, url, "golden_tcp")
	if err := adopt(t, s, goldenStored); err != nil {
		t.Fatal(err)
	}
	imports(t, s, source(t), nil)
	if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1220 {
		t.Errorf("%d rows after a crash", n)
	}
}

// testAdoptFuture checks that a stream whose last window is in the future is not
// adopted.
func testAdoptFuture(t *testing.T, server *pgtest.Server) {
	url, _ := filled(t, server, "future")
	s, err := dbstream.Open(context.Background(), url, dbstream.Options{Stream: "golden_tcp"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := adopt(t, s, time.Now().Add(48*time.Hour).Unix()); err == nil || !strings.Contains(err.Error(), "in the future") {
		t.Error(err)
	}
}

// testAdoptState checks that a repository can replace math_repo using only its
// state files and the database. The old probe does not register again. No row is
// stored twice, and new folders are stored.
func testAdoptState(t *testing.T, server *pgtest.Server) {
	url, conn := filled(t, server, "repository")
	before := table(t, conn, "select * from golden_tcp order by tableoid::regclass::text, ctid")
	src, log := source(t), slog.New(slog.NewTextHandler(testLog{t}, nil))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	wants := func(logType string, _ time.Time) bool { return logType == "log_tcp_complete" }
	probe, err := mathproto.NewExporter(mathproto.ExporterOptions{
		Dir: src, Repository: mathproto.URL{Addr: "127.0.0.1:1"}, Listen: []peer.Options{{Addr: "127.0.0.1:0"}},
		Stream: "golden_tcp", Probe: "p1", Location: time.UTC, Wants: wants, Settle: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		if err := probe.Run(ctx); err != nil {
			t.Error("probe: ", err)
		}
	})
	dir := t.TempDir()
	for _, name := range []string{"running_imports.xml", "dbs_stat_golden_tcp.xml"} {
		text := golden(t, "expected/"+name)
		if name == "running_imports.xml" {
			text = strings.Replace(text, "127.0.0.1:3001", probe.Addrs()[0], 1)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state, err := legacy.ReadState(dir)
	if err != nil || len(state.Streams) != 1 || len(state.Notes) != 0 {
		t.Fatalf("%+v, %v", state, err)
	}
	st := state.Streams[0]
	pool, err := repository.OpenStores(ctx, repository.StoreOptions{
		To: []string{url}, Memory: 64 << 20, Jobs: 1, Wants: wants, Log: log,
		Adopt: map[string]store.Adoption{st.Name: {Location: time.UTC, Copied: st.Copied, Stored: st.Stored}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	stateDir := t.TempDir()
	repo, err := mathproto.NewRepository(mathproto.RepositoryOptions{
		Listen: []peer.Options{{Addr: "127.0.0.1:0"}}, Adopt: []mathproto.Registration{*st.Registered},
		Stores: pool, Log: log, State: filepath.Join(stateDir, "math.json"), FolderLength: time.Hour,
		Import: bulk.Options{Probe: "repository", Location: time.UTC, Jobs: 1, Poll: 100 * time.Millisecond, MaxRejects: bulk.DefaultMaxRejects, StateDir: stateDir},
	})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		if err := repo.Run(ctx); err != nil {
			t.Error("repository: ", err)
		}
	})
	await := func(files, rows int) {
		t.Helper()
		var got, n int
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if scan[bool](t, conn, "select to_regclass('dbs.tstatrepo_files') is null") {
				continue
			}
			if got = scan[int](t, conn, "select count(*) from dbs.tstatrepo_files"); got == files {
				break
			}
		}
		if n = scan[int](t, conn, "select count(*) from golden_tcp"); got != files || n != rows {
			t.Fatalf("%d files and %d rows, want %d and %d", got, n, files, rows)
		}
	}
	await(5, 1210) // the folder that math_repo had read, but not its window
	after := table(t, conn, "select * from golden_tcp where serial_time < 1458870000 order by tableoid::regclass::text, ctid")
	if before != after {
		t.Error("what math_repo stored has changed")
	}
	next := filepath.Join(src, "2016_03_25_02_00.out")
	if err := os.CopyFS(next, os.DirFS(filepath.Join(src, "2016_03_25_01_55.out"))); err != nil {
		t.Fatal(err)
	}
	await(6, 1220) // then the newest folder
}
