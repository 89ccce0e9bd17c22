package state

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
)

// ErrLocked reports that another process holds a lock. Lock returns an error that wraps
// ErrLocked.
var ErrLocked = errors.New("locked")

// Lock acquires the lock for key, which may be any string. The lock is a file in the
// folder "locks" of the state folder. Lock does not wait: it returns an error that wraps
// ErrLocked if the lock is held. The kernel releases the locks of a process that dies.
func Lock(dir, key string) (unlock func(), err error) {
	dir = filepath.Join(dir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, folderError(err)
	}
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(dir, hex.EncodeToString(sum[:12]))
	// O_NOFOLLOW prevents another user's link from making Lock truncate
	// another file.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return nil, folderError(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, folderError(fmt.Errorf("lock %s: %w", path, err))
		}
		holder, _ := os.ReadFile(path) // the holder is informative only
		return nil, fmt.Errorf("%w by another run (%s)", ErrLocked, strings.TrimSpace(string(holder)))
	}
	f.Truncate(0)
	fmt.Fprintf(f, "process %d since %s\n", os.Getpid(), time.Now().Format(time.RFC3339))
	return func() { f.Close() }, nil
}
