package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
)

// faults verifies a store opened with ReadOnly, and returns the kind and the folder
// or file of each fault.
func faults(t *testing.T, dir string, deep bool) []string {
	t.Helper()
	s, err := Open(ctx, dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var list []string
	err = s.Verify(ctx, store.VerifyOptions{Deep: deep, Fault: func(f store.Fault) {
		t.Logf("%+v", f)
		name := f.Key.Folder
		if name == "" {
			name = filepath.Base(f.Path)
		}
		list = append(list, f.Kind+" "+name)
	}})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// damagePage overwrites the first page of a file, and leaves its size and time.
// It returns a function that restores the file.
func damagePage(t *testing.T, path string) (restore func()) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, data, 0o644), os.Chtimes(path, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	damaged := bytes.Clone(old)
	copy(damaged[len(magic):], bytes.Repeat([]byte{0xff}, 60))
	write(damaged)
	return func() { write(old) }
}

const march1 = "type=log_udp_complete/probe=p1/date=2016-03-01"

// TestVerify checks that Verify finds each kind of fault, and no others.
func TestVerify(t *testing.T) {
	const a, b, c = "2016_03_01_00_00.out", "2016_03_01_01_00.out", "2016_03_01_02_00.out"
	base := t.TempDir()
	s := open(t, base)
	for i, folder := range []string{a, b, c} {
		putText(t, s, folder, text(10+i, folder))
	}
	s.Close()
	small, err := os.ReadFile(filepath.Join(base, march1, "2016_03_01_00_00.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	change := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { damagePage(t, filepath.Join(dir, name)) }
	}
	lines, err := os.ReadFile(filepath.Join(base, manifest.Dir, "manifest"))
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.SplitAfter(lines, []byte("\n"))
	for name, test := range map[string]struct {
		harm func(*testing.T, string)
		want []string
		deep []string // additional faults with Deep
	}{
		"nothing":         {func(*testing.T, string) {}, nil, nil},
		"the rows twice":  {write(march1+"/again.parquet", small), []string{"doubled " + a}, nil},
		"no line of it":   {write(manifest.Dir+"/manifest", bytes.Join(slices.Concat(first[:1], first[2:]), nil)), []string{"unrecorded " + a}, nil},
		"a damaged line":  {write(manifest.Dir+"/manifest", bytes.Replace(lines, []byte(`"rows":10`), []byte(`"rows":19`), 1)), []string{"unrecorded " + a, "unrecorded manifest"}, nil},
		"a cut file":      {write(march1+"/2016_03_01_01_00.parquet", small[:len(small)-9]), []string{"unreadable 2016_03_01_01_00.parquet"}, nil},
		"rubbish":         {write(march1+"/x.parquet", []byte("rubbish")), []string{"unreadable x.parquet"}, nil},
		"a readme":        {write(march1+"/README", nil), []string{"foreign README"}, nil},
		"beside the days": {write("type=log_udp_complete/x.parquet", small), []string{"foreign x.parquet"}, nil},
		"at the top":      {write("x.parquet", small), []string{"foreign x.parquet"}, nil},
		"as deep":         {write("type=log_udp_complete/backup/2024/x.parquet", small), []string{"foreign x.parquet"}, nil},
		"hidden":          {write(march1+"/.nfs1", nil), nil, nil},
		"of someone else": {write(march1+"/x.parquet", bytes.ReplaceAll(small, []byte(RecordsKey), []byte("somebodys.recordz"))), []string{"foreign x.parquet"}, nil},
		"a damaged page":  {change(march1 + "/2016_03_01_02_00.parquet"), nil, []string{"damaged 2016_03_01_02_00.parquet"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			copyStore(t, base, dir)
			test.harm(t, dir)
			if got := faults(t, dir, false); !slices.Equal(got, test.want) {
				t.Errorf("found %q, want %q", got, test.want)
			}
			want := slices.Sorted(slices.Values(append(slices.Clone(test.want), test.deep...)))
			if got := faults(t, dir, true); !slices.Equal(got, want) {
				t.Errorf("deep: found %q, want %q", got, want)
			}
		})
	}
}

// TestVerifyCR checks that Verify with Deep finds the log with texts that end in
// CR.
func TestVerifyCR(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	putText(t, s, "2016_03_01_00_00.out", text(9000, "a"))
	putText(t, s, "2016_03_01_01_00.out", strings.ReplaceAll(text(7, "b"), "b.1.example\n", "b.1.example\r\r\n"))
	putText(t, s, "2016_03_01_02_00.out", text(10, "c"))
	compact(t, s)
	s.Close()
	if got, want := faults(t, dir, true), []string{"cr 2016_03_01_01_00.out"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if got := faults(t, dir, false); len(got) > 0 {
		t.Errorf("found %q", got)
	}
}

// TestVerifyHostile checks that footers that contradict the rows do not stop
// Verify.
func TestVerifyHostile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	putText(t, s, "2016_03_01_01_00.out", strings.ReplaceAll(text(7, "b"), "b.1.example\n", "b.1.example\r\r\n"))
	s.Close()
	path := filepath.Join(dir, march1, "2016_03_01_01_00.parquet")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	footer := bytes.NewBuffer(bytes.Clone(data[:len(data)-8-int(binary.LittleEndian.Uint32(data[len(data)-8:]))]))
	r.MetaData().NumRows = 0
	n, err := r.MetaData().WriteTo(footer, nil)
	if err != nil {
		t.Fatal(err)
	}
	footer.Write(binary.LittleEndian.AppendUint32(nil, uint32(n)))
	footer.WriteString(magic)
	records := *r.MetaData().KeyValueMetadata().FindValue(RecordsKey)
	for _, test := range []struct {
		data []byte
		want []string
	}{
		{footer.Bytes(), []string{"cr 2016_03_01_01_00.out"}},
		{bytes.Replace(data, []byte(records), []byte("["+strings.Repeat(" ", len(records)-2)+"]"), 1), []string{"foreign 2016_03_01_01_00.parquet"}},
	} {
		if err := os.WriteFile(path, test.data, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := faults(t, dir, true); !slices.Equal(got, test.want) {
			t.Errorf("found %q, want %q", got, test.want)
		}
	}
}

// TestRepair checks that Repair leaves one copy of rows that are in two files, as
// a compaction of an old version could leave them.
func TestRepair(t *testing.T) {
	dir := t.TempDir()
	s := open2(t, dir)
	folders := []string{"2016_03_01_00_00.out", "2016_03_01_01_00.out", "2016_03_01_02_00.out"}
	for i, folder := range folders {
		putText(t, s, folder, text(10+i, folder))
	}
	want := rows(t, dir)
	old := t.TempDir()
	copyStore(t, dir, old)
	compact(t, s)
	s.Close()
	// Two of the three logs were imported again, and the manifest has them there.
	for _, name := range []string{"2016_03_01_00_00.parquet", "2016_03_01_02_00.parquet"} {
		if err := os.Rename(filepath.Join(old, march1, name), filepath.Join(dir, march1, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, manifest.Dir, "manifest")); err != nil {
		t.Fatal(err)
	}
	reader, err := Open(ctx, dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if res, err := reader.Repair(ctx, true); err != nil || res != (store.RepairResult{Logs: 2, Rows: 22}) {
		t.Errorf("dry run: %+v, %v", res, err)
	}
	if _, err := os.Stat(filepath.Join(dir, manifest.Dir, "manifest")); err == nil {
		t.Error("a dry run wrote the manifest")
	}
	s = open2(t, dir)
	doubled := []string{"doubled " + folders[0], "doubled " + folders[2]}
	for range 2 { // opening the store changes nothing
		if got := faults(t, dir, true); !slices.Equal(got, doubled) {
			t.Errorf("found %q, want %q", got, doubled)
		}
		s.Close()
		s = open2(t, dir)
	}
	dry, err := s.Repair(ctx, true)
	if err != nil || total(rows(t, dir)) == total(want) {
		t.Errorf("a dry run changed the store, %v", err)
	}
	res, err := s.Repair(ctx, false)
	if err != nil || res != dry || res != (store.RepairResult{Logs: 2, Rows: 22}) {
		t.Errorf("%+v, %+v beforehand, %v", res, dry, err)
	}
	if got := rows(t, dir); !maps.Equal(got, want) {
		t.Errorf("%d rows, want %d", total(got), total(want))
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("found %q after the repair", got)
	}
	if again, err := s.Repair(ctx, false); err != nil || again != (store.RepairResult{}) {
		t.Errorf("the second time: %+v, %v", again, err)
	}
}

// TestReplaceDoubled checks that a log whose rows are in two files is replaced in
// both.
func TestReplaceDoubled(t *testing.T) {
	const folder = "2016_03_01_00_00.out"
	dir := t.TempDir()
	s := open(t, dir)
	rec := putText(t, s, folder, text(10, "a"))
	s.Close()
	data, err := os.ReadFile(filepath.Join(dir, march1, "2016_03_01_00_00.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, march1, "again.parquet"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	putText(t, s, folder, text(12, "a"), rec)
	s.Close()
	open(t, dir).Close()
	if n := count(t, dir, "log_udp_complete", "p1"); n != 12 {
		t.Errorf("%d rows, want 12", n)
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("found %q", got)
	}
}

// TestCompactBesideDoubled checks that a file with doubled rows is not merged, that
// the other files of its day are, and that the reason is logged.
func TestCompactBesideDoubled(t *testing.T) {
	dir := t.TempDir()
	s := open2(t, dir)
	names := []string{"2016_03_01_00_00", "2016_03_01_01_00", "2016_03_01_02_00", "2016_03_01_03_00"}
	for _, name := range names[:2] {
		putText(t, s, name+".out", text(10, name))
	}
	s.Close()
	old := t.TempDir()
	copyStore(t, dir, old)
	s = open2(t, dir)
	compact(t, s)
	s.Close()
	for _, name := range []string{march1 + "/2016_03_01_01_00.parquet", manifest.Dir + "/manifest"} {
		if err := os.Rename(filepath.Join(old, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	s, err := Open(ctx, dir, Options{Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range names[2:] {
		putText(t, s, name+".out", text(10, name))
	}
	if res := compact(t, s); res.Days != 1 || res.Files != 3 || res.Failed != 0 {
		t.Errorf("%+v", res)
	}
	if !strings.Contains(out.String(), "file not compacted: it has rows that are stored twice") {
		t.Errorf("the log: %s", &out)
	}
	if n := total(rows(t, dir)); n != 50 {
		t.Errorf("%d rows, want 50", n)
	}
}

// TestGrownBesideDoubled replaces a log in a file that also has rows of a log whose
// entry names another file. The rows of that log are stored once afterwards.
func TestGrownBesideDoubled(t *testing.T) {
	const a, b = "2016_03_01_00_00.out", "2016_03_01_01_00.out"
	dir := t.TempDir()
	s := open2(t, dir)
	rec := putText(t, s, a, text(10, a))
	putText(t, s, b, text(11, b))
	s.Close()
	old := t.TempDir()
	copyStore(t, dir, old)
	s = open2(t, dir)
	compact(t, s)
	s.Close()
	for _, name := range []string{march1 + "/2016_03_01_01_00.parquet", manifest.Dir + "/manifest"} {
		if err := os.Rename(filepath.Join(old, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := faults(t, dir, false), []string{"doubled " + b, "unrecorded " + a}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	s = open2(t, dir)
	putText(t, s, a, text(12, a), rec)
	if n := total(rows(t, dir)); n != 12+11 {
		t.Errorf("%d rows, want 23", n)
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("found %q", got)
	}
	if res, err := s.Repair(ctx, false); err != nil || res != (store.RepairResult{}) {
		t.Errorf("repair: %+v, %v", res, err)
	}
}

// TestReplacedStays replaces a log whose rows cannot be removed from a file that it
// shares with other logs. They are removed as soon as possible, even if the log
// has grown meanwhile.
func TestReplacedStays(t *testing.T) {
	const a, b = "2016_03_01_00_00.out", "2016_03_01_01_00.out"
	dir := t.TempDir()
	s := open2(t, dir)
	first := putText(t, s, a, "#c_ip:1 c_port:2 Novel:3\n::1 5 x\n") // is not compacted: it has a column more
	second := putText(t, s, a, text(3, "second"))
	putText(t, s, b, text(4, b))
	compact(t, s)
	at := ""
	for _, r := range lookup(t, s, a) {
		if r.Same(second) {
			at = r.Location
		}
	}
	restore := damagePage(t, filepath.Join(dir, at))
	third, err := tryText(s, a, text(10, "third"), first, second)
	if err == nil {
		t.Error("no error")
	}
	putText(t, s, a, text(12, "third"), third)
	s.Close()
	open(t, dir).Close()
	if got, want := faults(t, dir, false), []string{"unrecorded " + a}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	restore()
	s = open2(t, dir)
	if n := total(rows(t, dir)); n != 12+4 {
		t.Errorf("%d rows, want 16", n)
	}
	if rs := lookup(t, s, a); len(rs) != 1 || rs[0].Rows != 12 {
		t.Errorf("records: %+v", rs)
	}
	if got := faults(t, dir, true); len(got) > 0 {
		t.Errorf("found %q", got)
	}
}

// TestUnreadable checks that a manifest is not rebuilt while a file of the store
// cannot be read: its logs would be imported again.
func TestUnreadable(t *testing.T) {
	const a = "2016_03_01_00_00.out"
	dir := t.TempDir()
	s := open(t, dir)
	rec := putText(t, s, a, text(10, a))
	s.Close()
	path := filepath.Join(dir, march1, "2016_03_01_00_00.parquet")
	err := errors.Join(os.Remove(filepath.Join(dir, manifest.Dir, "manifest")), os.Rename(path, path+".away"),
		syscall.Mknod(path, syscall.S_IFSOCK|0o644, 0)) // fails to open, for every user
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Open(ctx, dir, Options{}); err == nil {
		s.Close()
		t.Error("opened")
	}
	if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if rs := lookup(t, s, a); len(rs) != 1 || !rs[0].Same(rec) {
		t.Errorf("records: %+v", rs)
	}
}
