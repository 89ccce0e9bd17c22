package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/store/clickhousetest"
	"github.com/tstatrepo/tstatrepo/pkg/store/pgtest"
)

// old has stores that a version before 0.9 filled with its logs, databases as
// dumps.
const old = "testdata/before-0.9"

// TestStoresBefore09: stores that a version before 0.9 wrote are read, verified,
// compacted and continued.
func TestStoresBefore09(t *testing.T) {
	verified := func(out string) bool { return strings.Contains(out, `"findings": []`) }
	for _, test := range []struct {
		name, scheme string
		records      string // whose rows are there
		doubled      bool
	}{
		{"parquet", "parquet", `"records": 8`, false},
		{"compacted", "parquet", `"records": 8`, false},
		{"pruned", "parquet", `"records": 4`, false},
		{"doubled", "parquet", `"records": 8`, true},
		{"copy", "copy", `"records": 4`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, source := t.TempDir(), filepath.Join(t.TempDir(), "logs")
			dir := filepath.Join(t.TempDir(), "store")
			for from, to := range map[string]string{test.name: dir, "logs": source} {
				if err := os.CopyFS(to, os.DirFS(filepath.Join(old, from))); err != nil {
					t.Fatal(err)
				}
			}
			dest := test.scheme + ":" + dir
			verify := func(args ...string) (string, error) {
				out, err := storeCommandOf(state, append(append([]string{"verify"}, args...), dest)...).Output()
				return string(out), err
			}
			out, err := verify("--deep") // before anything was changed
			if !strings.Contains(out, test.records) || verified(out) == test.doubled || (err == nil) == test.doubled {
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
			// A log grows, another one appears.
			grown := filepath.Join(source, "2024_05_02_00_00.out", "log_udp_complete")
			text, err := os.ReadFile(grown)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(grown, append(text, "192.0.2.1 77 b.example\n"...), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cp", "-r", filepath.Join(source, "2024_05_02_01_00.out"), filepath.Join(source, "2024_05_02_09_00.out")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 2`) || !strings.Contains(out, `"replaced": 1`) {
				t.Errorf("continued: %s", out)
			}
			if test.scheme == "parquet" {
				storeOnce(t, state, "compact", "--closed-after", "0s", dest)
			}
			out, err = verify("--deep", "--against", source, "--probe", "p1", "--timezone", "UTC", "--include-open")
			if err != nil || !verified(out) || !strings.Contains(out, `"same": 9`) {
				t.Errorf("verify in the end: %v: %s", err, out)
			}
		})
	}
}

// TestDatabasesBefore09: so do databases, without compaction.
func TestDatabasesBefore09(t *testing.T) {
	sql := func(name string) string {
		text, err := os.ReadFile(filepath.Join(old, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	check := func(t *testing.T, dest string) {
		state, source := t.TempDir(), filepath.Join(t.TempDir(), "logs")
		if err := os.CopyFS(source, os.DirFS(filepath.Join(old, "logs"))); err != nil {
			t.Fatal(err)
		}
		storeOnce(t, state, "verify", "--deep", dest)
		if out := importOnce(t, source, dest, state); !strings.Contains(out, `"files": 0`) {
			t.Errorf("imported again: %s", out)
		}
		grown := filepath.Join(source, "2024_05_02_00_00.out", "log_udp_complete")
		text, err := os.ReadFile(grown)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(grown, append(text, "192.0.2.1 77 b.example\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
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
		for _, scheme := range []string{"postgres", "dbstream"} {
			db := server.Database(t)
			server.Exec(t, db, sql(scheme+".sql"))
			check(t, scheme+"://"+server.Host(db)+"?sslmode=disable")
		}
	})
	t.Run("clickhouse", func(t *testing.T) {
		server := clickhousetest.Start(t)
		server.Query(t, "create database before09")
		for statement := range strings.SplitSeq(strings.TrimSpace(sql("clickhouse.sql")), ";\n") {
			server.Query(t, strings.TrimSuffix(statement, ";"))
		}
		check(t, "clickhouse://"+server.Host()+"/before09")
	})
}
