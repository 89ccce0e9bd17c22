//go:build !linux

package sink

import "syscall"

// unread and unsent are only implemented on Linux. Elsewhere written bytes count
// as read, and a crash of the receiver may lose them.

func unread(syscall.RawConn) (int, error) { return 0, nil }

func unsent(syscall.RawConn) (int, bool) { return 0, true }
