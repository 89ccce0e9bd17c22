//go:build matrix

package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReader checks that other programs read all columns of all log types and Tstat
// versions from a Parquet store, before and after compaction. testdata/readers.jsonl
// holds the expected values. make matrix selects a program by the name of the subtest.
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
			checkLines(t, name, compacted, string(want))
			storeOnce(t, filepath.Join(t.TempDir(), "state"), "compact", "--closed-after", "0s", "parquet:"+compacted)
			check("compacted")
			checkLines(t, name, compacted, string(want))
		})
	}
}

// checkLines runs the commands of tstatrepo-stores(7) for a reader on a store, and
// compares their output with want.
func checkLines(t *testing.T, reader, dir, want string) {
	t.Helper()
	page, err := os.ReadFile("../../man/tstatrepo-stores.7.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile("(?is)\n" + reader + "[^\n]*:\n\n```\n(.*?)```").FindSubmatch(page)
	if lines == nil {
		t.Fatalf("tstatrepo-stores(7) has no lines for %s", reader)
	}
	var count, sum json.Number
	for text := range strings.Lines(want) {
		var log struct {
			Type    string
			Rows    json.Number
			Columns map[string][3]any
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&log); err != nil {
			t.Fatal(err)
		}
		if log.Type == "type=log_tcp_complete" {
			count, sum = log.Rows, log.Columns["s_bytes_all"][2].(json.Number)
		}
	}
	script, err := filepath.Abs("testdata/readerlines.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", script, reader)
	cmd.Dir, cmd.Stdin = filepath.Dir(dir), bytes.NewReader(lines[1])
	var errs strings.Builder
	cmd.Stderr = &errs
	got, err := cmd.Output()
	if want := fmt.Sprintf("%s %s\n", count, sum); err != nil || string(got) != want {
		t.Errorf("the lines of tstatrepo-stores(7) print %q, want %q: %v\n%s", got, want, err, &errs)
	}
}
