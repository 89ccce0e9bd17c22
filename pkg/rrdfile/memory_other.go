//go:build !linux

package rrdfile

// inMemory returns false, because only Linux reports the type of a file system this
// way.
func inMemory(int) (bool, error) { return false, nil }
