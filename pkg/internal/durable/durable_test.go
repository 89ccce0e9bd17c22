package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
)

// tree returns the names and texts below a folder.
func tree(t *testing.T, root string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if !e.IsDir() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += "=" + string(text)
		}
		list = append(list, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDurabilityAfterPowerCut(t *testing.T) {
	write := func(t *testing.T, path, text string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(text), 0o666))
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"plain folders and files are lost", func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/a/b", 0o777))
			write(t, dir+"/f", "1")
		}, "old=0"},
		{"MkdirAll", func(t *testing.T, dir string) {
			must(t, durable.MkdirAll(dir+"/a/b/c", 0o777))
		}, "a a/b a/b/c old=0"},
		{"Prepare before Sync", func(t *testing.T, dir string) {
			_, err := durable.Prepare(dir+"/a/b", 0o777)
			must(t, err)
		}, "old=0"},
		{"Prepare, Rename and Sync", func(t *testing.T, dir string) {
			f, err := durable.Prepare(dir+"/a/b", 0o777)
			must(t, err)
			must(t, os.Rename(dir+"/old", dir+"/a/b/new"))
			must(t, f.Sync())
		}, "a a/b a/b/new=0"},
		{"MkdirAll of a folder that was prepared and not synced", func(t *testing.T, dir string) {
			_, err := durable.Prepare(dir+"/a/b", 0o777)
			must(t, err)
			must(t, durable.MkdirAll(dir+"/a/b", 0o777))
		}, "a a/b old=0"},
		{"MkdirAll of a folder whose creator was killed", func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/a/b", 0o777))
			must(t, durable.MkdirAll(dir+"/a/b", 0o777))
		}, "a a/b old=0"},
		{"MkdirAll of a folder that was removed and recreated", func(t *testing.T, dir string) {
			must(t, durable.MkdirAll(dir+"/a/b", 0o777))
			must(t, durable.RemoveEmpty(dir, "a/b"))
			must(t, durable.MkdirAll(dir+"/a/b", 0o777))
		}, "a a/b old=0"},
		{"MkdirAll of a folder that was replaced by another", func(t *testing.T, dir string) {
			must(t, durable.MkdirAll(dir+"/a/b", 0o777))
			must(t, os.Mkdir(dir+"/c", 0o777))
			must(t, os.Rename(dir+"/a", dir+"/d"))
			must(t, os.Rename(dir+"/c", dir+"/a"))
			must(t, durable.MkdirAll(dir+"/a", 0o777))
		}, "a d d/b old=0"},
		{"OpenFile of a new file", func(t *testing.T, dir string) {
			f, err := durable.OpenFile(dir+"/f", os.O_WRONLY|os.O_APPEND, 0o666)
			must(t, err)
			defer f.Close()
			_, err = f.WriteString("1")
			must(t, err)
			must(t, durable.Sync(f))
			_, err = f.WriteString("2")
			must(t, err)
		}, "f=1 old=0"},
		{"OpenFile of a file whose creator was killed", func(t *testing.T, dir string) {
			write(t, dir+"/f", "1")
			f, err := durable.OpenFile(dir+"/f", os.O_RDWR, 0o666)
			must(t, err)
			defer f.Close()
			must(t, durable.Sync(f))
		}, "f=1 old=0"},
		{"OpenFile of a file that was removed and recreated", func(t *testing.T, dir string) {
			for range 2 {
				f, err := durable.OpenFile(dir+"/f", os.O_RDWR, 0o666)
				must(t, err)
				defer f.Close()
				must(t, os.Remove(dir+"/f"))
				must(t, durable.SyncDir(dir))
			}
			f, err := durable.OpenFile(dir+"/f", os.O_RDWR, 0o666)
			must(t, err)
			f.Close()
		}, "f= old=0"},
		{"WriteFile", func(t *testing.T, dir string) {
			must(t, durable.WriteFile(dir+"/f", []byte("1")))
			must(t, durable.WriteFile(dir+"/old", []byte("2")))
		}, "f=1 old=2"},
		{"Rename", func(t *testing.T, dir string) {
			must(t, durable.Rename(dir+"/old", dir+"/new"))
		}, "new=0"},
		{"RemoveEmpty", func(t *testing.T, dir string) {
			must(t, durable.MkdirAll(dir+"/a/b/c", 0o777))
			must(t, durable.WriteFile(dir+"/a/f", nil))
			must(t, durable.RemoveEmpty(dir, "a/b/c"))
			must(t, durable.RemoveEmpty(dir, "a/b/c"))
		}, "a a/f= old=0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/old", "0")
			disk := durabletest.Record(t, dir)
			c.do(t, dir)
			if got := tree(t, disk.Cut(t)); got != c.want {
				t.Errorf("after the cut: %s\nwant: %s", got, c.want)
			}
		})
	}
}

// TestNamesAreSyncedOnce checks that the process syncs the name of a folder or
// file only when it first uses it.
func TestNamesAreSyncedOnce(t *testing.T) {
	dir := t.TempDir()
	var n atomic.Int32 // several syncs run at the same time
	defer durable.Observe(func(*os.File) { n.Add(1) })()
	use := func() {
		must(t, durable.MkdirAll(dir+"/a/b", 0o777))
		f, err := durable.OpenFile(dir+"/a/b/f", os.O_RDWR, 0o666)
		must(t, err)
		f.Close()
	}
	use()
	if n.Load() < 3 {
		t.Errorf("%d syncs for three new names", n.Load())
	}
	n.Store(0)
	use()
	if n.Load() != 0 {
		t.Errorf("%d syncs for names that are durable", n.Load())
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	must(t, durable.WriteFile(dir+"/file", nil))
	for name, err := range map[string]error{
		"folder below a file":       durable.MkdirAll(dir+"/file/a/b", 0o777),
		"file with a folder's name": durable.MkdirAll(dir+"/file", 0o777),
	} {
		if !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), dir+"/file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := durable.OpenFile(dir+"/none/f", os.O_RDWR, 0o666); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenFile without a folder: %v", err)
	}
	if f, err := durable.OpenFile(dir+"/file", os.O_RDWR|os.O_EXCL, 0o666); !errors.Is(err, fs.ErrExist) {
		f.Close()
		t.Errorf("OpenFile of an existing file with O_EXCL: %v", err)
	}
	must(t, os.Mkdir(dir+"/folder", 0o777))
	if err := durable.WriteFile(dir+"/folder", nil); err == nil {
		t.Error("WriteFile over a folder: no error")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("WriteFile left %v", entries)
	}
}
