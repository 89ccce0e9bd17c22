package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

var cut = time.Date(2016, 3, 20, 0, 0, 0, 0, time.UTC)

const udp = "#c_ip:1 c_port:2\n::1 1\n::1 2\n"

// TestPruneTables checks that Prune drops daily partitions, and deletes rows from
// tables and partitions that others created.
func TestPruneTables(t *testing.T) {
	server := pgtest.Start(t)
	for name, test := range map[string]struct {
		before string // SQL that changes the table
		tables string // tables that remain
	}{
		"days":    {"", "log_udp_complete log_udp_complete_20160320 log_udp_complete_20160321"},
		"default": {"create table rest partition of log_udp_complete default", "log_udp_complete log_udp_complete_20160320 log_udp_complete_20160321 rest"},
		// The month has not ended, so its old rows are deleted.
		"months": {"create table m201603 partition of log_udp_complete for values from ('2016-03-01') to ('2016-04-01')", "log_udp_complete m201603"},
		"plain":  {"create table x (like log_udp_complete); drop table log_udp_complete; alter table x rename to log_udp_complete", "log_udp_complete"},
	} {
		t.Run(name, func(t *testing.T) {
			db := server.Database(t)
			s := open(t, "postgres://"+server.Host(db))
			defer s.Close()
			if test.before != "" {
				put(t, s, "p1", "2014_01_01_00_00.out", "log_udp_complete", udp) // makes the table
				server.Exec(t, db, "drop table log_udp_complete_20140101; "+test.before)
				s.forget("log_udp_complete")
			}
			for _, day := range []int{18, 19, 20, 21} {
				for hour := range 2 {
					put(t, s, "p1", fmt.Sprintf("2016_03_%d_%02d_00.out", day, hour), "log_udp_complete", udp)
				}
			}
			if _, err := s.Prune(t.Context(), cut, false); err != nil {
				t.Fatal(err)
			}
			conn := server.Connect(t, db)
			var rows, marked int
			var tables string
			err := conn.QueryRow(t.Context(), `select (select count(*) from log_udp_complete),
				(select count(*) from tstatrepo_files where pruned is not null and time >= '2016-01-01'),
				(select string_agg(relname, ' ' order by relname) from pg_class where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and relname <> 'tstatrepo_files')`).
				Scan(&rows, &marked, &tables)
			if err != nil || rows != 8 || marked != 4 || tables != test.tables {
				t.Errorf("%d rows, %d marked, tables %s, %v", rows, marked, tables, err)
			}
		})
	}
}

// TestPruneWaits checks that Prune waits for a running import, and also prunes its
// file.
func TestPruneWaits(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db)+"?sslmode=disable")
	defer s.Close()
	put(t, s, "p1", "2016_03_18_00_00.out", "log_udp_complete", udp)
	conn := server.Connect(t, db)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "insert into log_udp_complete (probe, folder, folder_time, file_id) values ('p2', 'f', '2016-03-18', 77)"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Prune(t.Context(), cut, false)
		done <- err
	}()
	watch := server.Connect(t, db)
	for waiting := false; !waiting; time.Sleep(10 * time.Millisecond) {
		if err := watch.QueryRow(t.Context(), "select exists (select from pg_locks where not granted)").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var n int
	if err := watch.QueryRow(t.Context(), "select count(*) from log_udp_complete").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// TestPruneOlderTable checks that a table of records of an older version works, and
// that a user with permission adds the missing column.
func TestPruneOlderTable(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	owner := open(t, "postgres://"+server.Host(db))
	put(t, owner, "p1", "2016_03_18_00_00.out", "log_udp_complete", udp)
	owner.Close()
	server.Exec(t, db, `alter table tstatrepo_files drop column pruned;
		create role guest login; grant select on all tables in schema public to guest`)
	guest := open(t, strings.Replace("postgres://"+server.Host(db), "postgres@", "guest@", 1))
	defer guest.Close()
	key := store.Key{Probe: "p1", Folder: "2016_03_18_00_00.out", File: "log_udp_complete"}
	look := func(pruned bool) {
		t.Helper()
		rs, err := guest.Lookup(t.Context(), []store.Key{key})
		if err != nil || len(rs) != 1 {
			t.Fatal(rs, err)
		}
		err = guest.Records(t.Context(), func(r store.Record) error {
			if r.Pruned.IsZero() == pruned {
				t.Errorf("%+v", r)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	look(false)
	if res, err := guest.Prune(t.Context(), cut, true); err != nil || res.Files != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := guest.Prune(t.Context(), cut, false); err == nil || !strings.Contains(err.Error(), "must be owner") {
		t.Errorf("got %v", err)
	}
	owner = open(t, "postgres://"+server.Host(db))
	defer owner.Close()
	if res, err := owner.Prune(t.Context(), cut, false); err != nil || res.Files != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	look(true)
}

// TestVerifyOrphans checks that Verify finds rows whose record was removed.
func TestVerifyOrphans(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s := open(t, "postgres://"+server.Host(db))
	defer s.Close()
	for hour := range 3 {
		put(t, s, "p1", fmt.Sprintf("2016_03_18_%02d_00.out", hour), "log_udp_complete", udp)
	}
	server.Exec(t, db, "delete from tstatrepo_files where folder = '2016_03_18_01_00.out'")
	var found []store.Fault
	err := s.Verify(t.Context(), store.VerifyOptions{Fault: func(f store.Fault) { found = append(found, f) }})
	if err != nil || len(found) != 1 || found[0].Kind != store.Unrecorded || found[0].Reason != "2 rows of files without a record (1)" {
		t.Fatalf("found %+v, %v", found, err)
	}
	server.Exec(t, db, found[0].Mend)
	found = nil
	err = s.Verify(t.Context(), store.VerifyOptions{Fault: func(f store.Fault) { found = append(found, f) }})
	var rows int
	qerr := server.Connect(t, db).QueryRow(t.Context(), "select count(*) from log_udp_complete").Scan(&rows)
	if err := errors.Join(err, qerr); err != nil || len(found) > 0 || rows != 4 {
		t.Errorf("mended: %+v, %d rows, %v", found, rows, err)
	}
}

// TestOlderIdentity checks that a table of records of an older version can hold the
// same text at several places, and keeps the constraints that its owner added.
func TestOlderIdentity(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	open(t, "postgres://"+server.Host(db)).Close()
	server.Exec(t, db, `alter table tstatrepo_files drop column place, drop column head, drop column damaged, drop column transform;
		alter table tstatrepo_files add unique (file, location, probe, folder, sha256), add constraint mine unique (location, path, folder, probe, file)`)
	open(t, "postgres://"+server.Host(db)).Close()
	var left string
	err := server.Connect(t, db).QueryRow(t.Context(), "select string_agg(conname, ' ') from pg_constraint where conrelid = 'tstatrepo_files'::regclass and contype = 'u'").Scan(&left)
	if err != nil || left != "mine" {
		t.Errorf("constraints %q, %v", left, err)
	}
}
