package stream

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

// unsent returns how many bytes the peer's kernel has not received of what
// was written to a TCP connection; ok is false if that is not known.
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

// waiting reports whether there are connections that Accept returns at once.
func waiting(l syscall.Conn) bool {
	rc, err := l.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	cerr := rc.Control(func(fd uintptr) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return cerr == nil && err == nil && n > 0
}

// identityOf returns the identity of the file at a path.
func identityOf(path string) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return identity{}, err
	}
	return identity{uint64(unix.Mkdev(st.Dev_major, st.Dev_minor)), st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}, nil
}
