//go:build matrix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReader: a program reads all columns of all log types, of every version of Tstat
// together, from a store of ours as testdata/readers.jsonl says, before and after the
// compaction. make matrix chooses the reader by the name of the subtest.
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
