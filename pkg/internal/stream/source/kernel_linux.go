package source

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// acceptPending reports whether a connection is waiting in the backlog of l. If so,
// Accept does not block.
func acceptPending(l syscall.Conn) bool {
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
	return identity{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}, nil
}
