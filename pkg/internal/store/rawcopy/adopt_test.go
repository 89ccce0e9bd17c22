package rawcopy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
)

// TestAdopt adopts the copies of math_repo: logs of finished folders, and nothing
// else.
func TestAdopt(t *testing.T) {
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("s/data/2024_03_01_04_00.out/log_tcp_complete", "#h\n1\n2\nhalf")
	write("s/data/2024_03_01_05_00.out/log_tcp_complete", "1\n")
	write("s/data/2024_03_01_06_00.out/log_tcp_complete", "later\n")
	write("s/data/2024_03_01_05_00.out/notes.txt", "no log\n")
	write("s/log_tcp_complete", "in no folder\n")
	write("other/2024_03_01_05_00.out/log_tcp_complete", "another stream\n")
	ctx := context.Background()
	key := func(folder string) store.Key { return store.Key{Probe: "p", Folder: folder, File: "log_tcp_complete"} }
	keys := []store.Key{key("2024_03_01_04_00.out"), key("2024_03_01_05_00.out"), key("2024_03_01_06_00.out")}
	a := store.Adoption{Stream: "s", Probe: "p", Type: "log_tcp_complete", Location: time.UTC, Copied: time.Date(2024, 3, 1, 5, 0, 0, 0, time.UTC)}
	for range 2 { // the second time nothing changes
		s := open(t, dir)
		if err := s.Adopt(ctx, a); err != nil {
			t.Fatal(err)
		}
		rs, err := s.Lookup(ctx, keys)
		if err != nil {
			t.Fatal(err)
		}
		if len(rs) != 2 {
			t.Fatalf("%+v", rs)
		}
		r := rs[0]
		if r.Size != 11 || r.Length != 7 || r.Rows != 2 || r.Cut != 1 || !r.ModTime.IsZero() || r.Location != "s/data/2024_03_01_04_00.out/log_tcp_complete" {
			t.Errorf("%+v", r)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(disk.Cut(t), "s/data/2024_03_01_04_00.out/log_tcp_complete")); string(got) != "#h\n1\n2\nhalf" {
		t.Errorf("after a power cut the copy has %q, %v", got, err)
	}
	s := open(t, dir)
	defer s.Close()
	a.Stream = "../s"
	if err := s.Adopt(ctx, a); err == nil || !strings.Contains(err.Error(), "invalid") {
		t.Error(err)
	}
	a.Stream = "new" // nothing was copied yet
	if err := s.Adopt(ctx, a); err != nil {
		t.Error(err)
	}
}
