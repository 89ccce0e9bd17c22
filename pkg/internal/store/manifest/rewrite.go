package manifest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
)

// Temp is like Manifest.Temp, for callers inside Manifest.Update.
func (tx *Tx) Temp(perm fs.FileMode) (*os.File, error) {
	dir := filepath.Join(filepath.Dir(tx.m.path), "tmp")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	// os.CreateTemp uses a fixed mode, but this file becomes permanent and
	// needs the mode perm, reduced by the umask.
	f, err := os.OpenFile(filepath.Join(dir, rand.Text()+".tmp"), os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		os.Remove(f.Name())
		f.Close()
		return nil, err
	}
	return f, nil
}

// Rewrite compacts the manifest's log if most lines of the log are obsolete.
func (m *Manifest) Rewrite(ctx context.Context) error {
	return m.Update(ctx, func(tx *Tx) error {
		n := 0
		for _, es := range m.entries {
			n += len(es)
		}
		if m.lines <= 2*n+minLines {
			return nil
		}
		return m.rewrite()
	})
}

// minLines keeps Rewrite from compacting short logs.
const minLines = 1000

// rewrite replaces the log with one that has a line for each entry. The caller must
// hold the lock of the old log, and holds the lock of the new log afterwards.
func (m *Manifest) rewrite() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%d %s\n", banner, format, m.kind)
	lines := 0
	for _, es := range m.entries {
		for _, e := range es {
			b.Write(encode(line{Put: &e}))
			lines++
		}
	}
	old, err := m.f.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(m.path+".new", m.flags|os.O_TRUNC, old.Mode().Perm())
	if err != nil {
		return err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = f.Write(b.Bytes())
	}
	if err == nil {
		err = copyOwner(f, old)
	}
	if err == nil {
		err = durable.Sync(f)
	}
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		return fmt.Errorf("rewrite %s: %w", m.path, err)
	}
	m.f.Close()
	m.f, m.read, m.torn, m.format, m.lines, m.damaged = f, int64(b.Len()), false, format, lines, 0
	return durable.SyncDir(filepath.Dir(m.path))
}

// copyOwner gives the new log the mode and owner of the old log, because other users may
// also write to it.
func copyOwner(f *os.File, old fs.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()); err != nil {
		return err
	}
	a, ok := old.Sys().(*syscall.Stat_t)
	var b syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &b); err != nil || !ok || a.Uid == b.Uid && a.Gid == b.Gid {
		return err
	}
	return f.Chown(int(a.Uid), int(a.Gid))
}

// Temp creates a file for uncommitted rows. The file is locked while it is open, so
// that RemoveStale removes only files left by killed processes.
func (m *Manifest) Temp(ctx context.Context, perm fs.FileMode) (f *os.File, err error) {
	err = m.Update(ctx, func(tx *Tx) error {
		f, err = tx.Temp(perm)
		return err
	})
	return f, err
}

// RemoveStale removes the temporary files of killed processes.
func (m *Manifest) RemoveStale(ctx context.Context) error {
	dir := filepath.Join(filepath.Dir(m.path), "tmp")
	return m.Update(ctx, func(*Tx) error {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := removeUnlocked(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		return nil
	})
}

func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // removed meanwhile, or another user's
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
	}
	return os.Remove(path)
}
