package command

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// storeCommandOf returns a command that runs this test binary as tstatrepo store.
func storeCommandOf(state string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return &exec.Cmd{Path: exe, Args: append([]string{"tstatrepo", "store", "--state-dir", state, "--json"}, args...)}
}

// storeOnce runs a store command to its end and returns its output.
func storeOnce(t *testing.T, state string, args ...string) string {
	t.Helper()
	cmd := storeCommandOf(state, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, stderr.String())
	}
	return stdout.String()
}

// killed repeatedly starts a command, kills it at a random time and calls check.
func killed(t *testing.T, whole time.Duration, command func() *exec.Cmd, check func()) {
	t.Helper()
	for range 1 + rand.IntN(3) {
		cmd := command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(whole)))) // kill at a random time
		cmd.Process.Kill()
		cmd.Wait()
		check()
	}
}

// dayRows counts the rows of a day's folder. Like many readers, it first lists the
// files and then opens them. ok is false if a file has disappeared in between: such a
// reader must start over.
func dayRows(dir string) (n int64, ok bool, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.parquet"))
	if err != nil {
		return 0, false, err
	}
	for _, name := range names {
		r, err := file.OpenParquetFile(name, false)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, fmt.Errorf("%s: %w", name, err)
		}
		n += r.NumRows()
		r.Close()
	}
	return n, true, nil
}

// watchDays repeatedly counts the rows of all days until it is stopped, and
// reports each unexpected count.
func watchDays(t *testing.T, dir string, expected map[string]int64) (stop func() (looks int64)) {
	var looks atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for day, want := range expected {
				select {
				case <-done:
					return
				default:
				}
				n, ok, err := dayRows(filepath.Join(dir, day))
				switch {
				case err != nil:
					t.Error(err)
				case ok && n != want:
					t.Errorf("a reader saw %d rows of %s, want %d", n, day, want)
				case ok:
					looks.Add(1)
				}
			}
		}
	})
	return func() int64 {
		close(done)
		wg.Wait()
		return looks.Load()
	}
}

// dayCounts returns the rows of each day's folder, below the store.
func dayCounts(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	days, err := filepath.Glob(filepath.Join(dir, "type=*", "probe=*", "date=*"))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, day := range days {
		n, ok, err := dayRows(day)
		if err != nil || !ok {
			t.Fatalf("%s: %v", day, err)
		}
		rel, _ := filepath.Rel(dir, day)
		counts[rel] = n
	}
	return counts
}

// TestKillCompact kills compactions of nine days at random times, while a reader counts
// rows. In the end each day must have one file, with the same rows and records as
// before.
func TestKillCompact(t *testing.T) {
	rounds := 2
	if *soak {
		rounds = 50
	}
	source, state := t.TempDir(), t.TempDir()
	killSource(t, source)
	base := filepath.Join(t.TempDir(), "base")
	importOnce(t, source, base, state)
	expected := dayCounts(t, base)
	fresh := func() string {
		dir := filepath.Join(t.TempDir(), "out")
		if out, err := exec.Command("cp", "-a", base, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return dir
	}
	compact := func(dir string) *exec.Cmd {
		return storeCommandOf(state, "compact", "--closed-after", "0s", "--jobs", "2", dir)
	}
	start := time.Now()
	storeOnce(t, state, "compact", "--closed-after", "0s", fresh())
	whole := time.Since(start)
	for round := range rounds {
		dir := fresh()
		stop := watchDays(t, dir, expected)
		// Meanwhile another process imports all files again.
		importer := importCommand(source, dir, t.TempDir())
		if err := importer.Start(); err != nil {
			t.Fatal(err)
		}
		killed(t, whole, func() *exec.Cmd { return compact(dir) }, func() {})
		if err := importer.Wait(); err != nil {
			t.Errorf("round %d: the importer: %v", round, err)
		}
		if round%2 == 0 { // an import or the next compaction cleans up
			if out := importOnce(t, source, dir, state); !strings.Contains(out, `"files": 0`) {
				t.Errorf("round %d: imported again: %s", round, out)
			}
		}
		storeOnce(t, state, "compact", "--closed-after", "0s", dir)
		if looks := stop(); looks == 0 {
			t.Errorf("round %d: the reader saw nothing", round)
		}
		if got := dayCounts(t, dir); fmt.Sprint(got) != fmt.Sprint(expected) {
			t.Errorf("round %d: rows by day\n%v, want\n%v", round, got, expected)
		}
		if paths, _ := filepath.Glob(filepath.Join(dir, "type=*", "probe=*", "date=*", "*")); len(paths) != len(expected) {
			t.Errorf("round %d: %d files, want %d", round, len(paths), len(expected))
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "_tstatrepo", "*", "*")); len(left) > 0 {
			t.Errorf("round %d: left over: %v", round, left)
		}
		if out := importOnce(t, source, dir, state); !strings.Contains(out, `"files": 0`) {
			t.Errorf("round %d: imported again in the end: %s", round, out)
		}
		storeOnce(t, state, "verify", "--deep", "--against", source, "--probe", "p1", "--timezone", "UTC", "--include-open", dir)
	}
}

