package dbstream_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/dbstream"
	"github.com/tstatrepo/tstatrepo/pkg/store/pgtest"
)

// filled makes a database as math_repo left it: the golden one.
func filled(t *testing.T, server *pgtest.Server, database string) (url string, conn *pgx.Conn) {
	t.Helper()
	if database == "dbs_test" {
		server.Exec(t, "postgres", "create role dbs_test login")
		server.Exec(t, "postgres", "create tablespace dbs_ts0 location '"+server.Dir(t, "dbs_ts0")+"'; ")
		server.Exec(t, "postgres", "grant create on tablespace dbs_ts0 to dbs_test")
	}
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

// source has the golden folders as the probe had them.
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

func adopt(t *testing.T, s store.Adopter, stored int64) error {
	t.Helper()
	a := store.Adoption{Stream: "golden_tcp", Probe: "p1", Type: "log_tcp_complete", Location: time.UTC}
	if stored != 0 {
		a.Stored = time.Unix(stored, 0)
	}
	return s.Adopt(context.Background(), a)
}

const goldenStored = 1458870000 // lastOutputFileTime of the golden state

// TestAdopt: what math_repo stored is not stored again, what it had not
// stored is, whatever of its state is left.
func TestAdopt(t *testing.T) {
	server := pgtest.Start(t)
	for _, tt := range []struct {
		name   string
		stored int64
		before string // SQL
	}{
		{name: "dbs_test", stored: goldenStored},
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
			// Again, as a restart does: nothing changes.
			s = open(t, url, "golden_tcp")
			if err := adopt(t, s, tt.stored); err != nil {
				t.Fatal(err)
			}
			if sum = imports(t, s, src, nil); sum.Total.Skipped != 6 {
				t.Errorf("second run: %+v", sum.Total)
			}
			// Without the adoption the store still knows.
			sum = imports(t, open(t, url, "golden_tcp"), src, nil)
			if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1220 || sum.Total.Skipped != 6 {
				t.Errorf("third run: %d rows, %+v", n, sum.Total)
			}
		})
	}
}

// TestAdoptHeld: a folder that ended long before the last window is not read.
func TestAdoptHeld(t *testing.T) {
	server := pgtest.Start(t)
	url, conn := filled(t, server, "dbs_test")
	src := source(t)
	// The folders get a predecessor two days before them.
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

// TestAdoptNot: what is not math_repo's is not taken over.
func TestAdoptNot(t *testing.T) {
	server := pgtest.Start(t)
	t.Run("other database", func(t *testing.T) {
		url := administer(t, server, "dbs_test")
		s := open(t, url, "golden_tcp")
		if err := adopt(t, s, goldenStored); err != nil {
			t.Fatal(err)
		}
		if sum := imports(t, s, "testdata/golden/input", nil); sum.Total.Rows != 1200 {
			t.Errorf("summary %+v", sum.Total)
		}
		// The stream is ours now.
		s = open(t, url, "golden_tcp")
		if err := adopt(t, s, goldenStored+7200); err != nil {
			t.Fatal(err)
		}
		imports(t, s, source(t), func(o *bulk.Options) { o.IncludeOpen = true })
		if n := scan[int](t, server.Connect(t, "dbs_test"), "select count(*) from golden_tcp"); n != 1220 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("future", func(t *testing.T) {
		url, _ := filled(t, server, "future")
		s, err := dbstream.Open(context.Background(), url, dbstream.Options{Stream: "golden_tcp"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := adopt(t, s, time.Now().Add(48*time.Hour).Unix()); err == nil || !strings.Contains(err.Error(), "in the future") {
			t.Error(err)
		}
	})
}
