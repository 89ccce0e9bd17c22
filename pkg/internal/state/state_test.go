package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
)

type counts struct {
	Files map[string]int64
}

func TestSaveLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "folder", "counts")
	var got counts
	if err := Load(path, 1, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load without a file: %v", err)
	}
	for _, n := range []int64{1, 1 << 60} {
		if err := Save(path, 1, counts{map[string]int64{"a\n": n}}); err != nil {
			t.Fatal(err)
		}
		got = counts{}
		if err := Load(path, 1, &got); err != nil || got.Files["a\n"] != n {
			t.Fatalf("Load: %v, %v; want %d", got, err, n)
		}
	}
	left, _ := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 {
		t.Errorf("Save left %v", left)
	}
}

// TestSavedStateSurvivesPowerCut checks that a state in a new folder is durable
// when Save returns, even if Lock created the folder.
func TestSavedStateSurvivesPowerCut(t *testing.T) {
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	unlock, err := Lock(filepath.Join(dir, "new"), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for n := range int64(3) {
		if err := Save(filepath.Join(dir, "new/folder/counts"), 1, counts{map[string]int64{"log": n}}); err != nil {
			t.Fatal(err)
		}
		var got counts
		if err := Load(filepath.Join(disk.Cut(t), "new/folder/counts"), 1, &got); err != nil || got.Files["log"] != n {
			t.Errorf("Load after the cut: %v, %v; want %d", got, err, n)
		}
	}
}

// TestNamesNotUTF8 checks that names are restored exactly, including names with
// backslashes written by older versions.
func TestNamesNotUTF8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counts")
	for _, name := range []string{"caf\xe9", `a\x41`} {
		if err := Save(path, 1, counts{map[string]int64{name: 1}}); err != nil {
			t.Fatal(err)
		}
		var got counts
		if err := Load(path, 1, &got); err != nil || got.Files[name] != 1 {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	body := `{"Files":{"a\\x41":1}}` + "\n"
	if err := os.WriteFile(path, []byte(fmt.Sprintf("%s 1 %s\n%s", banner, checksum([]byte(body)), body)), 0o644); err != nil {
		t.Fatal(err)
	}
	var got counts
	if err := Load(path, 1, &got); err != nil || got.Files[`a\x41`] != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestLoadDetectsDamage checks that Load detects any changed byte and any
// truncation.
func TestLoadDetectsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counts")
	if err := Save(path, 7, counts{map[string]int64{"log": 42}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		changed := append([]byte(nil), text...)
		changed[i] ^= 0x10
		for _, damaged := range [][]byte{changed, text[:i]} {
			if err := os.WriteFile(path, damaged, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := Load(path, 7, new(counts)); err == nil || hint.Of(err) == "" {
				t.Fatalf("%q: %v", damaged, err)
			}
		}
	}
}

func TestOtherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counts")
	if err := Save(path, 7, counts{}); err != nil {
		t.Fatal(err)
	}
	for format, want := range map[int]string{
		6: "state file " + path + ": a newer version wrote it: its format is 7, and this version reads formats up to 6",
		8: "state file " + path + ": has the old format 7, and this version reads 8",
	} {
		err := Load(path, format, new(counts))
		if err == nil || err.Error() != want || errors.Is(err, ErrNewer) != (format == 6) {
			t.Errorf("format %d: %v", format, err)
		}
		if format == 6 && !strings.Contains(hint.Of(err), "upgrade") {
			t.Errorf("hint: %q", hint.Of(err))
		}
	}
}

func TestSaveFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Save(filepath.Join(dir, "file", "state"), 1, counts{}); !strings.Contains(hint.Of(err), "name a folder") {
		t.Errorf("Save below a file: %v", err)
	}
	if err := Save(filepath.Join(dir, "state"), 1, func() {}); err == nil {
		t.Error("Save of a function: no error")
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Lock(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, "a"); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("second lock: %v", err)
	}
	other, err := Lock(dir, "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	unlock()
	again, err := Lock(dir, "a")
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	again()
}

// TestModesAndLinks checks that only user and group can read states and locks,
// and that Lock does not follow a link and truncate its target.
func TestModesAndLinks(t *testing.T) {
	dir := t.TempDir()
	if err := Save(filepath.Join(dir, "state"), 1, counts{}); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	locks, err := filepath.Glob(filepath.Join(dir, "locks", "*"))
	if err != nil || len(locks) != 1 {
		t.Fatal(locks, err)
	}
	for _, path := range []string{filepath.Join(dir, "state"), locks[0]} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o640 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	target := filepath.Join(dir, "target")
	if err := errors.Join(os.Remove(locks[0]), os.WriteFile(target, []byte("kept"), 0o600), os.Symlink(target, locks[0])); err != nil {
		t.Fatal(err)
	}
	if unlock, err := Lock(dir, "a"); err == nil {
		unlock()
		t.Error("Lock accepts a link")
	}
	if text, err := os.ReadFile(target); err != nil || string(text) != "kept" {
		t.Errorf("target: %q, %v", text, err)
	}
}
