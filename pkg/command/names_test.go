package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestNameNotUTF8 checks a log in a folder whose name is not UTF-8. The log must be
// stored, verified and pruned by its exact name, and not be imported again. The JSON of
// commands must be valid and escape the name.
func TestNameNotUTF8(t *testing.T) {
	dir := t.TempDir()
	source, stored, state := filepath.Join(dir, "in"), filepath.Join(dir, "store"), filepath.Join(dir, "state")
	const name = "caf\xe9-i"
	add := func(log string) {
		if err := os.CopyFS(filepath.Join(source, name, log), os.DirFS(filepath.Join(old, "logs", log))); err != nil {
			t.Skipf("this file system takes no such names: %v", err)
		}
	}
	add("2024_05_01_00_00.out")
	dest := "copy:" + stored
	valid := func(out string) string {
		t.Helper()
		if !utf8.ValidString(out) || !json.Valid([]byte(out)) {
			t.Errorf("not JSON in UTF-8: %q", out)
		}
		return out
	}
	against := []string{"verify", "--deep", "--include-open", "--probe", "p1", "--timezone", "UTC", "--against", source, dest}
	if out := valid(importOnce(t, source, dest, state)); !strings.Contains(out, `"files": 1`) {
		t.Fatalf("imported: %s", out)
	}
	copied := filepath.Join(stored, "p1", name, "2024_05_01_00_00.out", "log_udp_complete")
	if _, err := os.Stat(copied); err != nil {
		t.Fatal(err)
	}
	if out := valid(storeOnce(t, state, against...)); !strings.Contains(out, `"same": 1`) {
		t.Errorf("verify: %s", out)
	}

	add("2024_05_01_01_00.out")
	out, err := storeCommandOf(state, against...).Output()
	if err == nil || !strings.Contains(valid(string(out)), name[:3]+`\\xe9-i/2024_05_01_01_00.out/log_udp_complete`) {
		t.Errorf("verify: %v: %s", err, out)
	}

	valid(storeOnce(t, state, "prune", "--keep", "1d", dest))
	if _, err := os.Stat(copied); !os.IsNotExist(err) {
		t.Errorf("the pruned file: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(source, name, "2024_05_01_01_00.out")); err != nil {
		t.Fatal(err)
	}
	if out := valid(importOnce(t, source, dest, state)); !strings.Contains(out, `"files": 0`) || !strings.Contains(out, `"skipped": 1`) {
		t.Errorf("imported after prune: %s", out)
	}
	if out := valid(storeOnce(t, state, against...)); !strings.Contains(out, `"same": 1`) || !strings.Contains(out, `"pruned": 1`) {
		t.Errorf("verify after prune: %s", out)
	}
}
