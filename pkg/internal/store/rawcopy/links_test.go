package rawcopy

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// TestVerifyLinkedStore checks that Verify looks into a store whose folder is a symbolic
// link.
func TestVerifyLinkedStore(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", link)); err != nil {
		t.Fatal(err)
	}
	s := open(t, link)
	defer s.Close()
	put(t, s, "f.out/log_x", "abc\n")
	if err := os.WriteFile(filepath.Join(link, "p1/f.out/log_tcp_complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var list []string
	err := s.Verify(t.Context(), store.VerifyOptions{Fault: func(f store.Fault) { list = append(list, f.Kind+" "+f.Path) }})
	if want := []string{"unrecorded p1/f.out/log_tcp_complete"}; err != nil || !slices.Equal(list, want) {
		t.Errorf("%q, %v, want %q", list, err, want)
	}
}

// TestAdoptLinkedStream checks that copies of math_repo are adopted if the stream's folder
// is a symbolic link.
func TestAdoptLinkedStream(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "disk/2024_03_01_05_00.out/log_tcp_complete")
	err := errors.Join(os.MkdirAll(filepath.Dir(log), 0o755), os.WriteFile(log, []byte("1\n"), 0o644), os.Symlink("disk", filepath.Join(dir, "s")))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	defer s.Close()
	at := time.Date(2024, 3, 1, 5, 0, 0, 0, time.UTC)
	if err := s.Adopt(t.Context(), store.Adoption{Stream: "s", Probe: "p", Type: "log_tcp_complete", Location: time.UTC, Copied: at}); err != nil {
		t.Fatal(err)
	}
	rs, err := s.Lookup(t.Context(), []store.Key{{Probe: "p", Folder: "2024_03_01_05_00.out", File: "log_tcp_complete"}})
	if err != nil || len(rs) != 1 || rs[0].Location != "s/2024_03_01_05_00.out/log_tcp_complete" {
		t.Errorf("%+v, %v", rs, err)
	}
}

// TestLinkedProbe checks that neither a commit nor Prune removes a symbolic link to a
// folder with copies, and that Verify follows it.
func TestLinkedProbe(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "p1")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	defer s.Close()
	now := time.Now()
	for name, at := range map[string]time.Time{"log_x": now, "f.out/log_y": now.AddDate(-1, 0, 0)} {
		tx, err := s.BeginRaw(t.Context(), store.FileInfo{Key: store.Key{Probe: "p1", Folder: "f.out", File: name}, Name: "p1/" + name})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(t.Context(), store.Record{Key: store.Key{Probe: "p1", Folder: "f.out", File: name}, Time: at}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "p1", name)); err != nil {
			t.Errorf("after the commit: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "p1/f.out/log_tcp_complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var faults []string
	err := s.Verify(t.Context(), store.VerifyOptions{Fault: func(f store.Fault) { faults = append(faults, f.Kind+" "+f.Path) }})
	if want := []string{"unrecorded p1/f.out/log_tcp_complete"}; err != nil || !slices.Equal(faults, want) {
		t.Errorf("%q, %v, want %q", faults, err, want)
	}
	if res, err := s.Prune(t.Context(), now.AddDate(0, -1, 0), false); err != nil || res.Files != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p1/log_x")); err != nil {
		t.Errorf("after pruning another log: %v", err)
	}
}
