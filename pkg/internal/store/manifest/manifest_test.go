package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
)

func open(t *testing.T, dir string) *Manifest {
	t.Helper()
	m, err := Open(t.Context(), dir, "parquet", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func entry(i, version int) Entry {
	return Entry{Record: store.Record{Key: store.Key{Probe: "p", Folder: fmt.Sprint(i), File: "f"},
		Fingerprint: store.Fingerprint{SHA256: fmt.Sprint(i)}, Rows: int64(version), Location: fmt.Sprint("at", i%3)}}
}

// TestRewrite checks that a log of mostly obsolete lines is shortened, and that
// processes that have it open continue.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	ro, err := Open(t.Context(), dir, "parquet", true)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	path := filepath.Join(dir, Dir, name)
	put := func(m *Manifest, from, to, version int) {
		t.Helper()
		err := m.Update(t.Context(), func(tx *Tx) error {
			for i := from; i < to; i++ {
				tx.Put(entry(i, version))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(a, 0, 300, 0)
	if err := a.Rewrite(t.Context()); err != nil {
		t.Fatal(err)
	}
	long, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for version := range 10 {
		put(b, 0, 300, version)
	}
	// A process died while it wrote.
	if err := os.WriteFile(path+".new", []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Rewrite(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	short, err := os.Stat(path)
	if err != nil || short.Size() > long.Size()+100 {
		t.Errorf("%d bytes, and %d before, %v", short.Size(), long.Size(), err)
	}
	put(b, 300, 400, 1) // b has the old log open
	put(a, 400, 500, 1)
	for i, m := range []*Manifest{a, b, ro, open(t, dir)} {
		entries, err := m.All()
		if err != nil || len(entries) != 500 || m.Damaged() != 0 {
			t.Errorf("manifest %d: %d entries, %d damaged, %v", i, len(entries), m.Damaged(), err)
		}
		rs, err := m.Lookup([]store.Key{entry(299, 0).Key})
		if err != nil || len(rs) != 1 || rs[0].Rows != 9 {
			t.Errorf("manifest %d: %+v, %v", i, rs, err)
		}
	}
	err = b.Update(t.Context(), func(tx *Tx) error {
		if n := tx.CountAt("at0"); n != 167 {
			t.Errorf("%d entries at one location", n)
		}
		tx.Delete(entry(0, 0).Record)
		moved := entry(3, 0)
		moved.Location = ""
		tx.Put(moved)
		if n := tx.CountAt("at0"); n != 165 {
			t.Errorf("%d entries at the location after two have gone", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".new"); !os.IsNotExist(err) {
		t.Error("the half one is left over")
	}
}

// TestPowerCut checks that a manifest is durable when it was closed, also if
// another process has rewritten it and was killed before it synced the name.
func TestPowerCut(t *testing.T) {
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	root := filepath.Join(dir, "new/store")
	m := open(t, root)
	put := func(i int) {
		t.Helper()
		err := m.Update(t.Context(), func(tx *Tx) error {
			tx.Put(entry(i, 0))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(1)
	path := filepath.Join(root, Dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", data, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	put(2)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = open(t, filepath.Join(disk.Cut(t), "new/store"))
	if entries, err := m.All(); err != nil || len(entries) != 2 {
		t.Errorf("after the cut: %+v, %v", entries, err)
	}
}
