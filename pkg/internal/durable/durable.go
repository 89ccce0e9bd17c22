// Package durable creates, replaces and removes files and folders in such a way that a
// power cut cannot undo the change.
//
// POSIX makes only two promises: fsync of a file makes its bytes durable, and fsync of
// a folder makes the names in that folder durable. A new file in a new folder therefore
// needs three syncs: of the file, of its folder, and of the parent folder, which
// contains the name of the new folder.
//
// # Order of operations
//
// Code that stores something in files follows these steps in order. Only the
// last step may report success, by a record, a checkpoint, an acknowledgment or
// exit status 0.
//
//  1. MkdirAll creates the folder. When it returns, the names of the folder and
//     of all its ancestors are durable. Alternatively, Prepare creates the folder
//     and leaves the syncs to step 5.
//  2. Write the bytes, to a temporary file unless the file only grows.
//  3. Sync the file. Its bytes are now durable, but its name is not.
//  4. Rename the temporary file to its final name. Other processes see
//     either the old or the new file, never a partial one. A power cut may still
//     restore the old file.
//  5. SyncDir the folder, or Folder.Sync after Prepare. The new name is now
//     durable, and the old file is gone.
//  6. Remove the files that the new file replaces under other names.
//  7. Write the record.
//
// WriteFile does steps 2 to 5 for small files; Rename does steps 4 and 5. A file
// that only grows is opened by OpenFile, which makes its name durable. Appended
// bytes count as stored only after a sync.
//
// A process that finds a file or folder that another process created cannot know
// whether its name was synced: that process may have been killed first. MkdirAll and
// OpenFile therefore sync each name once per process, not only when they create it.
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

// Folder is a folder that receives new files. Its own name may not be durable
// yet.
type Folder struct {
	path  string
	names []newName // topmost folder first
}

// newName is a folder whose name may not be durable yet.
type newName struct {
	path    string
	info    fs.FileInfo
	created bool // by this process
	mount   bool // a mount point: its name existed before the file system was mounted
}

// Prepare creates a folder like MkdirAll, but the folder's name becomes durable only
// when Sync is called. If Sync is called after a file was renamed into the folder, a
// journaling file system writes both names together.
func Prepare(dir string, perm fs.FileMode) (*Folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f := &Folder{path: abs}
	_, err = f.create(abs, perm)
	return f, err
}

// create creates a folder and its missing ancestors, and returns the folder's FileInfo.
// It adds each folder whose name may not be durable yet to f.names.
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

// Sync makes the names in the folder durable, and also the names of the folder itself and
// of its ancestors.
func (f *Folder) Sync() error {
	return Together(func() error { return SyncDir(f.path) }, f.syncNames)
}

func (f *Folder) syncNames() error {
	var syncs []func() error
	for _, n := range f.names {
		if !n.mount {
			syncs = append(syncs, n.sync)
		}
	}
	if err := Together(syncs...); err != nil {
		return err
	}
	for _, n := range f.names {
		names.add(n.path, n.info)
	}
	f.names = nil
	return nil
}

func (n newName) sync() error {
	err := SyncDir(filepath.Dir(n.path))
	// Syncing a folder requires permission to list it. The process often lacks this
	// permission for the folders above its own.
	if !n.created && errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// OpenFile opens a file like os.OpenFile, but creates the file if it is missing and
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

// WriteFile writes text to the named file, which it creates or replaces. After a power
// cut, the file has either its old or its new content, and always the new one if
// WriteFile had returned nil. Only the file's owner may read it.
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

// Rename renames a file, replacing any file with the new name, and makes the new name
// durable. If the old name was in another folder, it may reappear after a power cut.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// RemoveEmpty removes the folder dir below root if it is empty, and then each ancestor
// below root that has become empty. It makes these removals durable. In the deepest
// folder that remains, it also makes earlier removals of files durable. dir is relative
// to root and need not exist. A symbolic link to a folder remains.
func RemoveEmpty(root, dir string) error {
	// os.Remove would remove a symbolic link, even to a folder that is not empty.
	for dir != "." && syscall.Rmdir(filepath.Join(root, dir)) == nil {
		dir = filepath.Dir(dir)
	}
	err := SyncDir(filepath.Join(root, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// SyncNames makes the names of files and of their folders durable. The files are given as
// paths relative to root. Another process may have created them without syncing their
// names.
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

// SyncDir makes the names in a folder durable. It does nothing if the file
// system does not support this.
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

// Together makes several syncs at the same time. A journaling file system then often
// writes its journal once for all of them. Use it only if none of them has to be finished
// before another begins.
func Together(syncs ...func() error) error {
	errs := make([]error, len(syncs))
	var wg sync.WaitGroup
	for i, f := range syncs {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
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

// IsTransient reports whether err comes from a file system that may recover: it is
// full, over quota or read-only after a fault, or it reports an I/O error.
func IsTransient(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var observer atomic.Pointer[func(*os.File)]

// Observe makes Sync and SyncDir call f after each sync until stop is called. Several
// goroutines may call f at the same time. It is meant for tests; see package durabletest.
func Observe(f func(*os.File)) (stop func()) {
	observer.Store(&f)
	return func() { observer.Store(nil) }
}

// names records the files and folders whose names this process has synced.
var names = nameSet{synced: map[string]fs.FileInfo{}}

// maxNames is the maximum number of names that nameSet records. A name that is no longer
// recorded is synced again when needed.
const maxNames = 10_000

type nameSet struct {
	mu     sync.Mutex
	synced map[string]fs.FileInfo
}

// known reports whether this process has synced path as the name of the file that info
// describes. A sync while path named an earlier file does not count.
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

// device returns the device number of a file's file system, or 0 if it is unknown.
func device(info fs.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	//lint:ignore unconvert another type on other systems
	return uint64(st.Dev)
}
