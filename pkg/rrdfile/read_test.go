//go:build linux

// The tests compare the values with the output of rrdtool. With the tag librrd, they
// also compare each value with the result of librrd, which is the reference.
package rrdfile_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

var soak = flag.Bool("soak", false, "run the long versions of tests")

// newReader returns a reader that compares both decoders, if librrd is built in.
func newReader(t testing.TB) *rrdfile.Reader {
	t.Helper()
	r, err := rrdfile.NewReaderOf(rrdfile.Both)
	if errors.Is(err, rrdfile.ErrNoLibrrd) {
		r, err = rrdfile.NewReader(), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// equal reports whether rrdtool prints v, with 10 digits, as printed.
func equal(v, printed float64) bool {
	rounded, _ := strconv.ParseFloat(fmt.Sprintf("%.10e", v), 64)
	return rounded == printed
}

// check compares the points from a reader with the output of rrdtool fetch, and returns
// the number of points.
func check(t *testing.T, tool *rrdtest.Tool, r *rrdfile.Reader, file string, after int64) int {
	t.Helper()
	got, err := r.Read(file, after)
	if err != nil {
		t.Fatal(err)
	}
	want := tool.Points(file, after)
	if len(want) != len(got.Series) {
		t.Fatalf("%s: %d sources, want %d", file, len(got.Series), len(want))
	}
	n := 0
	for ds, s := range got.Series {
		last := after
		for _, p := range s.Points {
			if p.Time <= last {
				t.Fatalf("%s: time %d after %d", file, p.Time, last)
			}
			last = p.Time
			if v, ok := want[ds][p.Time]; !ok || !equal(p.Value, v) {
				t.Fatalf("%s: %v at %d, want %v (%v)", file, p.Value, p.Time, v, ok)
			}
		}
		if len(s.Points) != len(want[ds]) {
			t.Fatalf("%s: %d points, want %d", file, len(s.Points), len(want[ds]))
		}
		n += len(s.Points)
	}
	return n
}

func TestReadSamples(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	dir := rrdtest.Samples(t)
	files, full, points := 0, 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".rrd") {
			return err
		}
		files++
		n := check(t, tool, r, path, 0)
		points += n
		if n > 0 {
			full++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files != 205 || full < 196 {
		t.Errorf("%d files, %d with points", files, full)
	}
	t.Logf("%d files, %d points", files, points)
}

// history creates a database with two sources, more archives than Tstat's, gaps, and a
// time span that only the coarse archives cover. It returns the time of the last
// update.
func history(t *testing.T, tool *rrdtest.Tool, file string) int64 {
	const begin = 1_700_000_100
	tool.Do("create %s --start %d --step 300 DS:up:GAUGE:600:U:U DS:down:GAUGE:600:U:U "+
		"RRA:AVERAGE:0.5:1:60 RRA:MIN:0.5:1:60 RRA:AVERAGE:0.5:6:70 RRA:MAX:0.5:24:77 RRA:AVERAGE:0.5:24:77 RRA:AVERAGE:0.5:288:80", file, begin)
	random := rand.New(rand.NewPCG(1, 2))
	at := int64(begin)
	for at < begin+30*86400 {
		var updates []string
		for range 200 {
			at += 100 + random.Int64N(350)
			if random.IntN(100) == 0 {
				at += random.Int64N(20000) // a gap
			}
			value := "U"
			if random.IntN(10) > 0 {
				value = strconv.FormatFloat(random.ExpFloat64()*1e-5, 'g', -1, 64)
			}
			updates = append(updates, fmt.Sprintf("%d:%s:%d", at, value, random.IntN(1e9)))
		}
		tool.Do("update %s %s", file, strings.Join(updates, " "))
	}
	return at
}

func TestReadHistory(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	file := filepath.Join(t.TempDir(), "x.rrd")
	last := history(t, tool, file)
	for _, age := range []int64{math.MaxInt32, 40 * 86400, 6 * 86400, 100_000, 40_000, 30_000, 18_000, 1_000, 600, 300, 0} {
		n := check(t, tool, r, file, last-age)
		t.Logf("%d s back: %d points", age, n)
		if age > 100_000 && n == 0 {
			t.Error("no points")
		}
	}
}

// layouts are databases unlike Tstat's: the step, and further arguments of rrdtool
// create.
var layouts = []struct {
	name  string
	step  int64
	parts string
}{
	{"seconds", 1, "DS:x:GAUGE:10:U:U RRA:AVERAGE:0.5:1:100 RRA:AVERAGE:0.5:60:50"},
	{"minutes", 60, "DS:x:GAUGE:120:U:U RRA:AVERAGE:0.5:1:600 RRA:AVERAGE:0.5:6:700 RRA:MAX:0.5:6:700"},
	{"odd step", 7, "DS:x:GAUGE:30:U:U RRA:AVERAGE:0.5:1:13 RRA:AVERAGE:0.5:3:17 RRA:AVERAGE:0.5:11:19"},
	{"days", 86400, "DS:x:GAUGE:200000:U:U RRA:AVERAGE:0:1:400"},
	{"last", 300, "DS:x:GAUGE:600:U:U RRA:LAST:0.5:1:50 RRA:LAST:0.5:6:50 RRA:MIN:0.5:1:50"},
	{"maximum", 300, "DS:x:GAUGE:600:U:U RRA:MAX:0.5:1:50 RRA:MIN:0.5:1:99 RRA:MAX:0.5:6:50"},
	{"minimum", 300, "DS:x:GAUGE:600:U:U RRA:MIN:0.5:2:50 RRA:MIN:0.5:6:50"},
	{"coarse first", 300, "DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:24:77 RRA:AVERAGE:0.5:6:70 RRA:AVERAGE:0.5:1:60"},
	{"no fine archive", 300, "DS:x:GAUGE:600:U:U RRA:AVERAGE:0.9:12:60 RRA:AVERAGE:0.1:36:60"},
	{"one row", 300, "DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:1 RRA:AVERAGE:0.5:6:2"},
	{"kinds of sources", 300, "DS:a:COUNTER:600:0:U DS:b:DERIVE:600:U:U DS:c:ABSOLUTE:600:U:U DS:d:GAUGE:600:0:500000000 DS:e:DCOUNTER:600:U:U " +
		"RRA:AVERAGE:0.5:1:100 RRA:AVERAGE:0.5:6:100"},
	{"computed", 300, "DS:a:GAUGE:600:U:U DS:b:COMPUTE:a,2,* RRA:AVERAGE:0.5:1:100"},
	{"forecast", 300, "DS:a:GAUGE:600:U:U RRA:AVERAGE:0.5:1:60 RRA:HWPREDICT:288:0.1:0.0035:48 RRA:AVERAGE:0.5:6:60"},
	{"many sources", 300, manySources(40) + "RRA:AVERAGE:0.5:1:30 RRA:AVERAGE:0.5:6:30"},
}

func manySources(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "DS:source_number_%d:GAUGE:600:U:U ", i)
	}
	return b.String()
}

