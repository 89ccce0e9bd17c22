//go:build matrix

package command

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReader checks that other programs read all columns of all log types and Tstat
// versions from a Parquet store, before and after compaction. testdata/readers.jsonl has
// what they must read. make matrix selects a program by the name of the subtest.
func TestReader(t *testing.T) {
	dir := t.TempDir()
	dest, state := "parquet:"+filepath.Join(dir, "store"), filepath.Join(dir, "state")
	importOnce(t, "../../pkg/tstat/testdata/logs", dest, state)
	want, err := os.ReadFile("testdata/readers.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"duckdb", "pyarrow", "pandas", "polars", "clickhouse", "spark"} {
		t.Run(name, func(t *testing.T) {
			compacted := filepath.Join(t.TempDir(), "store")
			if err := os.CopyFS(compacted, os.DirFS(filepath.Join(dir, "store"))); err != nil {
				t.Fatal(err)
			}
			check := func(what string) {
				t.Helper()
				cmd := exec.Command("python3", "testdata/readers.py", name, compacted)
				var errs strings.Builder
				cmd.Stderr = &errs
				got, err := cmd.Output()
				if err != nil {
					t.Fatalf("%s: %v: %s", what, err, &errs)
				}
				if string(got) != string(want) {
					file := filepath.Join(os.TempDir(), "readers-"+name+".jsonl")
					os.WriteFile(file, got, 0o644)
					t.Errorf("%s: differs from testdata/readers.jsonl: see %s", what, file)
				}
			}
			check("as imported")
			storeOnce(t, filepath.Join(t.TempDir(), "state"), "compact", "--closed-after", "0s", "parquet:"+compacted)
			check("compacted")
		})
	}
}
