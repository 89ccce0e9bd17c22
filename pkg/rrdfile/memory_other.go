//go:build !linux

package rrdfile

// inMemory returns false, because only Linux reports a file system's type in this way.
func inMemory(int) (bool, error) { return false, nil }
