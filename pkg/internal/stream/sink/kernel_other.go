//go:build !linux

package sink

import "syscall"

// unread and unsent are known on Linux only. Elsewhere what was written
// counts as read, and a crash of the other side may lose it.

func unread(syscall.RawConn) (int, error) { return 0, nil }

func unsent(syscall.RawConn) (int, bool) { return 0, true }
