package command

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// storesCommand returns an import into several stores.
func storesCommand(source, state string, dests ...string) *exec.Cmd {
	cmd := importCommand(source, dests[0], state)
	cmd.Args = cmd.Args[:len(cmd.Args)-1]
	for _, d := range dests[1:] {
		cmd.Args = append(cmd.Args, "--to", d)
	}
	cmd.Args = append(cmd.Args, "--retry-timeout", "10m", "--rate", "1", source)
	return cmd
}

// TestKillStores imports into Parquet files and two databases. One database is down
// from the start and the other dies during the import. The importer is killed at random
// times. The files must always be complete; the databases must be complete after they
// recover.
func TestKillStores(t *testing.T) {
	rounds := 2
	if *soak {
		rounds = 20
	}
	down, dying := pgtest.Start(t), pgtest.Start(t)
	source := t.TempDir()
	total := databaseLogs(t, source, 100)
	d := databases["postgres"]
	for round := range rounds {
		dir := filepath.Join(t.TempDir(), "files")
		state := t.TempDir()
		databases := map[*pgtest.Server]string{down: down.Database(t), dying: dying.Database(t)}
		dest := func(s *pgtest.Server) string {
			return fmt.Sprintf("%s://%s?sslmode=disable", d.scheme, s.Host(databases[s]))
		}
		dests := []string{dir, dest(down), dest(dying)}
		down.Stop(t)
		var stderr bytes.Buffer
		start := func() *exec.Cmd {
			cmd := storesCommand(source, state, dests...)
			stderr.Reset()
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return cmd
		}
		cmd := start()
		kill := func() {
			cmd.Process.Kill()
			cmd.Wait()
			cmd = start()
		}
		stored := func() int {
			n := 0
			for _, rows := range parquetRows(t, dir) {
				n += rows
			}
			return n
		}
		at := rand.IntN(total / 2)
		becomes(t, "some rows", func() bool { return stored() > at })
		dying.Stop(t)
		if round%2 == 1 {
			kill()
		}
		becomes(t, "all rows in the files", func() bool { return stored() == total })
		for _, s := range []*pgtest.Server{down, dying} {
			s.StartAgain(t)
			if round%2 == 1 {
				time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Second)))) // kill at a random time
				kill()
			}
		}
		if err := waitFor(cmd); err != nil {
			t.Fatalf("round %d: %v: %s", round, err, stderr.String())
		}
		if n := stored(); n != total {
			t.Errorf("round %d: %d rows in the files, want %d", round, n, total)
		}
		for s, db := range databases {
			rows, records := counts(t, s, db, d.rows, d.records)
			different, _ := counts(t, s, db, strings.Replace(d.rows, "count(*)", "count(distinct c_port)", 1), d.records)
			if rows != total || records != total || different != total {
				t.Errorf("round %d: %d rows, %d different, records of %d, want %d", round, rows, different, records, total)
			}
		}
		var out bytes.Buffer
		again := storesCommand(source, state, dests...)
		again.Stdout = &out
		if err := again.Run(); err != nil || !strings.Contains(out.String(), `"files": 0`) {
			t.Errorf("round %d: a further run: %v: %s", round, err, out.String())
		}
	}
}

// TestImportWithAStoreDownExits75 checks that an import with an unavailable
// store completes the other store and exits with status 75. The error names the
// unavailable store and its files.
func TestImportWithAStoreDownExits75(t *testing.T) {
	source, dir := t.TempDir(), filepath.Join(t.TempDir(), "files")
	total := databaseLogs(t, source, 10)
	cmd := storesCommand(source, t.TempDir(), dir, "postgres://u:s3cret@127.0.0.1:1/db")
	for i, arg := range cmd.Args {
		if arg == "10m" {
			cmd.Args[i] = "1s"
		}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var status *exec.ExitError
	if !errors.As(err, &status) || status.ExitCode() != exitTryAgain {
		t.Errorf("%v", err)
	}
	if text := stderr.String(); !strings.Contains(text, "open postgres://u:xxxxx@127.0.0.1:1/db: store unavailable") ||
		!strings.Contains(text, "; files not stored there: 10") || strings.Contains(text, "cret") {
		t.Errorf("stderr: %s", text)
	}
	n := 0
	for _, rows := range parquetRows(t, dir) {
		n += rows
	}
	if n != total {
		t.Errorf("%d rows, want %d", n, total)
	}
}
