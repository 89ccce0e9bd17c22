//go:build !linux

package rrdfile

// inMemory always returns false: in-memory file systems are recognized only on Linux.
func inMemory(int) (bool, error) { return false, nil }
