package parquet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/internal/parquetfile"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/storetest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// count counts the rows of the files below type=, like a reader of the dataset.
func count(t *testing.T, dir, logType, probe string) int {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "type="+logType, "probe="+probe, "date=*", "*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range paths {
		r, err := file.OpenParquetFile(p, false)
		if err != nil {
			t.Fatal(err)
		}
		n += int(r.NumRows())
		r.Close()
	}
	return n
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		dir := t.TempDir()
		return storetest.Harness{
			Open:  func(t *testing.T) store.Store { return open(t, dir) },
			Count: func(t *testing.T, logType, probe string) int { return count(t, dir, logType, probe) },
		}
	})
}

// put stores n rows of a log.
func put(t *testing.T, s *Store, folder string, n int, replace ...store.Record) store.Record {
	t.Helper()
	return putRows(t, s, folder, strings.Repeat("::1 1\n", n), n, replace...)
}

// putRows stores the n rows of a log: c_ip and c_port.
func putRows(t *testing.T, s *Store, folder, rows string, n int, replace ...store.Record) store.Record {
	t.Helper()
	ctx := context.Background()
	typ := tstat.TypeByName("log_udp_complete")
	ft, err := tstat.ParseFolder(folder, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	r := tstat.NewReader(strings.NewReader("#c_ip:1 c_port:2\n"+rows), typ, tstat.ReaderOptions{})
	key := store.Key{Probe: "p1", Folder: folder, File: typ.Name}
	tx, err := s.Begin(ctx, store.FileInfo{Key: key, Type: typ, Time: ft.Time, Columns: r.Columns()})
	if err != nil {
		t.Fatal(err)
	}
	for b, err := r.Next(); err == nil; b, err = r.Next() {
		if err := tx.Write(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	rec := store.Record{Key: key, Type: typ.Name, Time: ft.Time, Rows: int64(n), Imported: time.Now()}
	rec.SHA256, rec.Length = r.Fingerprint()
	if err := tx.Commit(ctx, rec, lookup(t, s, folder), replace); err != nil {
		t.Fatal(err)
	}
	return rec
}

func lookup(t *testing.T, s *Store, folder string) []store.Record {
	t.Helper()
	rs, err := s.Lookup(context.Background(), []store.Key{{Probe: "p1", Folder: folder, File: "log_udp_complete"}})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestManifestLost rebuilds the manifest from the footers.
func TestManifestLost(t *testing.T) {
	const a, b = "2016_03_24_21_37.out", "2016_03_24_22_37.out"
	for name, harm := range map[string]func(path string, data []byte) error{
		"removed":      func(p string, _ []byte) error { return os.Remove(p) },
		"emptied":      func(p string, _ []byte) error { return os.Truncate(p, 0) },
		"cut":          func(p string, data []byte) error { return os.Truncate(p, int64(len(data)-5)) },
		"cut at start": func(p string, _ []byte) error { return os.Truncate(p, 7) },
		"overwritten": func(p string, data []byte) error {
			return os.WriteFile(p, []byte(strings.Replace(string(data), `"rows":20`, `"rows":29`, 1)), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			put(t, s, a, 10)
			put(t, s, b, 20)
			s.Close()
			path := filepath.Join(dir, manifest.Dir, "manifest")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := harm(path, data); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second opening finds what the first one wrote
				s = open(t, dir)
				if ra, rb := lookup(t, s, a), lookup(t, s, b); len(ra) != 1 || ra[0].Rows != 10 || len(rb) != 1 || rb[0].Rows != 20 {
					t.Errorf("records %+v and %+v", ra, rb)
				}
				s.Close()
			}
		})
	}
}

// TestDiedBetween kills a process after it has renamed a new or replaced file, and
// before it has updated the manifest.
func TestDiedBetween(t *testing.T) {
	const folder = "2016_03_24_21_37.out"
	dir := t.TempDir()
	path := filepath.Join(dir, manifest.Dir, "manifest")
	s := open(t, dir)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rec := put(t, s, folder, 10)
	s.Close()
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, before, 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if rs := lookup(t, s, folder); len(rs) != 1 || rs[0].Rows != 10 {
		t.Errorf("new file: %+v", rs)
	}
	put(t, s, folder, 20, rec)
	s.Close()
	if err := os.WriteFile(path, first, 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if rs := lookup(t, s, folder); len(rs) != 1 || rs[0].Rows != 20 {
		t.Errorf("replaced file: %+v", rs)
	}
	if n := count(t, dir, "log_udp_complete", "p1"); n != 20 {
		t.Errorf("%d rows", n)
	}
}

// TestPowerCut checks that a closed store has each row once after a power cut:
// after an import, a replacement, a compaction and a prune.
func TestPowerCut(t *testing.T) {
	const a, b, c = "2016_03_24_21_37.out", "2016_03_24_22_37.out", "2016_03_25_22_37.out"
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	folder := filepath.Join(dir, "new/store")
	check := func(rows int, want map[string]int64) {
		t.Helper()
		root := filepath.Join(disk.Cut(t), "new/store")
		for range 2 { // the second opening finds what the first one wrote
			s := open(t, root)
			for f, n := range want {
				if rs := lookup(t, s, f); len(rs) != 1 || rs[0].Rows != n {
					t.Errorf("records of %s: %+v", f, rs)
				}
			}
			s.Close()
			if n := count(t, root, "log_udp_complete", "p1"); n != rows {
				t.Errorf("%d rows, want %d", n, rows)
			}
		}
	}
	change := func(f func(s *Store)) {
		t.Helper()
		s := open(t, folder)
		f(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var old store.Record
	change(func(s *Store) {
		old = put(t, s, a, 10)
		check(10, map[string]int64{a: 10}) // durable when Commit has returned
		put(t, s, b, 20)
		put(t, s, c, 0)
	})
	check(30, map[string]int64{a: 10, b: 20, c: 0})
	change(func(s *Store) { put(t, s, a, 11, old) })
	check(31, map[string]int64{a: 11, b: 20, c: 0})
	change(func(s *Store) {
		if res, err := s.Compact(t.Context(), store.CompactOptions{}); err != nil || res.Into != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
	})
	check(31, map[string]int64{a: 11, b: 20, c: 0})
	change(func(s *Store) {
		if res, err := s.Prune(t.Context(), time.Date(2016, 3, 25, 0, 0, 0, 0, time.UTC), false); err != nil || res.Rows != 31 {
			t.Fatalf("%+v, %v", res, err)
		}
	})
	check(0, map[string]int64{a: 11, b: 20, c: 0})
}

// TestPowerCutAfterKill checks that a store makes the files durable that
// another process left when it died between their rename and the sync.
func TestPowerCutAfterKill(t *testing.T) {
	const log, day = "2016_03_24_21_37.out", "type=log_udp_complete/probe=p1/date=2016-03-"
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, log, 10)
	s.Close()
	disk := durabletest.Record(t, dir)
	from, to := filepath.Join(dir, day+"24"), filepath.Join(dir, day+"25")
	if err := os.Mkdir(to, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(from, "2016_03_24_21_37.parquet"), filepath.Join(to, "2016_03_24_21_37.parquet")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if rs := lookup(t, s, log); len(rs) != 1 {
		t.Fatalf("records: %+v", rs)
	}
	s.Close()
	if _, err := os.Stat(filepath.Join(disk.Cut(t), day+"25", "2016_03_24_21_37.parquet")); err != nil {
		t.Error(err)
	}
}

// TestRemovedByHand checks that the log of a removed file is imported again.
func TestRemovedByHand(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "2016_03_24_21_37.out", 10)
	s.Close()
	if err := os.RemoveAll(filepath.Join(dir, "type=log_udp_complete")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if rs := lookup(t, s, "2016_03_24_21_37.out"); len(rs) != 0 {
		t.Errorf("%+v", rs)
	}
}

// TestMovedByHand checks that a renamed file keeps its record.
func TestMovedByHand(t *testing.T) {
	const folder = "2016_03_24_21_37.out"
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, folder, 10)
	s.Close()
	at := filepath.Join(dir, "type=log_udp_complete", "probe=p1", "date=2016-03-24")
	if err := os.Rename(filepath.Join(at, "2016_03_24_21_37.parquet"), filepath.Join(at, "renamed.parquet")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if rs := lookup(t, s, folder); len(rs) != 1 || filepath.Base(rs[0].Location) != "renamed.parquet" {
		t.Errorf("%+v", rs)
	}
}

// TestDiedWhileReplacing kills a process that replaces two files with a third,
// after it has renamed the new file over one of them and before it has removed
// the other.
func TestDiedWhileReplacing(t *testing.T) {
	const folder = "2016_03_24_21_37.out"
	dir := t.TempDir()
	s := open(t, dir)
	a, b := put(t, s, folder, 10), put(t, s, folder, 20)
	s.Close()
	at := filepath.Join(dir, "type=log_udp_complete", "probe=p1", "date=2016-03-24")
	second, err := os.ReadFile(filepath.Join(at, "2016_03_24_21_37.2.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, manifest.Dir, "manifest")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	put(t, s, folder, 30, a, b)
	s.Close()
	for p, data := range map[string][]byte{path: before, filepath.Join(at, "2016_03_24_21_37.2.parquet"): second} {
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir)
	defer s.Close()
	if rs := lookup(t, s, folder); len(rs) != 1 || rs[0].Rows != 30 {
		t.Errorf("%+v", rs)
	}
	if n := count(t, dir, "log_udp_complete", "p1"); n != 30 {
		t.Errorf("%d rows", n)
	}
}

// TestOtherKind checks that a folder cannot hold two kinds of stores.
func TestOtherKind(t *testing.T) {
	dir := t.TempDir()
	m, err := manifest.Open(context.Background(), dir, "copy", false)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if _, err := Open(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "belongs to a copy store, not to a parquet store") {
		t.Errorf("got %v", err)
	}
}

// TestForeignFiles checks that files of other programs are not changed.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "type=log_udp_complete", "probe=p1", "date=2016-03-24", "2016_03_24_21_37.parquet")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("not Parquet"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	defer s.Close()
	put(t, s, "2016_03_24_21_37.out", 10)
	if data, err := os.ReadFile(foreign); err != nil || string(data) != "not Parquet" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestNewerFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, manifest.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, manifest.Dir, "manifest"), []byte("tstatrepo manifest 9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "its format is 9, and this version reads formats up to 2") {
		t.Errorf("got %v", err)
	}
}

// TestNewerFooter checks that a store without its manifest is not opened if a file
// has a newer format: its logs would be imported again.
func TestNewerFooter(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "2016_03_24_21_37.out", 10)
	s.Close()
	files, err := filepath.Glob(filepath.Join(dir, "type=*/probe=*/date=*/*.parquet"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	// A value in the footer is its length and its bytes.
	newer := bytes.Replace(text, []byte(formatKey+"\x18\x011"), []byte(formatKey+"\x18\x019"), 1)
	if bytes.Equal(newer, text) {
		t.Fatal("the footer has no format number")
	}
	if err := os.WriteFile(files[0], newer, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, manifest.Dir)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir, Options{})
	if !errors.Is(err, state.ErrNewer) || !strings.Contains(err.Error(), files[0]) {
		t.Errorf("got %v", err)
	}
}

func TestReadOnlyCreatesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(context.Background(), dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if rs := lookup(t, s, "2016_03_24_21_37.out"); len(rs) != 0 {
		t.Errorf("%+v", rs)
	}
	s.Close()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder was made: %v", err)
	}
}

// TestRowGroups checks that the memory limits the row groups, down to a minimum,
// and that rows stay in order regardless of the number of encoding goroutines.
func TestRowGroups(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	dir := t.TempDir()
	s, err := Open(context.Background(), dir, Options{Memory: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const logs, rows = 6, 5000
	t.Run("import", func(t *testing.T) {
		for i := range logs {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				var text strings.Builder
				for n := range rows {
					fmt.Fprintln(&text, "::1", n*logs+i)
				}
				putRows(t, s, fmt.Sprintf("2016_03_24_21_3%d.out", i), text.String(), rows)
			})
		}
	})
	if b := s.buffers; b.open != 0 || b.extra != 0 || len(b.idle) > max(logs, b.maxGroups) {
		t.Errorf("after all files: %d open, %d further row groups, %d idle", b.open, b.extra, len(b.idle))
	}
	paths, err := filepath.Glob(filepath.Join(dir, "type=*", "probe=*", "date=*", "*.parquet"))
	if err != nil || len(paths) != logs {
		t.Fatalf("%v, %v", paths, err)
	}
	for i, path := range paths {
		r, err := file.OpenParquetFile(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if r.NumRowGroups() < 2 || r.NumRows() != rows {
			t.Errorf("%d row groups, %d rows", r.NumRowGroups(), r.NumRows())
		}
		next := int64(i)
		for j := range r.NumRowGroups() {
			rg := r.RowGroup(j)
			cr, err := rg.Column(rg.MetaData().Schema.ColumnIndexByName("c_port"))
			if err != nil {
				t.Fatal(err)
			}
			for in := newInput(); cr.HasNext(); {
				_, n, err := in.read(cr, batchSize)
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range in.ints[:n] {
					if x != next {
						t.Fatalf("%s: %d, want %d", path, x, next)
					}
					next += logs
				}
			}
		}
		if next != rows*logs+int64(i) {
			t.Errorf("%s ends before %d", path, next)
		}
	}
}

// TestBuffers checks that files get extra row groups while fewer files than cores
// are open, and release them when more files are opened. The total memory does
// not depend on the number of cores.
func TestBuffers(t *testing.T) {
	for _, c := range []struct {
		cores, files, most int
		memory             int64 // of a row group
	}{
		{1, 1, 1, 600},
		{2, 1, 2, 300},
		{2, 2, 2, 600},
		{2, 4, 2, 600},
		{16, 1, 3, 200},
		{16, 2, 6, 200},
		{16, 16, 16, 600},
		{16, 6, 16, 225},
	} {
		b := newBuffers(600, c.files, c.cores)
		if b.maxGroups != c.most || b.memory != c.memory {
			t.Errorf("%d cores, %d files: %d row groups of %d bytes, want %d of %d", c.cores, c.files, b.maxGroups, b.memory, c.most, c.memory)
		}
	}
	b := &buffers{maxGroups: 3}
	first := b.begin()
	second, third := b.extraGroup(0), b.extraGroup(1)
	if second == nil || third == nil || b.extraGroup(0) != nil || b.scarce() {
		t.Fatal("not two further row groups")
	}
	b.begin() // of another file
	if !b.scarce() || b.extraGroup(0) != nil {
		t.Error("no row group has to be given back")
	}
	b.release(third)
	if b.scarce() || b.extraGroup(0) != nil {
		t.Error("still scarce")
	}
	b.end(1, []*parquetfile.RowGroup{first, second})
	if g := b.extraGroup(0); g == nil || len(b.idle) != 2 {
		t.Error("the row groups of a file that ended are not used")
	}
	many := &buffers{maxGroups: 16}
	many.begin()
	for extra := range maxParallel - 1 {
		if many.extraGroup(extra) == nil {
			t.Errorf("a file gets no more than %d extra row groups", extra)
		}
	}
	if many.extraGroup(maxParallel-1) != nil {
		t.Errorf("a file gets more than %d row groups", maxParallel)
	}
}
