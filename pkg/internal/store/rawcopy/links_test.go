package rawcopy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// TestLinkedProbe checks that neither a commit nor Prune removes a symbolic link to a
// folder with copies.
func TestLinkedProbe(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", filepath.Join(dir, "p1"))); err != nil {
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
	if res, err := s.Prune(t.Context(), now.AddDate(0, -1, 0), false); err != nil || res.Files != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p1/log_x")); err != nil {
		t.Errorf("after pruning another log: %v", err)
	}
}