// create creates a database of a layout. Its archives have wrapped around, and its data
// has gaps and values of all sizes. create returns the time of the last update.
func create(tool *rrdtest.Tool, file string, step int64, parts string) int64 {
	begin := 1_700_000_100 / step * step
	tool.Do("create %s --start %d --step %d %s", file, begin, step, parts)
	random := rand.New(rand.NewPCG(3, uint64(step)))
	sources := strings.Count(parts, "DS:") - strings.Count(parts, ":COMPUTE:")
	whole := strings.Contains(parts, "COUNTER") // COUNTER accepts no fractions
	at := begin
	for range 6 {
		var updates strings.Builder
		for range 100 {
			at += 1 + random.Int64N(2*step)
			if random.IntN(40) == 0 {
				at += random.Int64N(30 * step) // a gap
			}
			fmt.Fprintf(&updates, " %d", at)
			for range sources {
				switch {
				case random.IntN(12) == 0:
					updates.WriteString(":U")
				case whole:
					fmt.Fprintf(&updates, ":%d", random.IntN(1e9))
				default:
					fmt.Fprintf(&updates, ":%g", (random.Float64()-0.3)*math.Pow(10, float64(random.IntN(20)-8)))
				}
			}
		}
		tool.Do("update %s%s", file, &updates)
	}
	return at
}

func TestReadLayouts(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	dir := t.TempDir()
	for i, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			file := filepath.Join(dir, fmt.Sprintf("%d.rrd", i))
			last := create(tool, file, l.step, l.parts)
			n := check(t, tool, r, file, 0)
			if n == 0 {
				t.Error("no points")
			}
			for _, steps := range []int64{500, 90, 31, 10, 1, 0} {
				check(t, tool, r, file, last-steps*l.step-1)
			}
		})
	}
}

