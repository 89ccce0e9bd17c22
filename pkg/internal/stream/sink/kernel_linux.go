package sink

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unread returns how many bytes are in the pipe that rc reads from.
func unread(rc syscall.RawConn) (n int, err error) {
	if cerr := rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// unsent returns how many bytes written to a TCP connection the peer's kernel
// has yet to receive; ok is false if that is unknown.
func unsent(rc syscall.RawConn) (n int, ok bool) {
	var err error
	cerr := rc.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err != nil {
			return
		}
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			// After a reset the queue is empty, though nothing arrived.
			ok = info.State == unix.BPF_TCP_ESTABLISHED
		}
	})
	return n, ok && cerr == nil && err == nil
}
