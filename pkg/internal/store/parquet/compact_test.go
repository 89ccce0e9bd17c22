package parquet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// putText stores a text as the log of a folder.
func putText(t testing.TB, s *Store, folder, text string, replace ...store.Record) store.Record {
	t.Helper()
	rec, err := tryText(s, folder, text, replace...)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func tryText(s *Store, folder, text string, replace ...store.Record) (store.Record, error) {
	return tryColumns(s, folder, text, func([]tstat.Column) {}, replace...)
}

// tryColumns is tryText for a file whose columns have other names.
func tryColumns(s *Store, folder, text string, rename func([]tstat.Column), replace ...store.Record) (store.Record, error) {
	ctx := context.Background()
	typ := tstat.TypeByName("log_udp_complete")
	ft, err := tstat.ParseFolder(folder, time.UTC)
	if err != nil {
		return store.Record{}, err
	}
	key := store.Key{Probe: "p1", Folder: folder, File: typ.Name}
	r := tstat.NewReader(strings.NewReader(text), typ, tstat.ReaderOptions{})
	b, err := r.Next()
	columns := slices.Clone(r.Columns())
	rename(columns)
	tx, berr := s.Begin(ctx, store.FileInfo{Key: key, Type: typ, Time: ft.Time, Columns: columns})
	if berr != nil {
		return store.Record{}, berr
	}
	defer tx.Abort()
	for ; err == nil; b, err = r.Next() {
		if err := tx.Write(ctx, b); err != nil {
			return store.Record{}, err
		}
	}
	rec := store.Record{Key: key, Type: typ.Name, Time: ft.Time, Rows: r.Counts().Rows, Imported: time.Now()}
	rec.SHA256, rec.Length = r.Fingerprint()
	known, err := s.Lookup(ctx, []store.Key{key})
	if err != nil {
		return rec, err
	}
	return rec, tx.Commit(ctx, rec, known, replace)
}

// text returns a log of n rows, in which some values are missing.
func text(n int, name string) string {
	var b strings.Builder
	b.WriteString("#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_isint:5 fqdn:6\n")
	for i := range n {
		fqdn := fmt.Sprintf("%s.%d.example", name, i%700)
		if i%3 == 0 {
			fqdn = "-"
		}
		fmt.Fprintf(&b, "10.0.%d.1 %d 1458855462170.811035 %d.5 %d %s\n", i%5, i%60000, i, i%2, fqdn)
	}
	return b.String()
}

// rows returns how often each row is in the dataset, in any file.
func rows(t testing.TB, dir string) map[string]int {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "type=*", "probe=*", "date=*", "*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for _, p := range paths {
		r, err := file.OpenParquetFile(p, false)
		if err != nil {
			t.Fatal(err)
		}
		for g := range r.NumRowGroups() {
			rg := r.RowGroup(g)
			lines := make([]strings.Builder, rg.NumRows())
			for c := range rg.NumColumns() {
				cr, err := rg.Column(c)
				if err != nil {
					t.Fatal(err)
				}
				name := r.MetaData().Schema.Column(c).Name()
				for row, value := range values(t, cr, int(rg.NumRows())) {
					if value != "" { // a column that another file lacks is NULL
						lines[row].WriteString(" " + name + "=" + value)
					}
				}
			}
			for i := range lines {
				all[lines[i].String()]++
			}
		}
		r.Close()
	}
	return all
}

// values returns the values of a column chunk as text, "" for NULL.
func values(t testing.TB, cr file.ColumnChunkReader, n int) []string {
	t.Helper()
	def := make([]int16, n)
	texts := make([]string, 0, n)
	read := 0
	var err error
	switch cr := cr.(type) {
	case *file.Int64ColumnChunkReader:
		texts, read, err = valuesOf(n, def, cr.ReadBatch)
	case *file.Float64ColumnChunkReader:
		texts, read, err = valuesOf(n, def, cr.ReadBatch)
	case *file.BooleanColumnChunkReader:
		texts, read, err = valuesOf(n, def, cr.ReadBatch)
	case *file.ByteArrayColumnChunkReader:
		texts, read, err = valuesOf(n, def, cr.ReadBatch)
	}
	if err != nil || read != n {
		t.Fatalf("%d of %d rows: %v", read, n, err)
	}
	all := make([]string, n)
	for i, d := range def {
		if d == 1 {
			all[i], texts = texts[0], texts[1:]
		}
	}
	return all
}

