package rawcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/storetest"
)

func open(t *testing.T, dir string) *Store { return openWith(t, dir, Options{}) }

func openWith(t *testing.T, dir string, opt Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, opt, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// count counts the lines of all copies, without headers.
func count(t *testing.T, dir, probe string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(dir, probe), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if strings.Contains(p, ".zst") && err == nil {
			data, err = exec.Command("zstd", "-dqcf", p).Output()
		}
		n += bytes.Count(data, []byte("\n")) - bytes.Count(data, []byte("#"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConformance(t *testing.T) {
	for name, opt := range map[string]Options{"as they are": {}, "zstd, by month": {Zstd: true, Month: true}} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Harness {
				dir := t.TempDir()
				return storetest.Harness{
					Open:  func(t *testing.T) store.Store { return openWith(t, dir, opt) },
					Count: func(t *testing.T, _, probe string) int { return count(t, dir, probe) },
				}
			})
		})
	}
}

// put stores a text under a name.
func put(t *testing.T, s *Store, name, text string) {
	t.Helper()
	ctx := context.Background()
	f := store.FileInfo{Key: store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: name}, Name: "p1/" + name}
	tx, err := s.BeginRaw(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.WriteRaw(ctx, []byte(text)); err != nil {
		t.Fatal(err)
	}
	rec := store.Record{Key: f.Key, Fingerprint: store.Fingerprint{SHA256: text, Length: int64(len(text))}}
	if err := tx.Commit(ctx, rec, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// TestOrphans checks that a copy without a record, left by a killed process, is
// replaced when its source is imported again. Other files are not changed.
func TestOrphans(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, "p1", "f.out", name) }
	if err := os.MkdirAll(filepath.Dir(at("x")), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"same": "abc\n", "shorter": "abc\n", "foreign": "xyz\n"} {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	defer s.Close()
	put(t, s, "f.out/same", "abc\n")
	put(t, s, "f.out/shorter", "abc\ndef\n")
	put(t, s, "f.out/foreign", "ghi\n")
	for name, want := range map[string]string{"same": "abc\n", "shorter": "abc\ndef\n", "foreign": "xyz\n", "foreign.2": "ghi\n"} {
		if got, err := os.ReadFile(at(name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(at("same.2")); err == nil {
		t.Error("same.2 exists")
	}
}

// TestPowerCut checks that a copy is durable when Commit has returned, and its
// record when Close has returned.
func TestPowerCut(t *testing.T) {
	const name = "a/b/2016_03_24_21_37.out/x"
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	s := open(t, filepath.Join(dir, "new/store"))
	put(t, s, name, "1\n")
	check := func() (root string) {
		t.Helper()
		root = filepath.Join(disk.Cut(t), "new/store")
		if got, err := os.ReadFile(filepath.Join(root, "p1", name)); string(got) != "1\n" {
			t.Errorf("the copy has %q, %v", got, err)
		}
		return root
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, check())
	defer s.Close()
	rs, err := s.Lookup(t.Context(), []store.Key{{Probe: "p1", Folder: "2016_03_24_21_37.out", File: name}})
	if err != nil || len(rs) != 1 {
		t.Errorf("records: %+v, %v", rs, err)
	}
}

// TestReservedProbe checks that a probe cannot have the name of the store's own
// folder.
func TestReservedProbe(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	_, err := s.BeginRaw(context.Background(), store.FileInfo{Key: store.Key{Probe: manifest.Dir}, Name: manifest.Dir + "/f.out/log_x"})
	if err == nil {
		t.Error("taken")
	}
}

// TestNoEmptyFolders checks that no empty folder is left if a copy is refused, or if it
// replaces a copy in another folder.
func TestNoEmptyFolders(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	put(t, s, "a.out/log_x", "abc\n")
	key := store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "a.out/log_x"}
	rs, err := s.Lookup(t.Context(), []store.Key{key})
	if err != nil || len(rs) != 1 {
		t.Fatalf("%v, %v", rs, err)
	}
	commit := func(folder string, replace []store.Record) error {
		tx, err := s.BeginRaw(t.Context(), store.FileInfo{Key: key, Name: "p1/" + folder + "/log_x"})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.WriteRaw(t.Context(), []byte("abcd\n")); err != nil {
			t.Fatal(err)
		}
		return tx.Commit(t.Context(), store.Record{Key: key, Fingerprint: store.Fingerprint{SHA256: "abcd\n", Length: 5}}, nil, replace)
	}
	if err := commit("b.out", nil); !errors.Is(err, store.ErrConflict) {
		t.Error(err)
	}
	if err := commit("c.out", rs); err != nil {
		t.Error(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "p1", "*", "*"))
	if want := filepath.Join(dir, "p1/a.out/log_x"); err != nil || len(names) != 1 || names[0] != want {
		t.Errorf("%q, %v, want %s", names, err, want)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "p1", "*")); len(names) != 1 {
		t.Errorf("folders: %q", names)
	}
}

// TestRemovedByHand checks that a removed copy is stored again.
func TestRemovedByHand(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "log_x", "abc\n")
	s.Close()
	if err := os.Remove(filepath.Join(dir, "p1/log_x")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	rs, err := s.Lookup(context.Background(), []store.Key{{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "log_x"}})
	if err != nil || len(rs) != 0 {
		t.Errorf("%v, %v", rs, err)
	}
}

// TestRefusedBesideStored checks that a refused copy does not remove the folder of a copy
// that is just being stored.
func TestRefusedBesideStored(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	defer a.Close()
	defer b.Close()
	put(t, a, "old.out/log_x", "abc\n")
	for i := range 100 {
		folder := fmt.Sprintf("%d.out", i)
		commit := func(s *Store, file string) error {
			key := store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: file}
			tx, err := s.BeginRaw(t.Context(), store.FileInfo{Key: key, Name: "p1/" + folder + "/log_x"})
			if err != nil {
				return err
			}
			return tx.Commit(t.Context(), store.Record{Key: key, Fingerprint: store.Fingerprint{SHA256: folder}}, nil, nil)
		}
		var wg sync.WaitGroup
		var errA error
		errB := make([]error, 12)
		wg.Go(func() { errA = commit(a, folder) })
		for i := range errB {
			wg.Go(func() { errB[i] = commit([]*Store{a, b}[i%2], "old.out/log_x") })
		}
		wg.Wait()
		if errA != nil {
			t.Fatalf("%d: stored: %v; refused: %v", i, errA, errB)
		}
		for _, err := range errB {
			if !errors.Is(err, store.ErrConflict) {
				t.Fatalf("%d: refused: %v", i, err)
			}
		}
	}
}
