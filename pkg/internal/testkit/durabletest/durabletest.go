// Package durabletest simulates power cuts in tests. It assumes a file system that
// keeps only what POSIX guarantees.
package durabletest

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
)

// Disk records what is durable below a folder: the names in each folder and the content
// of each file. Everything that existed when the recording began counts as durable.
type Disk struct {
	root string

	mu    sync.Mutex
	names map[inode]map[string]inode
	files map[inode]file
}

// inode identifies a file or folder independently of its name.
type inode struct {
	dev, ino uint64
	dir      bool
}

type file struct {
	text    []byte
	mode    fs.FileMode
	modTime time.Time
}

// Record returns a Disk for the folder root. Until the test ends, every sync by package
// durable updates the Disk. Only one test per process can record at a time.
func Record(t testing.TB, root string) *Disk {
	t.Helper()
	d := &Disk{root: root, names: map[inode]map[string]inode{}, files: map[inode]file{}}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return d.syncPath(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(durable.Observe(func(f *os.File) {
		if err := d.sync(f); err != nil {
			t.Error(err)
		}
	}))
	return d
}

func (d *Disk) syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.sync(f)
}

// sync records a file's content, or the names in a folder, as durable.
func (d *Disk) sync(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		text, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
		if err != nil {
			text, err = os.ReadFile(f.Name()) // f may be open for writing only
		}
		if err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.files[inodeOf(info)] = file{text, info.Mode().Perm(), info.ModTime()}
		return nil
	}
	entries, err := os.ReadDir(f.Name())
	if err != nil {
		return err
	}
	names := map[string]inode{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // otherwise the file was just removed
			names[e.Name()] = inodeOf(info)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[inodeOf(info)] = names
	return nil
}

func inodeOf(info fs.FileInfo) inode {
	st := info.Sys().(*syscall.Stat_t)
	//lint:ignore unconvert another type on other systems
	return inode{uint64(st.Dev), st.Ino, info.IsDir()}
}

// Cut returns a new folder with the files that a power cut would leave. A file that was
// never synced is empty if its name is durable; otherwise it is missing.
func (d *Disk) Cut(t testing.TB) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := os.Stat(d.root)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	d.restore(t, inodeOf(info), to)
	return to
}

func (d *Disk) restore(t testing.TB, dir inode, to string) {
	t.Helper()
	for name, i := range d.names[dir] {
		path := filepath.Join(to, name)
		if i.dir {
			if err := os.Mkdir(path, 0o777); err != nil {
				t.Fatal(err)
			}
			d.restore(t, i, path)
			continue
		}
		f := d.files[i]
		if err := os.WriteFile(path, f.text, f.mode|0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, f.modTime); err != nil {
			t.Fatal(err)
		}
	}
}
