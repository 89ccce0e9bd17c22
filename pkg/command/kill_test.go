package command

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/parquet/file"
)

var soak = flag.Bool("soak", false, "TestKill: 50 rounds for each store, not 5; also TestSoakSite, and the whole of TestHostilePeer")

// TestKill kills imports of 200 files at random times. Readers must always see complete
// files, and every row exactly once after one more run.
func TestKill(t *testing.T) {
	rounds := 5
	if *soak {
		rounds = 50
	}
	source := t.TempDir()
	expected := killSource(t, source)
	for _, scheme := range []string{"parquet", "copy"} {
		t.Run(scheme, func(t *testing.T) {
			look := map[string]func(*testing.T, string) map[string]int{"parquet": parquetRows, "copy": copyRows}[scheme]
			state := t.TempDir()
			start := time.Now()
			importOnce(t, source, scheme+":"+filepath.Join(t.TempDir(), "out"), state)
			whole := time.Since(start)
			for round := range rounds {
				dir := filepath.Join(t.TempDir(), "out")
				dest := scheme + ":" + dir
				for range 1 + rand.IntN(3) {
					cmd := importCommand(source, dest, state)
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Duration(rand.Int64N(int64(whole)))) // kill at a random time
					cmd.Process.Kill()
					cmd.Wait()
					for name, n := range look(t, dir) {
						if n != expected[name] {
							t.Fatalf("round %d: after the kill %s has %d rows, want %d or no file", round, name, n, expected[name])
						}
					}
				}
				importOnce(t, source, dest, state)
				got := look(t, dir)
				for name, n := range expected {
					if got[name] != n {
						t.Errorf("round %d: %s has %d rows, want %d", round, name, got[name], n)
					}
				}
				if len(got) != len(expected) {
					t.Errorf("round %d: %d files, want %d", round, len(got), len(expected))
				}
				if left, _ := filepath.Glob(filepath.Join(dir, "_tstatrepo", "tmp", "*")); len(left) > 0 {
					t.Errorf("round %d: left over: %v", round, left)
				}
				if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
					t.Errorf("round %d: a further run imports again: %s", round, out)
				}
			}
		})
	}
}

// killSource writes 200 logs and returns their rows by folder.
func killSource(t *testing.T, dir string) map[string]int {
	sample, err := os.ReadFile("../../pkg/tstat/testdata/logs/v300/2026_11_22_06_39.out/log_tcp_complete")
	if err != nil {
		t.Fatal(err)
	}
	head, rows, _ := bytes.Cut(sample, []byte("\n"))
	lines := bytes.SplitAfter(rows, []byte("\n"))
	expected := map[string]int{}
	for i := range 200 {
		folder := time.Date(2016, 3, 1, i, 0, 0, 0, time.UTC).Format("2006_01_02_15_04")
		n := 1 + i%80
		text := append(append(bytes.Clone(head), '\n'), bytes.Join(lines[:n], nil)...)
		name := "log_tcp_complete"
		if i%10 == 0 {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write(text)
			z.Close()
			text, name = b.Bytes(), name+".gz"
		}
		if err := os.MkdirAll(filepath.Join(dir, folder+".out"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, folder+".out", name), text, 0o644); err != nil {
			t.Fatal(err)
		}
		expected[folder] = n
	}
	return expected
}

// importCommand runs this test binary as tstatrepo; see TestMain.
func importCommand(source, dest, state string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return &exec.Cmd{Path: exe, Args: []string{"tstatrepo", "import-bulk", "--probe", "p1", "--timezone", "UTC",
		"--include-open", "--json", "--state-dir", state, "--to", dest, source}}
}

// importOnce runs an import to its end and returns the summary.
func importOnce(t *testing.T, source, dest, state string) string {
	t.Helper()
	cmd := importCommand(source, dest, state)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return stdout.String()
}

// parquetRows returns the rows of each file of a Parquet store.
func parquetRows(t *testing.T, dir string) map[string]int {
	t.Helper()
	got := map[string]int{}
	paths, err := filepath.Glob(filepath.Join(dir, "type=*", "probe=*", "date=*", "*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		r, err := file.OpenParquetFile(p, false)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		got[strings.TrimSuffix(filepath.Base(p), ".parquet")] = int(r.NumRows())
		r.Close()
	}
	return got
}

// copyRows returns the rows of each log that was stored as a copy.
func copyRows(t *testing.T, dir string) map[string]int {
	t.Helper()
	got := map[string]int{}
	err := filepath.WalkDir(filepath.Join(dir, "p1"), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err == nil && strings.HasSuffix(p, ".gz") {
			var z *gzip.Reader
			if z, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
				var b bytes.Buffer
				_, err = b.ReadFrom(z)
				data = b.Bytes()
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		name := strings.TrimSuffix(filepath.Base(filepath.Dir(p)), ".out")
		if base := strings.TrimSuffix(filepath.Base(p), ".gz"); base != "log_tcp_complete" {
			name += "/" + base
		}
		got[name] = bytes.Count(data, []byte("\n")) - 1
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}
