package sink

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unread returns the number of unread bytes in the pipe of rc.
func unread(rc syscall.RawConn) (n int, err error) {
	if cerr := rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// unsent returns the number of bytes that were written to the TCP connection of rc but
// that the peer's kernel has not acknowledged yet. ok is false if the number is unknown.
func unsent(rc syscall.RawConn) (n int, ok bool) {
	var err error
	cerr := rc.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err != nil {
			return
		}
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			// After a reset the queue is empty even if the bytes never arrived.
			ok = info.State == unix.BPF_TCP_ESTABLISHED
		}
	})
	return n, ok && cerr == nil && err == nil
}