// TestKillPrune kills prune runs at random times. Rows of later days must never be
// missing, and old rows must not be imported again.
func TestKillPrune(t *testing.T) {
	rounds := 2
	if *soak {
		rounds = 50
	}
	source, state := t.TempDir(), t.TempDir()
	expected := killSource(t, source)
	cut := time.Date(2016, 3, 5, 0, 0, 0, 0, time.UTC)
	keep := fmt.Sprintf("%dd", int(time.Since(cut)/(24*time.Hour)))
	var old, later int64
	for name, n := range expected {
		if name < cut.Format("2006_01_02_15_04") {
			old += int64(n)
		} else {
			later += int64(n)
		}
	}
	check := func(t *testing.T, fresh func() (dest string, rows func() (old, later int64))) {
		t.Helper()
		whole := 100 * time.Millisecond
		for round := range rounds {
			dest, rows := fresh()
			start := time.Now()
			if round > 0 {
				killed(t, whole, func() *exec.Cmd { return storeCommandOf(state, "prune", "--keep", keep, dest) }, func() {
					if a, b := rows(); a > old || b != later {
						t.Errorf("round %d: after the kill %d old rows of %d and %d later ones of %d", round, a, old, b, later)
					}
				})
			}
			storeOnce(t, state, "prune", "--keep", keep, dest)
			if round == 0 {
				whole = time.Since(start)
			}
			for range 2 {
				if a, b := rows(); a != 0 || b != later {
					t.Errorf("round %d: %d old rows and %d later ones, want 0 and %d", round, a, b, later)
				}
				if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
					t.Errorf("round %d: imported again: %s", round, out)
				}
			}
			storeOnce(t, state, "verify", "--against", source, "--probe", "p1", "--timezone", "UTC", "--include-open", dest)
		}
	}
	split := func(rows map[string]int) (a, b int64) {
		for name, n := range rows {
			if name < cut.Format("2006_01_02_15_04") {
				a += int64(n)
			} else {
				b += int64(n)
			}
		}
		return a, b
	}
	for _, scheme := range []string{"parquet", "copy"} {
		t.Run(scheme, func(t *testing.T) {
			look := map[string]func(*testing.T, string) map[string]int{"parquet": parquetRows, "copy": copyRows}[scheme]
			base := filepath.Join(t.TempDir(), "base")
			importOnce(t, source, scheme+":"+base, state)
			check(t, func() (string, func() (int64, int64)) {
				dir := filepath.Join(t.TempDir(), "out")
				if out, err := exec.Command("cp", "-a", base, dir).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return scheme + ":" + dir, func() (int64, int64) { return split(look(t, dir)) }
			})
		})
	}
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t)
		base := server.Database(t)
		importOnce(t, source, "postgres://"+server.Host(base)+"?sslmode=disable", state)
		check(t, func() (string, func() (int64, int64)) {
			db := fmt.Sprintf("%s_%d", base, rand.IntN(1<<30))
			server.Exec(t, "postgres", "create database "+db+" template "+base)
			return "postgres://" + server.Host(db) + "?sslmode=disable", func() (a, b int64) {
				conn := server.Connect(t, db)
				err := conn.QueryRow(t.Context(), `select count(*) filter (where folder_time < $1), count(*) filter (where folder_time >= $1)
					from log_tcp_complete`, cut).Scan(&a, &b)
				if err != nil {
					t.Error(err)
				}
				if err := conn.Close(t.Context()); err != nil {
					t.Error(err)
				}
				return a, b
			}
		})
	})
}
