package parquet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

const oneRow = "#c_ip:1 c_port:2\n::1 1\n"

// putEarlierZone stores oneRow for a log, in a time zone an hour behind UTC, and replaces
// the log's records.
func putEarlierZone(t *testing.T, s *Store, folder string) {
	t.Helper()
	typ := tstat.TypeByName("log_udp_complete")
	ft, err := tstat.ParseFolder(folder, time.FixedZone("", -3600))
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{Probe: "p1", Folder: folder, File: typ.Name}
	r := tstat.NewReader(strings.NewReader(oneRow), typ, tstat.ReaderOptions{})
	tx, err := s.Begin(ctx, store.FileInfo{Key: key, Type: typ, Time: ft.Time, Columns: r.Columns()})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := r.Next(); err == nil; b, err = r.Next() {
		if err := tx.Write(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	rec := store.Record{Key: key, Type: typ.Name, Time: ft.Time, Rows: 1, Imported: time.Now()}
	rec.SHA256, rec.Length = r.Fingerprint()
	known := lookup(t, s, folder)
	if err := tx.Commit(ctx, rec, known, known); err != nil {
		t.Fatal(err)
	}
}

// TestReplacedInAnotherZone checks that the rows of a log move to another day if the log
// is stored again with another time zone.
func TestReplacedInAnotherZone(t *testing.T) {
	const folder, other = "2016_03_24_23_37.out", "2016_03_24_22_37.out"
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	put(t, s, folder, 10)
	put(t, s, other, 20)
	compact(t, s) // both logs are in one file
	putEarlierZone(t, s, folder)
	for folder, day := range map[string]string{folder: "/date=2016-03-25/", other: "/date=2016-03-24/"} {
		if rs := lookup(t, s, folder); len(rs) != 1 || !strings.Contains(rs[0].Location, day) {
			t.Errorf("records: %+v, want %s", rs, day)
		}
	}
	if n := count(t, dir, "log_udp_complete", "p1"); n != 21 {
		t.Errorf("%d rows", n)
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// TestDiedWhileMovingToAnotherDay kills a process that stores the same text with another
// time zone, before it has removed the old rows and recorded the new ones.
func TestDiedWhileMovingToAnotherDay(t *testing.T) {
	const folder = "2016_03_24_23_37.out"
	for _, recorded := range []bool{true, false} {
		dir := t.TempDir()
		path := filepath.Join(dir, manifest.Dir, "manifest")
		read := func(path string) []byte {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		s := open(t, dir)
		before := read(path)
		putText(t, s, folder, oneRow)
		s.Close()
		if recorded {
			before = read(path)
		}
		old := files(t, dir)[0]
		rows := read(old)
		info, err := os.Stat(old)
		if err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		putEarlierZone(t, s, folder)
		s.Close()
		err = errors.Join(os.WriteFile(path, before, 0o644), os.MkdirAll(filepath.Dir(old), 0o755), os.WriteFile(old, rows, 0o644),
			os.Chtimes(old, info.ModTime(), info.ModTime()))
		if err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		if rs := lookup(t, s, folder); len(rs) != 1 || !strings.Contains(rs[0].Location, "/date=2016-03-25/") || rs[0].Time.Day() != 25 {
			t.Errorf("recorded %t: %+v", recorded, rs)
		}
		s.Close()
		if n := count(t, dir, "log_udp_complete", "p1"); n != 1 {
			t.Errorf("recorded %t: %d rows", recorded, n)
		}
		if got := faults(t, dir, true); len(got) > 0 {
			t.Errorf("recorded %t: %q", recorded, got)
		}
	}
}
