//go:build !linux

package sink

import "syscall"

// unread and unsent work on Linux only. Elsewhere written bytes count as read,
// and a crash of the other side may lose them.

func unread(syscall.RawConn) (int, error) { return 0, nil }

func unsent(syscall.RawConn) (int, bool) { return 0, true }
