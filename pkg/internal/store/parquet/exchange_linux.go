package parquet

import "golang.org/x/sys/unix"

// exchange exchanges two folders in one step. Tests replace it.
var exchange = func(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
