//go:build !linux

package source

import (
	"os"
	"syscall"
)

// acceptPending is only implemented on Linux. Elsewhere connections in the backlog are
// lost at shutdown.
func acceptPending(syscall.Conn) bool { return false }

// identityOf returns the identity of the file at a path, without its creation
// time.
func identityOf(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, syscall.ENOSYS
	}
	return identity{dev: uint64(st.Dev), ino: uint64(st.Ino)}, nil
}
