// Package durable creates, replaces and removes files and folders so that a
// power cut cannot undo them.
//
// POSIX promises two things only: fsync of a file makes its bytes durable, and
// fsync of a folder makes the names in that folder durable. A new file in a new
// folder therefore needs three syncs: of the file, of its folder, and of the
// folder above, which holds the name of the new folder.
//
// # Order of operations
//
// Whoever stores something in files keeps this order. The last step alone may
// report success: a record, a checkpoint, an acknowledgment, exit status 0.
//
//  1. MkdirAll creates the folder. The names of the folder and of all folders
//     above it are durable when it returns. Prepare creates it too, and leaves
//     that to step 5.
//  2. Write the bytes, to a temporary file unless the file only grows.
//  3. Sync the file. Its bytes are durable, its name is not.
//  4. Rename the temporary file to its name. Other processes see the old file
//     or the new one, never a part. A power cut may still bring back the old one.
//  5. SyncDir the folder, or Folder.Sync after Prepare. The new name is durable,
//     the old file is gone.
//  6. Remove what the new file replaces, if that has another name.
//  7. Write the record of it.
//
// WriteFile does steps 2 to 5 for small files, Rename steps 4 and 5. A file
// that only grows is opened by OpenFile, which makes its name durable, and is
// synced before what was appended counts as stored.
//
// A process that finds the file or folder of another process cannot know
// whether that process has synced it: it may have been killed just before. So
// MkdirAll and OpenFile sync a name once in the life of each process, not only
// when they create it.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// MkdirAll creates a folder and all missing folders above it, as os.MkdirAll
// does, and makes their names durable.
func MkdirAll(dir string, perm fs.FileMode) error {
	f, err := Prepare(dir, perm)
	if err != nil {
		return err
	}
	return f.syncNames()
}

// Folder is a folder that gets new files. Its own name may not be durable yet.
type Folder struct {
	path  string
	names []newName // from the top down
}

// newName is the name of a folder that is not known to be durable.
type newName struct {
	path    string
	info    fs.FileInfo
	created bool // by this process
	mount   bool // a mount point: it was there when its file system was mounted
}

// Prepare creates a folder like MkdirAll. The new names are durable only after Sync. So Sync can follow
// the rename of a file into the folder: a file system with a journal then
// writes the names of folder and file together.
func Prepare(dir string, perm fs.FileMode) (*Folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f := &Folder{path: abs}
	_, err = f.create(abs, perm)
	return f, err
}

// create creates a folder and those above it, and returns what it found or
// created.
func (f *Folder) create(dir string, perm fs.FileMode) (fs.FileInfo, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return nil, &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	parent := filepath.Dir(dir)
	if err == nil && (parent == dir || names.known(dir, info)) {
		return info, nil
	}
	above, parentErr := f.create(parent, perm)
	if parentErr != nil {
		return nil, parentErr
	}
	created := false
	if err != nil {
		err = os.Mkdir(dir, perm)
		if created = err == nil; !created && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err = os.Stat(dir); err != nil {
			return nil, err
		}
	}
	f.names = append(f.names, newName{dir, info, created, !created && device(info) != device(above)})
	return info, nil
}

// Sync makes durable which names the folder has, and the names of the folder
// and of those above it.
func (f *Folder) Sync() error {
	return errors.Join(SyncDir(f.path), f.syncNames())
}

func (f *Folder) syncNames() error {
	for _, n := range f.names {
		if !n.mount {
			// Only who may list a folder can sync it. Above the folders that are
			// tstatrepo's own this is common.
			if err := SyncDir(filepath.Dir(n.path)); err != nil && (n.created || !errors.Is(err, fs.ErrPermission)) {
				return err
			}
		}
		names.add(n.path, n.info)
	}
	f.names = nil
	return nil
}

// OpenFile opens a file as os.OpenFile does, creates it if it is missing, and
// makes its name durable. The folder must exist.
func OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, flag|os.O_CREATE|os.O_EXCL, perm)
	created := err == nil
	if errors.Is(err, fs.ErrExist) && flag&os.O_EXCL == 0 {
		f, err = os.OpenFile(name, flag|os.O_CREATE, perm)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (created || !names.known(abs, info)) {
		if err = SyncDir(filepath.Dir(abs)); err == nil {
			names.add(abs, info)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// WriteFile replaces the file of that name, or creates it: after a power cut
// the file has the old bytes or the new ones, and the new ones if WriteFile
// has returned nil. Only the user may read the file.
func WriteFile(name string, text []byte) error {
	dir, base := filepath.Split(name)
	f, err := os.CreateTemp(filepath.Clean(dir), "."+base+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = Sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// Rename renames a file, over the one that has the new name if there is one,
// and makes the new name durable. The old name may be back after a power cut
// if it was in another folder.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// RemoveEmpty removes a folder below root and those above it that are empty
// then, and makes durable what was removed in it or with it. The folder may be
// missing.
func RemoveEmpty(root, dir string) error {
	for dir != "." && os.Remove(filepath.Join(root, dir)) == nil {
		dir = filepath.Dir(dir)
	}
	err := SyncDir(filepath.Join(root, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// SyncNames makes the names of files below root durable, and those of their
// folders. It is for files that another process has created and may not have
// synced.
func SyncNames(root string, files []string) error {
	synced := map[string]bool{}
	for _, file := range files {
		dir := filepath.Dir(filepath.Join(root, file))
		if synced[dir] {
			continue
		}
		synced[dir] = true
		if err := errors.Join(MkdirAll(dir, 0o777), SyncDir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes durable which names a folder has, where the file system can.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = Sync(d)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// Sync makes the bytes of a file durable.
func Sync(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if o := observer.Load(); o != nil {
		(*o)(f)
	}
	return nil
}

// IsTransient reports whether an error is one of a file system that may recover
// by itself: full, over quota, read-only after a fault, a failing disk.
func IsTransient(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var observer atomic.Pointer[func(*os.File)]

// Observe makes Sync and SyncDir call f after each sync until stop is called.
// It is for tests, see package durabletest.
func Observe(f func(*os.File)) (stop func()) {
	observer.Store(&f)
	return func() { observer.Store(nil) }
}

// names are the files and folders whose names this process has synced.
var names = nameSet{synced: map[string]fs.FileInfo{}}

// maxNames bounds the names remembered. Those that are forgotten are synced
// once more.
const maxNames = 10_000

type nameSet struct {
	mu     sync.Mutex
	synced map[string]fs.FileInfo
}

// known reports whether the name was synced while it named this file.
func (s *nameSet) known(path string, info fs.FileInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.synced[path]
	return old != nil && os.SameFile(old, info)
}

func (s *nameSet) add(path string, info fs.FileInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.synced) >= maxNames {
		clear(s.synced)
	}
	s.synced[path] = info
}

// device returns the number of the file system that a file is on.
func device(info fs.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	//lint:ignore unconvert another type on other systems
	return uint64(st.Dev)
}
