package command

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestKillMath kills a repository at random times while it fetches 100 files from a
// probe into three stores. Readers must always see complete files, and in the end every
// row once, without a new registration.
func TestKillMath(t *testing.T) {
	rounds := 3
	if *soak {
		rounds = 30 // of one to three kills
	}
	server := pgtest.Start(t)
	source := t.TempDir()
	total := databaseLogs(t, source, 100)
	expected := map[string]int{}
	err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var data []byte
			data, err = os.ReadFile(p)
			expected[strings.TrimSuffix(filepath.Base(filepath.Dir(p)), ".out")] = bytes.Count(data, []byte("\n")) - 1
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	repository, probe := freeAddr(t), freeAddr(t)
	serve := mathCommand(t, "--to", "math://"+repository, "--listen", probe, "--stream", "p1", "--settle", "1s", "--poll", "100ms", "--state-dir", t.TempDir(), source)
	defer serve.stop(t)
	state := t.TempDir() // keeps the stream, because the probe registers only once a minute
	for round := range rounds {
		db, dir := server.Database(t), t.TempDir()
		args := []string{"--listen", repository, "--poll", "100ms", "--state-dir", state,
			"--to", "copy:" + filepath.Join(dir, "copy"), "--to", "parquet:" + filepath.Join(dir, "parquet"), "--to", "dbstream://" + server.Host(db) + "?window=3600s&analyze=none"}
		d := databases["dbstream"]
		rows := "select count(*) from p1"
		for range 1 + rand.IntN(3) {
			r := mathCommand(t, args...)
			if round == 0 { // otherwise the probe may not be registered yet
				waitUntil(t, r, func() bool { n, _ := counts(t, server, db, rows, d.records); return n > 0 })
			}
			time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Second)))) // kill at a random time
			r.cmd.Process.Kill()
			r.cmd.Wait()
			consistent(t, server, db, rows, d.records)
			for name, n := range copyRows(t, filepath.Join(dir, "copy")) {
				if n != expected[name] {
					t.Fatalf("round %d: after the kill the copy of %s has %d rows, want %d", round, name, n, expected[name])
				}
			}
			for name, n := range parquetRows(t, filepath.Join(dir, "parquet")) {
				if n != expected[name] {
					t.Fatalf("round %d: after the kill %s has %d rows in Parquet, want %d", round, name, n, expected[name])
				}
			}
		}
		r := mathCommand(t, args...)
		waitUntil(t, r, func() bool {
			n, _ := counts(t, server, db, rows, d.records)
			return n >= total && len(copyRows(t, filepath.Join(dir, "copy"))) >= len(expected) && len(parquetRows(t, filepath.Join(dir, "parquet"))) >= len(expected)
		})
		r.stop(t)
		n, recorded := counts(t, server, db, rows, d.records)
		different, _ := counts(t, server, db, "select count(distinct c_port) from p1", d.records)
		if n != total || recorded != total || different != total {
			t.Errorf("round %d: %d rows, %d different, records of %d, want %d", round, n, different, recorded, total)
		}
		for what, got := range map[string]map[string]int{"copy": copyRows(t, filepath.Join(dir, "copy")), "parquet": parquetRows(t, filepath.Join(dir, "parquet"))} {
			if fmt.Sprint(got) != fmt.Sprint(expected) {
				t.Errorf("round %d: %s has %v, want %v", round, what, got, expected)
			}
		}
	}
}

// freeAddr returns a free loopback address.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// mathProcess is a running import-bulk that uses MATH.
type mathProcess struct {
	cmd *exec.Cmd
	err bytes.Buffer
}

func mathCommand(t *testing.T, args ...string) *mathProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &mathProcess{cmd: &exec.Cmd{Path: exe, Args: append([]string{"tstatrepo", "import-bulk", "--timezone", "UTC"}, args...)}}
	p.cmd.Stderr = &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

// stop stops the process with a signal, like an administrator.
func (p *mathProcess) stop(t *testing.T) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := waitFor(p.cmd); p.cmd.ProcessState.ExitCode() != 143 {
		t.Errorf("%v: %s", err, p.err.String())
	}
}

// waitUntil polls until f returns true.
func waitUntil(t *testing.T, p *mathProcess, f func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			p.stop(t)
			t.Fatalf("not in 2 minutes: %s", p.err.String())
		}
	}
}
