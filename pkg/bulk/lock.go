package bulk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// lockAll takes the lock of every source and store, so that a slow cron job
// is not overtaken by the next. The kernel frees the locks of a process that
// dies.
func lockAll(stateDir string, sources []string, remote []Source, stores []store.Store) (unlock func(), err error) {
	dir := filepath.Join(stateDir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, &stateError{err}
	}
	var files []*os.File
	unlock = func() {
		for _, f := range files {
			f.Close()
		}
	}
	seen := map[string]bool{}
	var names []string
	for _, src := range remote {
		names = append(names, src.String())
	}
	for _, src := range sources {
		if src == "-" {
			continue
		}
		abs, err := lockName(src)
		if err != nil {
			return nil, err
		}
		names = append(names, abs)
	}
	for _, src := range names {
		for _, s := range stores {
			sum := sha256.Sum256([]byte(src + "\x00" + absolute(s.String())))
			path := filepath.Join(dir, hex.EncodeToString(sum[:12]))
			if seen[path] {
				continue
			}
			seen[path] = true
			f, err := lock(path)
			if err != nil {
				unlock()
				if errors.Is(err, ErrLocked) {
					err = fmt.Errorf("import of %s into %s is %w", src, s, err)
				}
				return nil, err
			}
			files = append(files, f)
		}
	}
	return unlock, nil
}

// absolute makes the folder of a store's URL absolute: relative ones mean
// other folders elsewhere.
func absolute(url string) string {
	scheme, dir, ok := strings.Cut(url, ":")
	if abs, err := filepath.Abs(dir); ok && err == nil && !strings.HasPrefix(dir, "//") {
		return scheme + ":" + abs
	}
	return url
}

func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, &stateError{err}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &stateError{fmt.Errorf("lock %s: %w", path, err)}
		}
		holder, _ := os.ReadFile(path) // who it is only helps
		return nil, fmt.Errorf("%w by another import (%s)", ErrLocked, strings.TrimSpace(string(holder)))
	}
	f.Truncate(0)
	fmt.Fprintf(f, "process %d since %s\n", os.Getpid(), time.Now().Format(time.RFC3339))
	return f, nil
}

// stateError is a state folder that cannot be used.
type stateError struct{ err error }

func (e *stateError) Error() string { return "state folder: " + e.err.Error() }
func (e *stateError) Unwrap() error { return e.err }

// Hint says what the user can do.
func (e *stateError) Hint() string { return "name a folder that can be written with --state-dir" }
