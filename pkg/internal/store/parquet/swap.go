package parquet

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
)

// swap exchanges the folder of a day with the work folder, which contains the merged
// files, and updates the manifest. It returns the names of all files in the day's old
// folder, or nil if it did not exchange the folders.
func (s *Store) swap(tx *manifest.Tx, d *day, work string, done []*large) ([]string, error) {
	dir := filepath.Join(s.dir, d.dir)
	old := map[string]bool{}
	for _, l := range done {
		for _, f := range l.from {
			info, err := os.Lstat(filepath.Join(s.dir, f.loc))
			if err != nil || !info.Mode().IsRegular() || !f.entries[0].Matches(info) || tx.CountAt(f.loc) != len(f.entries) {
				return nil, errChanged
			}
			for _, e := range f.entries {
				if now, ok := tx.Find(e.Record); !ok || now.Location != f.loc || !now.Pruned.IsZero() {
					return nil, errChanged
				}
			}
			old[filepath.Base(f.loc)] = true
		}
	}
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = errChanged // it is a symbolic link now
	}
	if err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, n := range names {
		known = append(known, n.Name())
		if old[n.Name()] {
			continue
		}
		if n.IsDir() {
			return nil, fmt.Errorf("it contains a folder: %s", n.Name())
		}
		if err := os.Link(filepath.Join(dir, n.Name()), filepath.Join(work, n.Name())); err != nil {
			return nil, err
		}
	}
	if err := copyOwner(work, info); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(work); err != nil {
		return nil, err
	}
	if err := exchange(work, dir); err != nil {
		return nil, fmt.Errorf("exchange folders: %w", err)
	}
	// The rows are in the new files now, so write the records even if a later step
	// fails.
	for _, l := range done {
		loc := filepath.Join(d.dir, filepath.Base(l.out.Name()))
		info, err := os.Stat(filepath.Join(s.dir, loc))
		if err != nil {
			//lint:ignore errorlint %w would say that the day changed meanwhile
			return known, fmt.Errorf("compacted file: %v", err)
		}
		records := 0
		for _, f := range l.from {
			records += len(f.entries)
		}
		for _, f := range l.from {
			for _, e := range f.entries {
				if now, ok := tx.Find(e.Record); ok {
					now.Location, now.StoredSize, now.StoredModTime, now.FileRecords = loc, info.Size(), info.ModTime(), records
					tx.Put(now)
				}
			}
		}
	}
	// The caller removes the old files next, so make the changes durable.
	return known, durable.Together(tx.Sync,
		func() error { return durable.SyncDir(filepath.Dir(dir)) },
		func() error { return durable.SyncDir(filepath.Dir(work)) })
}

// copyOwner gives a folder the mode and owner recorded in info.
func copyOwner(dir string, info fs.FileInfo) error {
	if err := os.Chmod(dir, info.Mode()); err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	own, err := os.Stat(dir)
	if err != nil || !ok {
		return err
	}
	if now, ok := own.Sys().(*syscall.Stat_t); ok && (now.Uid != st.Uid || now.Gid != st.Gid) {
		return os.Chown(dir, int(st.Uid), int(st.Gid))
	}
	return nil
}

// moveNewFiles moves files from the day's old folder to its current folder, except those
// with known names. Programs that do not use the store's lock may have created new files
// just before swap exchanged the folders.
func (s *Store) moveNewFiles(d *day, old string, known []string) error {
	names, err := os.ReadDir(old)
	if err != nil {
		return err
	}
	for _, n := range names {
		if slices.Contains(known, n.Name()) {
			continue
		}
		to := filepath.Join(s.dir, d.dir, n.Name())
		if _, err := os.Lstat(to); err == nil {
			return fmt.Errorf("%s exists in the old and in the new folder", to)
		}
		if err := durable.Rename(filepath.Join(old, n.Name()), to); err != nil {
			return err
		}
	}
	return nil
}
