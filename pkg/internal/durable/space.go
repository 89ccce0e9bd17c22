package durable

import (
	"fmt"
	"syscall"
)

// CheckSpace returns an error if little space is left on the file system of the folder
// dir: less than 5 %, and less than 1 GiB. Sinks that run for years check this before
// they write, so that they do not take the last space from Tstat and from the system.
func CheckSpace(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return nil // the next write will show the error
	}
	//lint:ignore unconvert other types on other systems
	unit, free, blocks := int64(st.Bsize), int64(st.Bavail), int64(st.Blocks)
	return checkSpace(dir, free*unit, blocks*unit)
}

// checkSpace is CheckSpace for a file system with the given sizes in bytes.
func checkSpace(dir string, free, size int64) error {
	switch {
	case free >= 1<<30 || free >= size/20:
		return nil
	case size/20 > 1<<30:
		return fmt.Errorf("%s: less than 1 GiB of the disk is free", dir)
	default:
		return fmt.Errorf("%s: less than 5 %% of the disk is free", dir)
	}
}
