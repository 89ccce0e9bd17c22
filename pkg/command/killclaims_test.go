package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// sharedStore is an initially empty store that several importers share.
type sharedStore struct {
	dest string
	// counts returns, from one snapshot, the number of rows that readers see, the
	// number of distinct rows, and the number of rows in records.
	counts func() (rows, different, records int)
}

// sharedStores are the stores of TestKillImporter.
var sharedStores = map[string]func(*testing.T) func() sharedStore{
	"postgres": func(t *testing.T) func() sharedStore { return sharedDatabase(t, "postgres") },
	"dbstream": func(t *testing.T) func() sharedStore { return sharedDatabase(t, "dbstream") },
	"clickhouse": func(t *testing.T) func() sharedStore {
		server := clickhousetest.Start(t)
		return func() sharedStore {
			c := clickHouse{server, server.Database()}
			return sharedStore{"clickhouse://" + server.Host() + "/" + c.db, func() (int, int, int) { return c.counts(t) }}
		}
	},
}

// sharedDatabase starts a server for stores of a kind.
func sharedDatabase(t *testing.T, name string) func() sharedStore {
	server, d := pgtest.Start(t), databases[name]
	return func() sharedStore {
		db := server.Database(t)
		return sharedStore{fmt.Sprintf("%s://%s?sslmode=disable", d.scheme, server.Host(db)), func() (int, int, int) {
			different, _ := counts(t, server, db, strings.Replace(d.rows, "count(*)", "count(distinct c_port)", 1), d.records)
			rows, records := counts(t, server, db, d.rows, d.records)
			return rows, different, records
		}}
	}
}

// TestKillImporter runs two importers that share a store, and repeatedly kills and
// restarts one of them. In the end every row must be stored once, and no importer may
// wait forever for the claims of a killed importer.
func TestKillImporter(t *testing.T) {
	files, kills := 100, 3
	if *soak {
		files, kills = 500, 10
	}
	source := t.TempDir()
	total := databaseLogs(t, source, files)
	for name, start := range sharedStores {
		t.Run(name, func(t *testing.T) {
			newStore := start(t)
			for killed := 0; killed < kills; {
				st := newStore()
				state := t.TempDir()
				begun := time.Now()
				importOnce(t, filepath.Join(source, "2016_03_01_00_00.out"), st.dest, state)
				least := time.Since(begun) / 2
				// Slow down the import, so that all kills happen before it ends.
				wait := startSharing(t, source, st.dest, t.TempDir(), "--rate", "0.1")
				for killed < kills {
					cmd := sharing(source, st.dest, state, "--rate", "0.1")
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(least + time.Duration(rand.Int64N(int64(least+time.Second)))) // kill at a random time
					cmd.Process.Kill()
					cmd.Wait()
					rows, _, records := st.counts()
					if rows != records {
						t.Errorf("after kill %d readers see %d rows, the records list %d", killed, rows, records)
					}
					if records == total {
						break // the import ended before the kill: use a new store
					}
					killed++
				}
				second := startSharing(t, source, st.dest, t.TempDir())
				t.Logf("after %d kills: %+v, %+v", killed, wait(), second())
				if rows, different, records := st.counts(); rows != total || different != total || records != total {
					t.Errorf("%d rows, %d different ones, records of %d, want %d", rows, different, records, total)
				}
				if out := importOnce(t, source, st.dest, state); !strings.Contains(out, `"files": 0`) {
					t.Errorf("a further run imports again: %s", out)
				}
			}
		})
	}
}

// sharing returns an import command whose claims expire soon.
func sharing(source, dest, state string, flags ...string) *exec.Cmd {
	cmd := importCommand(source, dest, state)
	cmd.Args = append(cmd.Args[:len(cmd.Args)-1], append(flags, source)...)
	cmd.Env = append(os.Environ(), "TEST_CLAIM_TIME=2s")
	return cmd
}

// startSharing starts an import. wait waits until the import ends, which must be
// successful.
func startSharing(t *testing.T, source, dest, state string, flags ...string) (wait func() bulk.TypeSummary) {
	t.Helper()
	cmd := sharing(source, dest, state, flags...)
	return startSummary(t, cmd)
}

func startSummary(t *testing.T, cmd *exec.Cmd) (wait func() bulk.TypeSummary) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() bulk.TypeSummary {
		t.Helper()
		var sum bulk.Summary
		err := waitFor(cmd)
		if err == nil {
			err = json.Unmarshal(stdout.Bytes(), &sum)
		}
		if err != nil {
			t.Errorf("%v: %s", err, &stderr)
		}
		return sum.Total
	}
}

// TestShareDatabase checks that two concurrent importers share the files, and that
// neither reads a file of the other. The test locks the claims until both have started.
func TestShareDatabase(t *testing.T) {
	server := pgtest.Start(t)
	const files, batch = 200, 32
	for name, d := range databases {
		t.Run(name, func(t *testing.T) {
			db := server.Database(t)
			dest := fmt.Sprintf("%s://%s?sslmode=disable", d.scheme, server.Host(db))
			source, first := t.TempDir(), t.TempDir()
			total := databaseLogs(t, source, files)
			folder := "2016_03_01_00_00.out"
			if err := os.Rename(filepath.Join(source, folder), filepath.Join(first, folder)); err != nil {
				t.Fatal(err)
			}
			importOnce(t, first, dest, t.TempDir()) // creates the tables
			table := strings.TrimSuffix(d.records[strings.LastIndex(d.records, " ")+1:], "files") + "claims"
			conn := server.Connect(t, db)
			exec := func(sql string) {
				t.Helper()
				if _, err := conn.Exec(context.Background(), sql); err != nil {
					t.Fatal(err)
				}
			}
			exec("begin; lock table " + table + " in exclusive mode")
			var waits []func() bulk.TypeSummary
			for range 2 {
				waits = append(waits, startSummary(t, importCommand(source, dest, t.TempDir())))
			}
			waiting := 0
			for end := time.Now().Add(time.Minute); waiting < 2 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if err := conn.QueryRow(context.Background(), "select count(*) from pg_locks where not granted and relation = $1::regclass", table).Scan(&waiting); err != nil {
					t.Fatal(err)
				}
			}
			exec("commit")
			stored := int64(0)
			for _, wait := range waits {
				s := wait()
				if s.Files < batch || s.Files+s.Others != files-1 || s.Skipped != s.Others {
					t.Errorf("%d waited; %+v", waiting, s) // an importer read files that it should have waited for
				}
				stored += s.Files
				t.Logf("files %d", s.Files)
			}
			rows, records := counts(t, server, db, d.rows, d.records)
			if stored != files-1 || rows != total || records != total {
				t.Errorf("%d files, %d rows, records of %d, want %d", stored, rows, records, total)
			}
			var left int
			if err := conn.QueryRow(context.Background(), "select count(*) from "+table).Scan(&left); err != nil || left != 0 {
				t.Errorf("%d claims are left: %v", left, err)
			}
		})
	}
}
