package parquet

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestVerifyLinkedStore checks that Verify finds files from other programs in a store whose
// folder is a symbolic link.
func TestVerifyLinkedStore(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "disk"), 0o755), os.Symlink("disk", link)); err != nil {
		t.Fatal(err)
	}
	s := open(t, link)
	putText(t, s, "2016_03_01_01_00.out", text(7, "b"))
	s.Close()
	if err := os.WriteFile(filepath.Join(link, "x.parquet"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := faults(t, link, false), []string{"foreign x.parquet"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