func valuesOf[T any](n int, def []int16, read func(int64, []T, []int16, []int16) (int64, int, error)) (texts []string, rows int, err error) {
	buf := make([]T, n)
	for rows < n {
		got, values, err := read(int64(n-rows), buf, def[rows:], nil)
		if err != nil || got == 0 {
			return nil, rows, err
		}
		for _, v := range buf[:values] {
			texts = append(texts, fmt.Sprint(v))
		}
		rows += int(got)
	}
	return texts, rows, nil
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "type=*", "probe=*", "date=*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func compact(t testing.TB, s *Store) store.CompactResult {
	t.Helper()
	res, err := s.Compact(context.Background(), store.CompactOptions{Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// filled creates a store of two days with small and large files, and a file with
// additional columns.
func filled(t testing.TB) (*Store, map[string]store.Record) {
	t.Helper()
	s := open2(t, t.TempDir())
	records := map[string]store.Record{}
	for day := 1; day <= 2; day++ {
		for i, n := range []int{10, 9000, 8500, 1, 20, 20000, 0, 300, 12} {
			folder := fmt.Sprintf("2016_03_%02d_%02d_00.out", day, i)
			records[folder] = putText(t, s, folder, text(n, folder))
		}
	}
	folder := "2016_03_01_20_00.out"
	records[folder] = putText(t, s, folder, "#c_ip:1 c_port:2 Novel:3\n::1 5 x\n::1 6 y\n")
	return s, records
}

func open2(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, Options{Memory: 10 << 20}) // row groups of 9,000 rows
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// holds checks that the store has the records and their rows.
func holds(t testing.TB, s *Store, records map[string]store.Record) {
	t.Helper()
	var list []store.Record
	err := s.Records(context.Background(), func(r store.Record) error {
		list = append(list, r)
		if want := records[r.Folder]; want.SHA256 != r.SHA256 || want.Rows != r.Rows {
			t.Errorf("record %+v, want %+v", r, want)
		}
		return nil
	})
	if err != nil || len(list) != len(records) {
		t.Errorf("%d records, want %d, %v", len(list), len(records), err)
	}
	counts, err := s.Count(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range list {
		if counts[i] != r.Rows {
			t.Errorf("%s has %d rows, want %d", r.Folder, counts[i], r.Rows)
		}
	}
}

func TestCompact(t *testing.T) {
	s, records := filled(t)
	foreign := filepath.Join(s.dir, "type=log_udp_complete", "probe=p1", "date=2016-03-02", "README")
	if err := os.WriteFile(foreign, []byte("not ours"), 0o640); err != nil {
		t.Fatal(err)
	}
	before := rows(t, s.dir)
	dry, err := s.Compact(context.Background(), store.CompactOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if late, err := s.Compact(context.Background(), store.CompactOptions{ClosedAfter: time.Hour}); err != nil || late.Files != 0 {
		t.Errorf("files that are new were compacted: %+v, %v", late, err)
	}
	res := compact(t, s)
	// The file with an additional column is not merged.
	if res.Days != 2 || res.Files != 16 || res.Into != 2 || res.Rows != 2*37843 || dry != res {
		t.Errorf("%+v, said %+v", res, dry)
	}
	if got := files(t, s.dir); len(got) != 4 {
		t.Errorf("%d files: %v", len(got), got)
	}
	if data, err := os.ReadFile(foreign); err != nil || string(data) != "not ours" {
		t.Errorf("%q, %v", data, err)
	}
	for range 2 {
		if !maps.Equal(rows(t, s.dir), before) {
			t.Fatal("the rows are not the same")
		}
		holds(t, s, records)
		if err := os.Remove(filepath.Join(s.dir, manifest.Dir, "manifest")); err != nil {
			t.Fatal(err)
		}
		s = open2(t, s.dir) // the footers have the records of all logs with rows
		for folder, r := range records {
			if r.Rows == 0 {
				delete(records, folder)
			}
		}
	}
	times := func() (list []string) {
		for _, f := range files(t, s.dir) {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, f+info.ModTime().String())
		}
		return list
	}
	was := times()
	if res := compact(t, s); res != (store.CompactResult{Whole: 2}) || !slices.Equal(was, times()) {
		t.Errorf("again: %+v", res)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, manifest.Dir, "*", "*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	// Small row groups became one, large ones were copied.
	r, err := file.OpenParquetFile(files(t, s.dir)[0], false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := r.NumRowGroups(); n < 5 || n > 9 {
		t.Errorf("%d row groups", n)
	}
}

// TestCompactedGrows replaces one of many logs in a merged file.
func TestCompactedGrows(t *testing.T) {
	s, records := filled(t)
	compact(t, s)
	for folder, grown := range map[string]string{
		"2016_03_01_03_00.out": text(15, "grown"),
		"2016_03_01_05_00.out": text(20001, "2016_03_01_05_00.out"),
		"2016_03_01_00_00.out": "#c_ip:1 c_port:2 Novel:3\n::1 5 x\n", // a column that the large file lacks
		"2016_03_01_07_00.out": "",
	} {
		want := rows(t, s.dir)
		count := func(text string, sign int) {
			other := open2(t, t.TempDir())
			putText(t, other, folder, text)
			for row, n := range rows(t, other.dir) {
				if want[row] += sign * n; want[row] == 0 {
					delete(want, row)
				}
			}
		}
		old := records[folder]
		count(text(int(old.Rows), folder), -1)
		count(grown, 1)
		records[folder] = putText(t, s, folder, grown, old)
		if !maps.Equal(rows(t, s.dir), want) {
			t.Fatalf("%s: the rows are not the same", folder)
		}
		holds(t, s, records)
		holds(t, open2(t, s.dir), records)
		if got := files(t, s.dir); len(got) != 3 {
			t.Errorf("%d files: %v", len(got), got)
		}
	}
	if err := os.Remove(filepath.Join(s.dir, manifest.Dir, "manifest")); err != nil {
		t.Fatal(err)
	}
	again := open2(t, s.dir)
	delete(records, "2016_03_01_07_00.out") // without rows, and so without a file
	delete(records, "2016_03_01_06_00.out")
	delete(records, "2016_03_02_06_00.out")
	holds(t, again, records)
}

// TestCompactedOtherType replaces a log although one of its columns has another
// type in the merged file.
func TestCompactedOtherType(t *testing.T) {
	const a, b = "2016_03_01_00_00.out", "2016_03_01_01_00.out"
	s := open2(t, t.TempDir())
	records := map[string]store.Record{}
	for _, folder := range []string{a, b} {
		rec, err := tryColumns(s, folder, "#c_ip:1 c_port:2 Novel:3\n10.0.0.1 2 1.5\n", func(columns []tstat.Column) {
			i := slices.IndexFunc(columns, func(c tstat.Column) bool { return c.Name == "Novel" })
			j := slices.IndexFunc(columns, func(c tstat.Column) bool { return c.Name == "c_durat" })
			columns[i].Name, columns[j].Name = "c_durat", "Novel"
		})
		if err != nil {
			t.Fatal(err)
		}
		records[folder] = rec
	}
	compact(t, s)
	records[a] = putText(t, s, a, "#c_ip:1 c_port:2 c_durat:3\n10.0.0.1 2 1.5\n10.0.0.1 3 2.5\n", records[a])
	for range 2 {
		if n := total(rows(t, s.dir)); n != 3 {
			t.Errorf("%d rows, want 3", n)
		}
		holds(t, s, records)
		if got := faults(t, s.dir, true); len(got) > 0 {
			t.Errorf("found %q", got)
		}
		s = open2(t, s.dir)
	}
}

// TestCompactedName checks that a second text of a compacted log does not get the
// name of the first one, which a reader may have listed.
func TestCompactedName(t *testing.T) {
	s, _ := filled(t)
	first := "2016_03_01_00_00"
	old := filepath.Join(s.dir, "type=log_udp_complete", "probe=p1", "date=2016-03-01", first+".parquet")
	if _, err := os.Stat(old); err != nil {
		t.Fatal(err)
	}
	compact(t, s)
	putText(t, s, first+".out", text(5, "another"))
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the name is used again: %v", err)
	}
	if _, err := os.Stat(strings.TrimSuffix(old, ".parquet") + ".2.parquet"); err != nil {
		t.Error(err)
	}
	if n := total(rows(t, s.dir)); n != 2*37843+2+5 {
		t.Errorf("%d rows", n)
	}
}

// TestCompactDied kills a process after it has exchanged the folders and before it
// has updated the manifest, while another process has the store open.
func TestCompactDied(t *testing.T) {
	for _, name := range []string{"reopened", "replaced", "pruned", "compacted"} {
		t.Run(name, func(t *testing.T) {
			s, records := filled(t)
			before := rows(t, s.dir)
			path := filepath.Join(s.dir, manifest.Dir, "manifest")
			old, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			killed := open2(t, s.dir)
			compact(t, killed)
			if err := os.Truncate(path, old.Size()); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "reopened":
				s = open2(t, s.dir)
			case "replaced":
				folder := "2016_03_02_00_00.out"
				records[folder] = putText(t, s, folder, text(11, "x"), records[folder])
				if n := total(rows(t, s.dir)); n != 2*37843+2+1 {
					t.Errorf("%d rows", n)
				}
				holds(t, s, records)
				return
			case "pruned":
				res, err := s.Prune(context.Background(), time.Date(2016, 3, 2, 0, 0, 0, 0, time.UTC), false)
				if err != nil || res.Rows != 37845 || total(rows(t, s.dir)) != 37843 {
					t.Errorf("%+v, %v", res, err)
				}
				return
			case "compacted":
				compact(t, s)
			}
			if !maps.Equal(rows(t, s.dir), before) {
				t.Error("the rows are not the same")
			}
			holds(t, s, records)
		})
	}
}

func total(rows map[string]int) int {
	n := 0
	for _, c := range rows {
		n += c
	}
	return n
}

// TestCompactFails checks an error after the exchange of the folders. A file that
// was created in the old folder just before is kept. The old folder is kept too,
// because a power cut may undo the exchange.
func TestCompactFails(t *testing.T) {
	s, _ := filled(t)
	day := filepath.Join(s.dir, "type=log_udp_complete", "probe=p1", "date=2016-03-01")
	late := filepath.Join(day, "late.parquet")
	real := exchange
	t.Cleanup(func() { exchange = real })
	exchange = func(a, b string) error {
		if b != day {
			return real(a, b)
		}
		if err := errors.Join(os.WriteFile(late, nil, 0o644), real(a, b)); err != nil {
			return err
		}
		made, err := filepath.Glob(filepath.Join(day, "2016-03-01.*.parquet"))
		if err != nil || len(made) != 1 {
			t.Errorf("made %v, %v", made, err)
		}
		return os.Rename(made[0], made[0]+".away")
	}
	res, err := s.Compact(context.Background(), store.CompactOptions{})
	if err != nil || res.Days != 1 || res.Failed != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := os.Stat(late); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, manifest.Dir, compactDir, "*", "2016_03_01_00_00.parquet")); len(left) != 1 {
		t.Errorf("left of the old folder: %v", left)
	}
}

// TestCompactLocked checks that a concurrent compaction fails.
func TestCompactLocked(t *testing.T) {
	s, _ := filled(t)
	unlock, err := s.lockCompact()
	if err != nil {
		t.Fatal(err)
	}
	other := open2(t, s.dir) // does not need the lock
	if _, err := other.Compact(context.Background(), store.CompactOptions{}); !errors.Is(err, state.ErrLocked) {
		t.Error(err)
	}
	unlock()
	compact(t, other)
}

// TestCompactWhileImporting checks that a concurrent compaction and import lose no
// rows.
func TestCompactWhileImporting(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	records := make([]map[string]store.Record, 2)
	for w := range records {
		s := open2(t, dir)
		records[w] = map[string]store.Record{}
		wg.Go(func() {
			for i := range 40 {
				folder := fmt.Sprintf("2016_03_01_%02d_%02d.out", i%20, w)
				var old []store.Record
				if r, ok := records[w][folder]; ok { // grown
					old = append(old, r)
				}
				rec, err := tryText(s, folder, text(i+1, folder), old...)
				if err != nil {
					t.Errorf("%s: %v", folder, err)
				}
				records[w][folder] = rec
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	s := open2(t, dir)
	compacted := int64(0)
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		default:
		}
		res, err := s.Compact(context.Background(), store.CompactOptions{})
		if err != nil {
			t.Fatal(err)
		}
		compacted += res.Days
	}
	all := map[string]store.Record{}
	want := 0
	for _, m := range records {
		maps.Copy(all, m)
		for _, r := range m {
			want += int(r.Rows)
		}
	}
	if n := total(rows(t, dir)); n != want || compacted == 0 {
		t.Errorf("%d rows, want %d; compacted %d times", n, want, compacted)
	}
	holds(t, s, all)
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("files: %v", slices.Sorted(slices.Values(got)))
	}
}

// BenchmarkCompactShort merges logs that are so short that their rows must be
// encoded again.
func BenchmarkCompactShort(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s := open2(b, b.TempDir())
		for i := range 40 {
			folder := fmt.Sprintf("2016_03_01_%02d_%02d.out", i/2, i%2)
			putText(b, s, folder, text(600, folder))
		}
		b.StartTimer()
		b.SetBytes(compact(b, s).Bytes)
	}
}
