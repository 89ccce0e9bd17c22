package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBashCompletesFoldersAndSchemes: bash adds a slash to a folder, and
// nothing to a scheme.
func TestBashCompletesFoldersAndSchemes(t *testing.T) {
	script, err := filepath.Abs("../../completions/tstatrepo.bash")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tstat"), 0o755); err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{
		"ts":   "tstat (-o filenames)",
		"par":  "parquet: (-o nospace)",
		"math": "math:// math+tls:// (-o nospace)",
	} {
		cmd := exec.Command("bash", "-c", `. "$1"; compopt() { options=$*; }
COMP_WORDS=(tstatrepo import-bulk --to "$2"); COMP_CWORD=3; _tstatrepo; echo -n "${COMPREPLY[*]} ($options)"`, "bash", script, word)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s: %s, %v; want %s", word, out, err, want)
		}
	}
}
