package bulk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
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

// TestRejectFileOfRunIsKept checks that the files of later runs do not replace that of a
// run that has not ended.
func TestRejectFileOfRunIsKept(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "rejects", "20240101T000000Z-1.txt")
	long := &rejectFile{dir: dir}
	if !long.add("log", 1, "a", nil) {
		t.Fatal(long.failure())
	}
	if err := os.Rename(long.path(), old); err != nil {
		t.Fatal(err)
	}
	for i := range keptRejectRuns + 5 {
		ended := filepath.Join(dir, "rejects", fmt.Sprintf("20240102T0000%02dZ-1.txt", i))
		if err := os.WriteFile(ended, nil, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	other := &rejectFile{dir: dir}
	if !other.add("log", 1, "b", nil) {
		t.Fatal(other.failure())
	}
	defer other.close()
	list := func() []string {
		names, err := filepath.Glob(filepath.Join(dir, "rejects", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if names := list(); len(names) != keptRejectRuns || names[0] != old {
		t.Errorf("%d files: %q", len(names), names)
	}
	long.close()
	third := &rejectFile{dir: dir}
	if !third.add("log", 1, "c", nil) {
		t.Fatal(third.failure())
	}
	defer third.close()
	if names := list(); len(names) > keptRejectRuns || names[0] == old {
		t.Errorf("%d files: %q", len(names), names)
	}
}

// TestRejectFileRecovers checks that lines are saved again after an error, and that the
// error is reported once.
func TestRejectFileRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(dir, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		r := &rejectFile{dir: dir}
		defer r.close()
		for range 3 {
			if r.add("log", 1, "lost", nil) {
				t.Error("written")
			}
			time.Sleep(rejectRetry)
		}
		if r.failure() == nil || r.failure() != nil {
			t.Error("not reported once")
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if !r.add("log", 2, "saved", nil) || r.failure() != nil {
			t.Error("not written")
		}
		r.fail(errors.New("disk is full"))
		r.broken = true // a part of a line was written
		if r.add("log", 3, "lost", nil) || r.failure() == nil {
			t.Error("not reported again")
		}
		time.Sleep(rejectRetry)
		if !r.add("log", 4, "saved", nil) {
			t.Error("not written again")
		}
		if text, err := os.ReadFile(r.path()); err != nil || string(text) != "log:2: saved\n\nlog:4: saved\n" {
			t.Errorf("%q, %v", text, err)
		}
	})
}
