package parquet

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestLinkedDay checks that a day's folder may be a symbolic link to another disk: its
// logs keep their records, they can be pruned, and the day is not compacted.
func TestLinkedDay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rec := putText(t, s, "2016_03_01_01_00.out", text(7, "b"))
	putText(t, s, "2016_03_01_02_00.out", text(8, "b"))
	s.Close()
	day, disk := filepath.Join(dir, march1), filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Rename(day, disk), os.Symlink(disk, day)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if rs := lookup(t, s, "2016_03_01_01_00.out"); len(rs) != 1 || !rs[0].Same(rec) {
		t.Errorf("records: %+v", rs)
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if res := compact(t, s); res.Days != 0 || res.Failed != 0 {
		t.Errorf("compacted: %+v", res)
	}
	if n := count(t, dir, "log_udp_complete", "p1"); n != 15 {
		t.Errorf("%d rows", n)
	}
	if res, err := s.Prune(ctx, time.Now(), false); err != nil || res.Files != 2 {
		t.Errorf("pruned: %+v, %v", res, err)
	}
	if n := count(t, dir, "log_udp_complete", "p1"); n != 0 {
		t.Errorf("%d rows after pruning", n)
	}
}

// TestLinkedDayIsAway checks that a store is not opened while a day's folder is a symbolic
// link to a folder that does not exist, for example because a disk is not mounted.
func TestLinkedDayIsAway(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	putText(t, s, "2016_03_01_01_00.out", text(7, "b"))
	s.Close()
	day, disk := filepath.Join(dir, march1), filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Rename(day, disk), os.Symlink(disk+"2", day)); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(ctx, dir, Options{}); err == nil {
		t.Errorf("records: %+v", lookup(t, s, "2016_03_01_01_00.out"))
		s.Close()
	}
}

// TestVerifyLinkedStore checks that Verify finds files from other programs in a store whose
// folder is a symbolic link.
func TestVerifyLinkedStore(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", link)); err != nil {
		t.Fatal(err)
	}
	s := open(t, link)
	putText(t, s, "2016_03_01_01_00.out", text(7, "b"))
	s.Close()
	if err := os.WriteFile(filepath.Join(link, "x.parquet"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := faults(t, link, false), []string{"foreign x.parquet"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
