package parquet

import (
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// TestReplacedInAnotherZone checks that the rows of a log move to another day if the log
// is stored again with another time zone.
func TestReplacedInAnotherZone(t *testing.T) {
	const folder = "2016_03_24_23_37.out"
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	old := put(t, s, folder, 10)
	other := put(t, s, "2016_03_24_22_37.out", 20)
	compact(t, s) // both logs are in one file
	typ := tstat.TypeByName("log_udp_complete")
	ft, err := tstat.ParseFolder(folder, time.FixedZone("", -3600))
	if err != nil {
		t.Fatal(err)
	}
	r := tstat.NewReader(strings.NewReader("#c_ip:1 c_port:2\n::1 1\n"), typ, tstat.ReaderOptions{})
	tx, err := s.Begin(ctx, store.FileInfo{Key: old.Key, Type: typ, Time: ft.Time, Columns: r.Columns()})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := r.Next(); err == nil; b, err = r.Next() {
		if err := tx.Write(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	rec := store.Record{Key: old.Key, Type: typ.Name, Time: ft.Time, Rows: 1, Imported: time.Now()}
	rec.SHA256, rec.Length = r.Fingerprint()
	known := lookup(t, s, folder)
	if err := tx.Commit(ctx, rec, known, known); err != nil {
		t.Fatal(err)
	}
	if rs := lookup(t, s, folder); len(rs) != 1 || !strings.Contains(rs[0].Location, "/date=2016-03-25/") {
		t.Errorf("records: %+v", rs)
	}
	if rs := lookup(t, s, other.Folder); len(rs) != 1 || !strings.Contains(rs[0].Location, "/date=2016-03-24/") {
		t.Errorf("records of the other log: %+v", rs)
	}
	if n := count(t, dir, typ.Name, "p1"); n != 21 {
		t.Errorf("%d rows", n)
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
