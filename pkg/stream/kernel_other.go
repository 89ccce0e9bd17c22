//go:build !linux

package stream

import "syscall"

// unread and unsent are known on Linux only. Elsewhere what was written
// counts as read, and a crash of the other side may lose it; connections that
// wait to be accepted at the stop are lost.

func unread(syscall.RawConn) (int, error) { return 0, nil }

func unsent(syscall.RawConn) (int, bool) { return 0, true }

func waiting(syscall.Conn) bool { return false }
