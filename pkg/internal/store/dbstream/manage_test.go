package dbstream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestPruneWindows checks that Prune removes partitions together with their rows
// of the catalog, including those of another importer. A table that only the
// catalog calls a partition remains.
func TestPruneWindows(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "dbstream://" + server.Host(db) + "?window=1h"
	source := t.TempDir()
	start := time.Date(2016, 3, 18, 0, 0, 0, 0, time.UTC)
	for hour := range 72 {
		at := start.Add(time.Duration(hour) * time.Hour)
		dir := filepath.Join(source, at.Format("2006_01_02_15_04")+".out")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("#c_ip:1 c_port:2 c_first_abs:3 c_durat:4\n::1 1 %d.5 1.0\n", at.Add(time.Minute).UnixMilli())
		if err := os.WriteFile(filepath.Join(dir, "log_udp_complete"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	imports(t, open(t, url, ""), source, nil)
	old := start.AddDate(0, 0, -1).Unix()
	server.Exec(t, db, fmt.Sprintf(`create table dbs_ts0.p1_log_udp_complete_%[1]d (check (serial_time between %[1]d and %[1]d+3599)) inherits (public.p1_log_udp_complete);
		insert into dbs_ts0.p1_log_udp_complete_%[1]d (serial_time) values (%[1]d);
		create table mine (x int);
		insert into dbs.view_info_p1_log_udp_complete values (%[1]d, 3600, 'h', 1, 'd', 'dbs_ts0.p1_log_udp_complete_%[1]d'), (%[1]d+3600, 3600, 'h', 1, 'd', 'public.mine')`, old))
	s := open(t, url, "")
	defer s.Close()
	res, err := s.Prune(t.Context(), start.AddDate(0, 0, 2), false)
	if err != nil {
		t.Fatal(err)
	}
	// Rows of the last day before the limit may be later, if the probe is in another
	// time zone.
	if res.Files < 15 || res.Files > 24 || res.Rows != res.Files || res.Bytes == 0 {
		t.Errorf("%+v", res)
	}
	conn := server.Connect(t, db)
	if n := scan[int](t, conn, "select count(*) from p1_log_udp_complete"); n != 24 {
		t.Errorf("%d rows", n)
	}
	if n := scan[int](t, conn, "select count(*) from dbs.view_info_p1_log_udp_complete"); n != 24 {
		t.Errorf("%d rows of the catalog", n)
	}
	if n := scan[int](t, conn, "select count(*) from pg_inherits where inhparent = 'p1_log_udp_complete'::regclass"); n != 24 {
		t.Errorf("%d partitions", n)
	}
	scan[int](t, conn, "select count(*) from mine")
	if sum := imports(t, open(t, url, ""), source, nil); sum.Total.Files != 0 {
		t.Errorf("imported again: %+v", sum.Total)
	}
	if _, err := s.Prune(t.Context(), start.AddDate(1, 0, 0), false); err != nil {
		t.Fatal(err)
	}
	if n := scan[int](t, conn, "select count(*) from dbs.tstatrepo_files where pruned is null"); n != 0 {
		t.Errorf("%d records are not marked", n)
	}
}
