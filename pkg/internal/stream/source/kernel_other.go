//go:build !linux

package source

import (
	"os"
	"syscall"
)

// waiting is known on Linux only. Elsewhere connections that wait to be
// accepted at the stop are lost.
func waiting(syscall.Conn) bool { return false }

// identityOf returns the identity of the file at a path, without the time it
// was made.
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
