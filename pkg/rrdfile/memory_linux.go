package rrdfile

import "golang.org/x/sys/unix"

// inMemory reports whether a file is on an in-memory file system (tmpfs or ramfs).
func inMemory(fd int) (bool, error) {
	var fs unix.Statfs_t
	err := unix.Fstatfs(fd, &fs)
	return uint32(fs.Type) == unix.TMPFS_MAGIC || uint32(fs.Type) == unix.RAMFS_MAGIC, err
}
