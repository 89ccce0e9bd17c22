//go:build !linux

package stream

import (
	"os"
	"syscall"
)

// unread and unsent are known on Linux only. Elsewhere what was written
// counts as read, and a crash of the other side may lose it; connections that
// wait to be accepted at the stop are lost.

func unread(syscall.RawConn) (int, error) { return 0, nil }

func unsent(syscall.RawConn) (int, bool) { return 0, true }

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
