package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompacted checks that DuckDB reads the same rows before and after compaction
// with a plain glob, and that a query of the old files fails instead of returning a
// wrong count.
func TestCompacted(t *testing.T) {
	tmp := t.TempDir()
	bin, source, out := filepath.Join(tmp, "tstatrepo"), filepath.Join(tmp, "logs"), filepath.Join(tmp, "out")
	command(t, "../../../..", "go", "build", "-o", bin, "./cmd/tstatrepo")
	for i := range 6 {
		to := filepath.Join(source, fmt.Sprintf("2016_03_01_%02d_00.out", i))
		if err := os.CopyFS(to, os.DirFS(filepath.Join(bundledLogs, "v321", "2026_11_22_06_39.out"))); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(tmp, "state")
	command(t, "", bin, "import-bulk", "--to", "parquet:"+out, "--probe", "p1", "--include-open", "--timezone", "UTC", "--state-dir", state, source)
	db, err := open("", "1GB", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	types, err := filepath.Glob(filepath.Join(out, "type=*"))
	if err != nil || len(types) < 5 {
		t.Fatalf("%v, %v", types, err)
	}
	sums := func() string {
		var b strings.Builder
		for _, dir := range types {
			var n int64
			var hash string
			query := fmt.Sprintf("select count(*), sum(hash(t)::hugeint)::varchar from read_parquet(%s, hive_partitioning = true) t", quote(dir+"/probe=*/date=*/*.parquet"))
			if err := db.QueryRow(query).Scan(&n, &hash); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&b, filepath.Base(dir), n, hash)
		}
		return b.String()
	}
	before := sums()
	listed := list(t, db, out)
	command(t, "", bin, "store", "compact", "--closed-after", "0s", "--state-dir", state, "parquet:"+out)
	if after := sums(); after != before {
		t.Errorf("after compaction:\n%s\nbefore:\n%s", after, before)
	}
	if now := list(t, db, out); len(now) != len(types) {
		t.Errorf("%d files of %d types: %v", len(now), len(types), now)
	}
	var n int64
	var quoted []string
	for _, f := range listed {
		quoted = append(quoted, quote(f))
	}
	err = db.QueryRow("select count(*) from read_parquet([" + strings.Join(quoted, ", ") + "], union_by_name = true)").Scan(&n)
	if err == nil {
		t.Errorf("a reader of the old names sees %d rows", n)
	}
}

// list returns the Parquet files that DuckDB's glob finds.
func list(t *testing.T, db *sql.DB, dir string) (files []string) {
	t.Helper()
	rows, err := db.Query("select file from glob(" + quote(dir+"/type=*/probe=*/date=*/*.parquet") + ")")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	return files
}

func command(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, msg)
	}
}
