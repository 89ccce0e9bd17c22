package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
)

// TestRemoveEmptyKeepsLinks checks that RemoveEmpty does not remove a symbolic link to a
// folder, which may have other files.
func TestRemoveEmptyKeepsLinks(t *testing.T) {
	dir, disk := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(disk, "a"), 0o777))
	must(t, os.WriteFile(filepath.Join(disk, "kept"), nil, 0o666))
	must(t, os.Symlink(disk, filepath.Join(dir, "2015")))
	must(t, durable.RemoveEmpty(dir, "2015/a"))
	if _, err := os.Stat(filepath.Join(dir, "2015/kept")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "a")); err == nil {
		t.Error("the empty folder exists")
	}
}
