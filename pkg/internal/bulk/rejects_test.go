package bulk

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRejectFile checks that only user and group can read rejected lines, and
// that showing them on a terminal is safe.
func TestRejectFile(t *testing.T) {
	r := &rejectFile{dir: t.TempDir()}
	if !r.add("/d/\x1b[2J\nü/log", 3, "value \"a\" is \x00\u202e\x9b\xff", []byte("b\x1b[0m")) {
		t.Fatal(r.failure())
	}
	r.close()
	text, err := os.ReadFile(r.path())
	if want := `/d/\x1b[2J\nü/log:3: value "a" is \x00\u202e\x9b\xff: "b\x1b[0m"` + "\n"; err != nil || string(text) != want {
		t.Errorf("%q, %v; want %q", text, err, want)
	}
	for path, want := range map[string]os.FileMode{r.path(): 0o640, filepath.Dir(r.path()): 0o750} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^want != 0 {
			t.Errorf("%s: %v, %v; want %v at most", path, info.Mode(), err, want)
		}
	}
}