func TestReadErrors(t *testing.T) {
	r := newReader(t)
	dir := t.TempDir()
	good, err := os.ReadFile(filepath.Join(rrdtest.Samples(t), "ip_len_in.avg.rrd"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"empty":   {nil, "too short"},
		"text":    {[]byte(strings.Repeat("text ", 100)), "not an RRD file"},
		"head":    {good[:100], "too short"},
		"header":  {good[:1000], "too short"},
		"cut":     {good[:len(good)-1], "too short"},
		"version": {append([]byte("RRD\x000009"), good[8:]...), `version "0009"`},
		"other":   {append(append([]byte{}, good[:16]...), good[12:]...), "an unknown architecture"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, c.text, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(path, 0); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := r.Read(filepath.Join(dir, "none"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		if _, err := r.Read(path, 0); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestReadTooLarge checks that the limit on memory applies to all archives of a file
// together.
func TestReadTooLarge(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	file := filepath.Join(t.TempDir(), "x.rrd")
	tool.Do("create %s --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20 RRA:AVERAGE:0.5:6:20", file)
	check(t, tool, r, file, 0)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const rows = 4 << 20 // 32 MiB
	for i := range 2 {
		binary.LittleEndian.PutUint64(text[128+120+120*i+24:], rows)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, int64(len(text))+2*8*rows); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(file, 0); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
}

// mutate changes some bytes of a database, mainly in its header.
func mutate(random *rand.Rand, b []byte) []byte {
	extremes := []uint64{0, 1, 1<<31 - 1, 1 << 31, 1<<62 - 1, 1<<63 - 1, 1 << 63, 1<<64 - 1, 0x003c00000000012c}
	for range 1 + random.IntN(3) {
		switch random.IntN(6) {
		case 0: // a number in the header
			at := 8 * random.IntN(1208/8)
			binary.LittleEndian.PutUint64(b[at:], extremes[random.IntN(len(extremes))])
		case 1:
			b[random.IntN(1208)] ^= 1 << random.IntN(8)
		case 2: // a number that crashes librrd
			at := []int{24, 32, 40, 128 + 120 + 24, 128 + 120 + 32, 128 + 120 + 120 + 32}[random.IntN(6)]
			binary.LittleEndian.PutUint64(b[at:], extremes[random.IntN(len(extremes))])
		case 3:
			binary.LittleEndian.PutUint64(b[8*random.IntN(len(b)/8):], random.Uint64())
		case 4:
			b = b[:random.IntN(len(b))]
			if len(b) < 1300 {
				return b
			}
		case 5:
			b = append(b, make([]byte, random.IntN(5000))...)
		}
	}
	return b
}

// TestMutants checks that no content of a file crashes the process or exhausts its
// memory. A crash would end the test.
func TestMutants(t *testing.T) {
	n := 4000
	if *soak {
		n = 60_000
	}
	r := newReader(t)
	dir := rrdtest.Samples(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.rrd"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	mutant := filepath.Join(t.TempDir(), "mutant.rrd")
	random := rand.New(rand.NewPCG(uint64(n), 7))
	refused := 0
	for i := range n {
		text, err := os.ReadFile(files[i%len(files)])
		if err != nil {
			t.Fatal(err)
		}
		// Read would retry a truncated file for some time, so use a complete one.
		if text = mutate(random, text); len(text) < 24184 && i%100 > 0 {
			text = append(text, make([]byte, 24184-len(text))...)
		}
		if err := os.WriteFile(mutant, text, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := r.Read(mutant, int64(i%3)*1458860000)
		if err != nil {
			refused++
			continue
		}
		if len(f.Series) == 0 {
			t.Fatal("no series and no error")
		}
	}
	t.Logf("%d mutants, %d refused", n, refused)
	if refused < n/10 || refused > n*9/10 {
		t.Errorf("%d of %d refused: the mutants test little", refused, n)
	}
	// The reader still returns the original values.
	tool := rrdtest.Start(t)
	for _, f := range files[:10] {
		check(t, tool, r, f, 0)
	}
}

// TestTruncatedMeanwhile checks that Read returns correct values or an error while
// another goroutine repeatedly truncates and rewrites the file.
func TestTruncatedMeanwhile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(rrdtest.Samples(t), "ip_len_in.avg.rrd"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.rrd")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	r := newReader(t)
	found, err := r.Read(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	points := len(found.Series[0].Points)
	whole := points + int(found.Unknown)
	var stop atomic.Bool
	done := make(chan error)
	go func() {
		for !stop.Load() {
			if err := os.WriteFile(file, text, 0o644); err != nil { // truncates first
				done <- err
				return
			}
		}
		done <- nil
	}()
	reads, failed := 200, 0
	if *soak {
		reads = 20_000
	}
	for range reads {
		f, err := r.Read(file, 0)
		if err != nil {
			failed++
			continue
		}
		if len(f.Series[0].Points)+int(f.Unknown) != whole {
			t.Errorf("%d points", len(f.Series[0].Points))
		}
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d reads failed", failed, reads)
	if got, err := r.Read(file, 0); err != nil || len(got.Series[0].Points) != points {
		t.Errorf("afterwards: %v", err)
	}
}

// TestConcurrentUpdates checks that concurrent reads make no update of rrdtool fail,
// and that Read never returns torn data. The value of each step is its time, so that a
// row of another time is detected.
func TestConcurrentUpdates(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	file := filepath.Join(t.TempDir(), "x.rrd")
	const begin = 1_700_000_100
	tool.Do("create %s --start %d --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20 RRA:AVERAGE:0.5:6:30", file, begin)
	updates := 3000
	if *soak {
		updates = 100_000
	}
	done := make(chan error, 1)
	go func() {
		for i := range updates {
			at := begin + 300*int64(i+1)
			if _, err := tool.Try("update %s %d:%d", file, at, at); err != nil {
				done <- fmt.Errorf("update %d: %w", i, err)
				return
			}
		}
		done <- nil
	}()
	reads, busy := 0, 0
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d updates, %d reads, %d given up", updates, reads, busy)
			check(t, tool, r, file, 0)
			if reads-busy < 10 {
				t.Errorf("only %d of %d reads succeeded", reads-busy, reads)
			}
			return
		default:
		}
		f, err := r.Read(file, 0)
		reads++
		if errors.Is(err, rrdfile.ErrBusy) {
			busy++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fine := f.Last - 20*300
		for _, p := range f.Series[0].Points {
			if want := float64(p.Time); p.Time > fine && p.Value != want || p.Time <= fine && p.Value != want-750 {
				if p.Time > begin+9000 {
					t.Fatalf("%v at %d, last update %d", p.Value, p.Time, f.Update)
				}
			}
		}
	}
}

func TestStamp(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	dir := t.TempDir()
	if inMemory(t, dir) {
		t.Skip("the temporary folder is in memory: see TestStampInMemory")
	}
	file := filepath.Join(dir, "x.rrd")
	tool.Do("create %s --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20", file)
	stamp := func() rrdfile.Stamp {
		s, err := rrdfile.StampOf(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := r.Read(file, 0)
		if err != nil {
			t.Fatal(err)
		}
		if f.Stamp != s {
			t.Errorf("stamps differ: %v, %v", f.Stamp, s)
		}
		return s
	}
	first := stamp()
	if now := time.Now(); first.Settled(now) || !first.Settled(now.Add(5*time.Second)) {
		t.Errorf("%v is not settled at the right time", first)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	first = stamp()
	tool.Do("update %s 1700000400:1", file)
	if stamp() == first {
		t.Error("an update does not change the stamp")
	}
}

// TestStampInMemory checks that a file in tmpfs never counts as unchanged, because
// RRDtool's updates do not change its mtime.
func TestStampInMemory(t *testing.T) {
	if !inMemory(t, "/dev/shm") {
		t.Skip("/dev/shm is not in memory")
	}
	dir, err := os.MkdirTemp("/dev/shm", "stamp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tool, r := rrdtest.Start(t), newReader(t)
	file := filepath.Join(dir, "x.rrd")
	tool.Do("create %s --start 1700000100 --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:20", file)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	tool.Do("update %s 1700000400:1", file)
	f, err := r.Read(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := rrdfile.StampOf(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []rrdfile.Stamp{s, f.Stamp} {
		if s.Mtime == old.UnixNano() || s.Settled(time.Now().AddDate(10, 0, 0)) {
			t.Errorf("stamp %v says that the file has not changed", s)
		}
	}
}

// inMemory reports whether a folder is on an in-memory file system.
func inMemory(t *testing.T, dir string) bool {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false
	}
	return fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
}
