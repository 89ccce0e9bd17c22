package command

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// old is the folder with stores and states of a version before 0.9. Databases are
// dumps.
const old = "testdata/before-0.9"

// releases are the folders that TestWriteRelease wrote, the newest last. They contain
// stores with the logs of old, and states. Add the folder of each new release.
var releases = []string{"testdata/0.9.0"}

// allReleases is old and releases.
var allReleases = append([]string{old}, releases...)

// grow appends a line to a log that the older stores contain.
func grow(t *testing.T, source string) {
	t.Helper()
	path := filepath.Join(source, "2024_05_02_00_00.out", "log_udp_complete")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "192.0.2.1 77 b.example\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOlderStores checks that stores of older versions can be read, verified,
// compacted and continued.
func TestOlderStores(t *testing.T) {
	verified := func(out string) bool { return strings.Contains(out, `"findings": []`) }
	type olderStore struct {
		release, name string
		records       int // number of records with rows
		doubled       bool
	}
	tests := []olderStore{{old, "parquet", 8, false}, {old, "compacted", 8, false}, {old, "pruned", 4, false}, {old, "doubled", 8, true}, {old, "copy", 4, false}}
	for _, release := range releases {
		tests = append(tests, olderStore{release, "parquet", 8, false}, olderStore{release, "compacted", 8, false},
			olderStore{release, "pruned", 4, false}, olderStore{release, "copy", 8, false})
	}
	for _, test := range tests {
		t.Run(filepath.Base(test.release)+"/"+test.name, func(t *testing.T) {
			state, source := t.TempDir(), filepath.Join(t.TempDir(), "logs")
			dir := filepath.Join(t.TempDir(), "store")
			for from, to := range map[string]string{filepath.Join(test.release, test.name): dir, filepath.Join(old, "logs"): source} {
				if err := os.CopyFS(to, os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
			}
			scheme := "parquet"
			if test.name == "copy" {
				scheme = "copy"
			}
			dest := scheme + ":" + dir
			verify := func(args ...string) (string, error) {
				out, err := storeCommandOf(state, append(append([]string{"verify"}, args...), dest)...).Output()
				return string(out), err
			}
			out, err := verify("--deep") // before any change
			if !strings.Contains(out, fmt.Sprintf(`"records": %d,`, test.records)) || verified(out) == test.doubled || (err == nil) == test.doubled {
				t.Errorf("verify: %v: %s", err, out)
			}
			if test.doubled {
				if n := strings.Count(out, `"kind": "doubled"`); n != 2 {
					t.Errorf("%d doubled logs, want 2: %s", n, out)
				}
				storeOnce(t, state, "repair", dest)
			}
			if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
				t.Errorf("imported again: %s", out)
			}
			// One log grows, and another one appears.
			grow(t, source)
			if out, err := exec.Command("cp", "-r", filepath.Join(source, "2024_05_02_01_00.out"), filepath.Join(source, "2024_05_02_09_00.out")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 2`) || !strings.Contains(out, `"replaced": 1`) {
				t.Errorf("continued: %s", out)
			}
			if scheme == "parquet" {
				storeOnce(t, state, "compact", "--closed-after", "0s", dest)
			}
			out, err = verify("--deep", "--against", source, "--probe", "p1", "--timezone", "UTC", "--include-open")
			if err != nil || !verified(out) || !strings.Contains(out, `"same": 9`) {
				t.Errorf("verify in the end: %v: %s", err, out)
			}
		})
	}
}

// TestOlderDatabases checks that databases of older versions can be read, verified
// and continued.
func TestOlderDatabases(t *testing.T) {
	sql := func(release, name string) string {
		text, err := os.ReadFile(filepath.Join(release, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	check := func(t *testing.T, release, dest string) {
		state, source := t.TempDir(), filepath.Join(t.TempDir(), "logs")
		importer := filepath.Join(state, "importer")
		if release != old { // old contains no such dump
			oldState(t, release, "importer", importer)
			before, err := os.ReadFile(importer)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if after, err := os.ReadFile(importer); err != nil || !bytes.Equal(after, before) {
					t.Errorf("the importer has another identity: %s, %v", after, err)
				}
			}()
		}
		if err := os.CopyFS(source, os.DirFS(filepath.Join(old, "logs"))); err != nil {
			t.Fatal(err)
		}
		storeOnce(t, state, "verify", "--deep", dest)
		if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
			t.Errorf("imported again: %s", out)
		}
		grow(t, source)
		if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 1`) || !strings.Contains(out, `"replaced": 1`) {
			t.Errorf("continued: %s", out)
		}
		out := storeOnce(t, state, "verify", "--deep", "--against", source, "--probe", "p1", "--timezone", "UTC", "--include-open", dest)
		if !strings.Contains(out, `"same": 8`) {
			t.Errorf("verify in the end: %s", out)
		}
	}
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t)
		for _, release := range allReleases {
			for _, scheme := range []string{"postgres", "dbstream"} {
				db := server.Database(t)
				server.Exec(t, db, sql(release, scheme+".sql"))
				check(t, release, scheme+"://"+server.Host(db)+"?sslmode=disable")
			}
		}
	})
	t.Run("clickhouse", func(t *testing.T) {
		server := clickhousetest.Start(t)
		for _, release := range allReleases {
			server.Query(t, "drop database if exists release")
			server.Query(t, "create database release")
			for statement := range strings.SplitSeq(strings.TrimSpace(sql(release, "clickhouse.sql")), ";\n") {
				server.Query(t, strings.TrimSuffix(statement, ";"))
			}
			check(t, release, "clickhouse://"+server.Host()+"/release")
		}
	})
}

// oldState writes a state file of an older version to path. It replaces the paths and
// addresses of the machine on which the file was written.
func oldState(t *testing.T, release, name, path string, replace ...string) {
	t.Helper()
	restate(t, filepath.Join(release, "state", name), path, replace...)
}

// restate copies a state file, replaces texts in it, and updates its checksum.
func restate(t *testing.T, from, to string, replace ...string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := bytes.Cut(text, []byte("\n"))
	fields := strings.Fields(string(head)) // banner, format, checksum, ...
	if len(fields) < 3 {
		t.Fatalf("%s begins with %q", from, head)
	}
	for i := 0; i < len(replace); i += 2 {
		if !bytes.Contains(body, []byte(replace[i])) {
			t.Fatalf("%s has no %q", from, replace[i])
		}
		body = bytes.ReplaceAll(body, []byte(replace[i]), []byte(replace[i+1]))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	fields[2] = fmt.Sprintf("%x", sha256.Sum256(body))
	if err := os.WriteFile(to, append([]byte(strings.Join(fields, " ")+"\n"), body...), 0o644); err != nil {
		t.Fatal(err)
	}
}
