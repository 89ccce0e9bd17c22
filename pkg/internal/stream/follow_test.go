package stream

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// fakeTstat writes logs like Tstat: in blocks of 4096 bytes that end anywhere.
// It writes the rest of a log when it closes it, just before it opens the same
// log of the next folder.
type fakeTstat struct {
	t      testing.TB
	root   string
	dir    string
	now    time.Time
	logs   []*fakeLog
	arrive func() // waits until all lines have arrived
}

type fakeLog struct {
	name string
	n    int // lines so far, over all folders
	buf  bytes.Buffer
	f    *os.File
}

func newTstat(t testing.TB, root string, names ...string) *fakeTstat {
	w := &fakeTstat{t: t, root: root, now: time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)}
	for _, n := range names {
		w.logs = append(w.logs, &fakeLog{name: n})
	}
	return w
}

func (w *fakeTstat) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// rollOver closes the logs and opens those of a new folder.
func (w *fakeTstat) rollOver() {
	w.t.Helper()
	w.now = w.now.Add(time.Minute)
	w.dir = filepath.Join(w.root, tstat.FolderName(w.now))
	w.must(os.MkdirAll(w.dir, 0o755))
	for _, l := range w.logs {
		w.close(l)
		w.open(l)
	}
}

func (w *fakeTstat) open(l *fakeLog) {
	w.t.Helper()
	var err error
	l.f, err = os.OpenFile(filepath.Join(w.dir, l.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	w.must(err)
	l.buf.WriteString("#c_ip:1 c_port:2\n")
}

func (w *fakeTstat) close(l *fakeLog) {
	w.t.Helper()
	if l.f == nil {
		return
	}
	_, err := l.f.Write(l.buf.Bytes())
	w.must(err)
	l.buf.Reset()
	w.must(l.f.Close())
	l.f = nil
}

// recreate removes and recreates the folder, like a Tstat that is started twice
// within a minute.
func (w *fakeTstat) recreate() {
	w.t.Helper()
	for _, l := range w.logs {
		w.close(l)
	}
	w.arrive()
	w.must(os.RemoveAll(w.dir))
	w.must(os.Mkdir(w.dir, 0o755))
	for _, l := range w.logs {
		w.open(l)
	}
}

// lines appends n lines to a log.
func (w *fakeTstat) lines(l *fakeLog, n int) {
	w.t.Helper()
	for range n {
		fmt.Fprintf(&l.buf, "%s number %d %s\n", l.name, l.n, strings.Repeat("x", l.n*7%300))
		l.n++
		for l.buf.Len() >= 4096 {
			_, err := l.f.Write(l.buf.Next(4096))
			w.must(err)
		}
	}
}

// end closes all logs, like a Tstat that is stopped.
func (w *fakeTstat) end() {
	for _, l := range w.logs {
		w.close(l)
	}
}

// count returns how many lines of each log were written.
func (w *fakeTstat) count() (n int) {
	for _, l := range w.logs {
		n += l.n
	}
	return n
}

// check checks that the output, in format Line, has each written line once and in
// order.
func (w *fakeTstat) check(out string) {
	w.t.Helper()
	next := map[string]int{}
	for line := range strings.Lines(out) {
		var name, x string
		var n int
		if k, err := fmt.Sscanf(line, "%s number %d %s", &name, &n, &x); k < 2 || !strings.HasSuffix(line, "\n") {
			w.t.Fatalf("half a line: %q (%v)", line, err)
		}
		if n != next[name] {
			w.t.Fatalf("%s: line %d where %d was next", name, n, next[name])
		}
		next[name]++
	}
	for _, l := range w.logs {
		if next[l.name] != l.n {
			w.t.Errorf("%s: %d lines, want %d", l.name, next[l.name], l.n)
		}
	}
}

// checkRepeated is like check, but allows repeated lines: only their first
// occurrences must be in order. It returns the number of repeated lines.
func (w *fakeTstat) checkRepeated(out string) (repeated int) {
	w.t.Helper()
	var first strings.Builder
	next := map[string]int{}
	for line := range strings.Lines(out) {
		var name string
		var n int
		if _, err := fmt.Sscanf(line, "%s number %d", &name, &n); err == nil && n < next[name] {
			repeated++
			continue
		}
		next[name]++
		first.WriteString(line)
	}
	w.check(first.String())
	return repeated
}

// TestFollow follows 200 roll-overs, with folders recreated under the same
// name, a log that appears late and one that is mostly empty. Every line
// arrives once, in order.
func TestFollow(t *testing.T) {
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete", "log_udp_complete", "log_mm_complete")
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartBegin})
	w.arrive = func() {
		await(t, "all lines before the folder goes", func() bool { return strings.Count(s.out.String(), "\n") == w.count() })
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		w.rollOver()
		for range rng.IntN(4) {
			w.lines(w.logs[0], rng.IntN(100))
			w.lines(w.logs[1], rng.IntN(8))
		}
		if i%20 == 10 {
			w.recreate()
			w.lines(w.logs[0], 1+rng.IntN(60))
		}
		if i%50 == 0 {
			w.lines(w.logs[2], 1)
		}
		if i == 100 { // here the follower falls back by two folders
			w.rollOver()
			w.lines(w.logs[0], 10)
		}
	}
	w.rollOver()
	await(t, "all lines", func() bool { return strings.Count(s.out.String(), "\n") >= w.count() })
	sum := s.stop()
	if s.err != nil || sum.Cuts != 0 || sum.Vanished != 0 || sum.Rejects != 0 {
		t.Errorf("%+v, %v", sum, s.err)
	}
	w.check(s.out.String())
}

// TestFollowRestart stops and restarts the stream repeatedly. Every line
// arrives once.
func TestFollowRestart(t *testing.T) {
	root, state, out := t.TempDir(), t.TempDir(), &output{}
	w := newTstat(t, root, "log_tcp_complete", "log_udp_complete")
	rng := rand.New(rand.NewPCG(3, 4))
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: state, Stdout: out}
	w.rollOver()
	w.lines(w.logs[0], 30)
	for range 15 {
		s := startStream(t, opt)
		await(t, "the begin", func() bool { return strings.Contains(s.log.String(), "following") })
		for range 3 {
			w.lines(w.logs[0], rng.IntN(100))
			w.lines(w.logs[1], rng.IntN(20))
			w.rollOver()
		}
		if rng.IntN(2) == 0 {
			n := out.Len()
			await(t, "some line", func() bool { return out.Len() > n || strings.Count(out.String(), "\n") == w.count() })
		}
		if s.stop(); s.err != nil {
			t.Fatal(s.err)
		}
		// Meanwhile Tstat continues.
		w.lines(w.logs[0], rng.IntN(50))
		if rng.IntN(2) == 0 {
			w.rollOver()
		}
	}
	w.end()
	s := startStream(t, opt)
	await(t, "all lines", func() bool { return strings.Count(out.String(), "\n") >= w.count() })
	s.stop()
	w.check(out.String())
}

// TestStart checks the position at which following starts in the first run.
func TestStart(t *testing.T) {
	for start, want := range map[Start][2]int{StartBegin: {0, 25}, StartCheckpoint: {15, 25}, StartEnd: {20, 25}} {
		root := t.TempDir()
		w := newTstat(t, root, "log_tcp_complete")
		w.rollOver()
		w.lines(w.logs[0], 15)
		w.rollOver()
		w.lines(w.logs[0], 5)
		l := w.logs[0]
		_, err := l.f.Write(l.buf.Next(l.buf.Len() - 7)) // without the end of the last line
		w.must(err)
		if start == StartEnd {
			want[0] = 19
		}
		s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: start})
		if start == StartEnd {
			await(t, "the begin", func() bool { return strings.Contains(s.log.String(), "following") })
			// No existing line may arrive, but a new log must.
			w.must(os.WriteFile(filepath.Join(w.dir, "log_udp_complete"), []byte("begin\n"), 0o644))
			await(t, "the begin", func() bool { return strings.Contains(s.out.String(), "begin\n") })
		}
		w.lines(l, 5)
		w.end()
		await(t, "the last line", func() bool { return strings.Contains(s.out.String(), " number 24 ") })
		s.stop()
		text := strings.ReplaceAll(s.out.String(), "begin\n", "")
		for i := range 25 {
			if got := strings.Contains(text, fmt.Sprintf(" number %d ", i)); got != (i >= want[0]) {
				t.Errorf("%s: line %d: %v", start, i, got)
			}
		}
	}
}

// TestFollowOddities covers an unfinished last line of a killed Tstat, a
// compressed log, a log replaced under the same name between runs, a log type that
// appears late, and unrelated folders.
func TestFollowOddities(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	file := func(folder, name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	for _, member := range []string{"c1\n", "", "", "c2\n"} {
		zw.Reset(&z)
		zw.Write([]byte(member))
		zw.Close()
	}
	file("2016_03_24_21_00.out", "log_tcp_complete", "a1\na2\na3 is cut")
	file("2016_03_24_22_00.out", "log_tcp_complete", "b1\n")
	file("2016_03_24_23_00.out", "log_tcp_complete.gz", z.String())
	file("2016_03_25_00_00.out", "log_udp_complete", "u1\n")
	file("2016_03_25_01_00.out", "log_tcp_complete", "d1\nd2\n")
	file("not_a_folder.out", "log_tcp_complete", "x\n")
	file("2016_03_25_01_00.out", "addresses", "x\n")
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: state, Start: StartBegin, Types: []string{"log_tcp_*"}}
	s := startStream(t, opt)
	await(t, "d2", func() bool { return strings.HasSuffix(s.out.String(), "d2\n") })
	sum := s.stop()
	if got := s.out.String(); got != "a1\na2\nb1\nc1\nc2\nd1\nd2\n" || sum.Cuts != 1 {
		t.Errorf("%q, %+v", got, sum)
	}

	opt.Start = StartCheckpoint
	file("2016_03_25_01_00.out", "log_tcp_complete", "e1\ne2\ne3\n")
	s = startStream(t, opt)
	await(t, "e3", func() bool { return s.out.String() == "e1\ne2\ne3\n" })
	if s.stop(); !strings.Contains(s.log.String(), "other content") {
		t.Error("no warning")
	}

	// Compressed between two runs: its text is the same.
	z.Reset()
	zw.Reset(&z)
	zw.Write([]byte("e1\ne2\ne3\ne4\n"))
	zw.Close()
	if err := os.Remove(filepath.Join(root, "2016_03_25_01_00.out", "log_tcp_complete")); err != nil {
		t.Fatal(err)
	}
	file("2016_03_25_01_00.out", "log_tcp_complete.gz", z.String())
	file("2016_03_25_02_00.out", "log_tcp_complete", "f1\n")
	s = startStream(t, opt)
	await(t, "f1", func() bool { return s.out.String() == "e4\nf1\n" })
	s.stop()

	// The folder was removed between two runs.
	if err := os.RemoveAll(filepath.Join(root, "2016_03_25_02_00.out")); err != nil {
		t.Fatal(err)
	}
	file("2016_03_25_03_00.out", "log_tcp_complete", "g1\n")
	s = startStream(t, opt)
	await(t, "g1", func() bool { return s.out.String() == "g1\n" })
	// A folder that appears counts as new even if its name is older.
	file("2016_03_24_20_00.out", "log_tcp_complete", "h1\n")
	file("2016_03_24_20_00.out", "log_tcp_nocomplete", "n1\n")
	await(t, "h1 and n1", func() bool { return strings.HasPrefix(s.out.String(), "g1\n") && s.out.Len() == len("g1\nh1\nn1\n") })
	s.stop()
}

// writeLog writes a log of n lines, numbered from first.
func writeLog(t *testing.T, root, folder string, first, n int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, folder, "log_udp_complete"), []byte(rows(first, n)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rows(first, n int) (text string) {
	for i := range n {
		text += fmt.Sprintf("line %d\n", first+i)
	}
	return text
}

// awaitOutput waits until the output of a stream equals want.
func awaitOutput(t *testing.T, s *started, want string) {
	t.Helper()
	await(t, fmt.Sprintf("%q", want), func() bool { return s.out.Len() >= len(want) })
	if got := s.out.String(); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// TestFollowClockBack sets the time zone or the clock of the probe back, while the
// stream runs and between runs. Each line arrives once.
func TestFollowClockBack(t *testing.T) {
	root := t.TempDir()
	now := time.Now().UTC()
	name := func(d time.Duration) string { return tstat.FolderName(now.Add(d)) }
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: t.TempDir(), Start: StartBegin}
	writeLog(t, root, name(8*time.Hour), 0, 2)
	s := startStream(t, opt)
	awaitOutput(t, s, rows(0, 2))
	writeLog(t, root, name(-5*time.Minute), 2, 3)
	awaitOutput(t, s, rows(0, 5))
	writeLog(t, root, name(0), 5, 3)
	awaitOutput(t, s, rows(0, 8))
	if sum := s.stop(); sum.Folders != 3 {
		t.Errorf("%d folders", sum.Folders)
	}
	if n := strings.Count(s.log.String(), "new folder has an older name than the last one"); n != 1 {
		t.Errorf("%d warnings", n)
	}

	opt.Start = StartCheckpoint
	writeLog(t, root, name(-2*time.Minute), 8, 1) // once more between two runs
	s = startStream(t, opt)
	awaitOutput(t, s, rows(8, 1))
	writeLog(t, root, name(time.Minute), 9, 1)
	awaitOutput(t, s, rows(8, 2))
	s.stop()
	if strings.Contains(s.log.String(), "folder of the checkpoint") {
		t.Error("the checkpoint is neither gone nor ahead")
	}

	for _, d := range []time.Duration{8 * time.Hour, time.Minute} { // the last run's folder too
		if err := os.RemoveAll(filepath.Join(root, name(d))); err != nil {
			t.Fatal(err)
		}
	}
	s = startStream(t, opt)
	await(t, "a warning", func() bool { return strings.Contains(s.log.String(), "folder of the checkpoint vanished") })
	writeLog(t, root, name(-time.Minute), 10, 1)
	awaitOutput(t, s, rows(10, 1))
	s.stop()
}

// TestFollowOldCheckpoint starts with the state of a version that did not save the
// order of folders. It checks that a removed folder, or a folder ahead of the
// clock, does not hide other folders.
func TestFollowOldCheckpoint(t *testing.T) {
	now := time.Now().UTC()
	ahead, old, newer := tstat.FolderName(now.Add(8*time.Hour)), tstat.FolderName(now.Add(-time.Hour)), tstat.FolderName(now)
	between := tstat.FolderName(now.Add(-30 * time.Minute))
	for name, tt := range map[string]struct {
		folders []string // 3 lines each
		at      string
		want    []int // indexes of folders
		warning string
	}{
		"ahead":                   {[]string{ahead, old, newer}, ahead, []int{1, 2}, "is ahead of the clock"},
		"ahead and gone":          {[]string{old, newer}, ahead, []int{0, 1}, "folder of the checkpoint vanished"},
		"gone":                    {[]string{old, newer}, between, []int{1}, "folder of the checkpoint vanished"},
		"gone, all others older":  {[]string{old, between}, newer, []int{0, 1}, "folder of the checkpoint vanished"},
		"there":                   {[]string{old, newer}, old, []int{1}, ""},
		"there, and one is ahead": {[]string{ahead, old, newer}, old, []int{2}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: t.TempDir(), Name: DefaultName}
			type position map[string]any
			at := position{"folder": tt.at, "offset": 1000, "head": "gone", "head_length": 1000}
			for i, folder := range tt.folders {
				writeLog(t, root, folder, 3*i, 3)
				changed := now.Add(time.Duration(i-10) * time.Minute)
				if err := os.Chtimes(filepath.Join(root, folder), changed, changed); err != nil {
					t.Fatal(err)
				}
				if text := rows(3*i, 3); folder == tt.at {
					head := sha256.Sum256([]byte(text))
					at = position{"folder": folder, "offset": len(text), "head": hex.EncodeToString(head[:]), "head_length": len(text)}
				}
			}
			if err := state.Save(filepath.Join(opt.StateDir, "stream", "default.checkpoint"), 1, map[string]any{"session": "s", "roots": map[string]any{
				"turin " + root: map[string]any{"log_udp_complete": at}}}); err != nil {
				t.Fatal(err)
			}
			s := startStream(t, opt)
			want := ""
			for _, i := range tt.want {
				want += rows(3*i, 3)
			}
			awaitOutput(t, s, want)
			writeLog(t, root, tstat.FolderName(now.Add(time.Minute)), 100, 1)
			awaitOutput(t, s, want+rows(100, 1))
			s.stop()
			if n := strings.Count(s.log.String(), "checkpoint"); n > 1 || n == 0 != (tt.warning == "") || !strings.Contains(s.log.String(), tt.warning) {
				t.Errorf("%d warnings", n)
			}
		})
	}
}

// TestFollowFolderAgain repeats an hour at the end of summer time, so that Tstat
// replaces the folders of the first hour. Each line arrives once.
func TestFollowFolderAgain(t *testing.T) {
	root := t.TempDir()
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: t.TempDir(), Start: StartBegin}
	folders := []string{"2021_10_31_02_07.out", "2021_10_31_02_27.out", "2021_10_31_02_47.out"}
	s := startStream(t, opt)
	for i, folder := range folders {
		writeLog(t, root, folder, i, 1)
		awaitOutput(t, s, rows(0, i+1))
	}
	for i, folder := range folders {
		if err := os.RemoveAll(filepath.Join(root, folder)); err != nil {
			t.Fatal(err)
		}
		writeLog(t, root, folder, 3+i, 1)
		awaitOutput(t, s, rows(0, 4+i))
	}
	s.stop()
	opt.Start = StartCheckpoint
	s = startStream(t, opt)
	writeLog(t, root, "2021_10_31_03_07.out", 6, 1)
	awaitOutput(t, s, rows(6, 1))
	s.stop()
}

// TestFollowUnmounted hides the folders for a while, as if their file system were
// not mounted. Their lines are not streamed again.
func TestFollowUnmounted(t *testing.T) {
	base := t.TempDir()
	root, away := filepath.Join(base, "tstat"), filepath.Join(base, "away")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: t.TempDir(), Start: StartBegin}
	writeLog(t, root, "2016_03_24_21_00.out", 0, 2)
	writeLog(t, root, "2016_03_24_22_00.out", 2, 2)
	s := startStream(t, opt)
	awaitOutput(t, s, rows(0, 4))
	must(os.Rename(root, away))
	writeLog(t, root, "2016_03_24_23_00.out", 4, 1) // without the other folders
	awaitOutput(t, s, rows(0, 5))
	must(os.RemoveAll(root))
	must(os.Rename(away, root))
	writeLog(t, root, "2016_03_25_00_00.out", 5, 1)
	awaitOutput(t, s, rows(0, 6))
	s.stop()
}

// TestFollowDamaged checks that the readable part of damaged or truncated
// compressed logs is streamed, with a warning.
func TestFollowDamaged(t *testing.T) {
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	for i := range 3000 {
		fmt.Fprintf(zw, "line %d %x\n", i, i*i*7919)
	}
	zw.Close()
	whole := z.Bytes()
	checksum := bytes.Clone(whole)
	checksum[len(whole)-6] ^= 1
	for name, tt := range map[string]struct {
		data    []byte
		lines   int // at least
		warning string
	}{
		"cut":      {whole[:len(whole)/2], 100, "compressed log is truncated"},
		"checksum": {checksum, 3000, "compressed log is damaged"},
		"behind":   {append(bytes.Clone(whole), "and text"...), 3000, "data after the compressed log is not compressed"},
		"plain":    {[]byte("line 1\n"), 0, "it does not begin like a compressed file"},
		"empty":    {nil, 0, "it does not begin like a compressed file"},
	} {
		root := t.TempDir()
		for folder, text := range map[string][]byte{"2016_03_24_21_00.out/log_tcp_complete.gz": tt.data, "2016_03_24_22_00.out/log_tcp_complete": []byte("next\n")} {
			path := filepath.Join(root, folder)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartBegin})
		await(t, "the next folder", func() bool { return strings.HasSuffix(s.out.String(), "next\n") })
		sum := s.stop()
		if n := strings.Count(s.out.String(), "line "); n < tt.lines || sum.Cuts != 1 || strings.Count(s.log.String(), tt.warning) != 1 {
			t.Errorf("%s: %d lines, %d cuts\n%s", name, n, sum.Cuts, s.log)
		}
	}
}

// TestFollowCompressed checks that logs are streamed to their end in every
// compression, even if they were compressed between two runs.
func TestFollowCompressed(t *testing.T) {
	load := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("..", "compression", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	plain := string(load("text"))
	_, rows, _ := strings.Cut(plain, "\n") // without the header
	for _, suffix := range compression.Suffixes() {
		root := t.TempDir()
		put := func(name string, data []byte) {
			t.Helper()
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		const log, next = "2016_03_24_21_00.out/log_udp_complete", "2016_03_24_22_00.out/log_udp_complete"
		opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartBegin, StateDir: t.TempDir()}
		put(log, []byte(plain[:5000]))
		s := startStream(t, opt)
		whole := strings.LastIndexByte(plain[:5000], '\n') + 1
		await(t, "the first lines", func() bool { return s.out.String() == rows[:whole-(len(plain)-len(rows))] })
		s.stop()
		if err := os.Remove(filepath.Join(root, log)); err != nil {
			t.Fatal(err)
		}
		put(log+suffix, append(load("text"+suffix), make([]byte, 512)...))
		put(next, []byte("next\n"))
		opt.Start = StartCheckpoint
		s = startStream(t, opt)
		await(t, "the next folder", func() bool { return strings.HasSuffix(s.out.String(), "next\n") })
		sum := s.stop()
		if got := s.out.String(); got != plain[whole:]+"next\n" || sum.Cuts != 0 {
			t.Errorf("%s: %d cuts, %q\n%s", suffix, sum.Cuts, got, s.log)
		}
	}
}

// TestFollowDamagedSince damages the start of a partly streamed log between two
// runs. After the restart no line is streamed twice, and the next folder is
// streamed.
func TestFollowDamagedSince(t *testing.T) {
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	ends := make([]int, 20) // of the lines, in the file
	for i := range ends {
		fmt.Fprintf(zw, "line %d %x\n", i, i*i*7919)
		zw.Flush()
		ends[i] = z.Len()
	}
	zw.Close()
	root, state := t.TempDir(), t.TempDir()
	put := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	const log = "2016_03_24_21_00.out/log_tcp_complete"
	put("2016_03_24_20_00.out/log_tcp_complete", nil)
	var lines bytes.Buffer
	for i := range 10 {
		fmt.Fprintf(&lines, "line %d %x\n", i, i*i*7919)
	}
	put(log, lines.Bytes())
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartBegin, StateDir: state}
	s := startStream(t, opt)
	await(t, "the first lines", func() bool { return strings.Contains(s.out.String(), "line 9 ") })
	s.stop()

	if err := os.Remove(filepath.Join(root, log)); err != nil {
		t.Fatal(err)
	}
	damaged := z.Bytes()
	damaged[ends[3]] |= 6 // a block type that does not exist
	put(log+".gz", damaged)
	put("2016_03_24_22_00.out/log_tcp_complete", []byte("next\n"))
	opt.Start = StartCheckpoint
	s = startStream(t, opt)
	await(t, "the next folder", func() bool { return strings.HasSuffix(s.out.String(), "next\n") })
	sum := s.stop()
	if strings.Contains(s.out.String(), "line ") || sum.Cuts != 1 || strings.Count(s.log.String(), "compressed log is damaged") != 1 {
		t.Errorf("%q, %d cuts\n%s", s.out.String(), sum.Cuts, s.log)
	}
}

// TestForward follows a folder and sends the lines to an endpoint that restarts,
// over a plain connection and in acknowledged mode. In acknowledged mode nothing is
// lost.
func TestForward(t *testing.T) {
	root, out := t.TempDir(), &output{}
	w := newTstat(t, root, "log_tcp_complete", "log_udp_complete")
	// A free port for the restart of the endpoint.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	endpoint := Options{Listen: loopback(), Stdout: out, StateDir: t.TempDir(), Format: Line}
	endpoint.Listen[0].Addr = addr
	s := startStream(t, endpoint)
	probe := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{"ack://" + addr}, Start: StartBegin})
	for i := range 30 {
		w.rollOver()
		w.lines(w.logs[0], 100)
		w.lines(w.logs[1], 10)
		if i%10 == 5 {
			s.stop()
			w.lines(w.logs[0], 100)
			s = startStream(t, endpoint)
		}
	}
	w.end()
	await(t, "all lines", func() bool { return strings.Count(out.String(), "\n") >= w.count() })
	if probe.stop(); probe.err != nil {
		t.Error(probe.err)
	}
	s.stop()
	w.check(out.String()) // clean stops: not even duplicates
}

// TestForwardPlain follows a folder and sends the lines over a plain connection
// to an endpoint that restarts while nothing is in flight. Every line arrives
// once.
func TestForwardPlain(t *testing.T) {
	root, out := t.TempDir(), &output{}
	w := newTstat(t, root, "log_tcp_complete", "log_udp_complete")
	w.rollOver()
	s := startStream(t, Options{Listen: loopback(), Stdout: out, Format: Line})
	endpoint := Options{Listen: []peer.Options{{Addr: s.addr}}, Stdout: out, Format: Line}
	probe := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{"tcp://" + s.addr}, Start: StartBegin})
	for i := range 5 {
		w.lines(w.logs[0], 300)
		w.lines(w.logs[1], 20)
		w.rollOver()
		// The count includes the headers of all folders except the
		// newest, whose logs are still empty.
		await(t, "what was written", func() bool { return probe.acked(0) == int64(w.count()+2*(i+1)) })
		s.stop()
		w.lines(w.logs[0], 100)
		s = startStream(t, endpoint)
	}
	w.end()
	await(t, "all lines", func() bool { return strings.Count(out.String(), "\n") >= w.count() })
	if sum := probe.stop(); probe.err != nil || sum.Sinks[0].Restarts == 0 {
		t.Errorf("%+v, %v", sum, probe.err)
	}
	s.stop()
	w.check(out.String())
}

// TestSeveralRoots follows the folders of several probes over a restart. Each
// probe's lines arrive once, in order, under its name.
func TestSeveralRoots(t *testing.T) {
	opt := Options{Format: JSON, StateDir: t.TempDir(), Stdout: &output{}, Start: StartBegin}
	writers := map[string]*fakeTstat{}
	count := 0
	for _, probe := range []string{"turin", "milan", "rome"} {
		root := t.TempDir()
		w := newTstat(t, root, "log_new", "log_other")
		w.rollOver()
		writers[probe] = w
		opt.Follow = append(opt.Follow, Root{Probe: probe, Dir: root})
	}
	for range 3 {
		s := startStream(t, opt)
		for range 5 {
			for _, w := range writers {
				w.lines(w.logs[0], 50)
				w.lines(w.logs[1], 5)
				w.rollOver()
				count += 55
			}
		}
		await(t, "all lines", func() bool { return strings.Count(opt.Stdout.(*output).String(), "\n") >= count })
		if s.stop(); s.err != nil {
			t.Fatal(s.err)
		}
		opt.Start = StartCheckpoint
	}
	got := map[string]*strings.Builder{}
	for text := range strings.Lines(opt.Stdout.(*output).String()) {
		var row struct{ Probe, Line string }
		if err := json.Unmarshal([]byte(text), &row); err != nil || writers[row.Probe] == nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got[row.Probe] == nil {
			got[row.Probe] = &strings.Builder{}
		}
		got[row.Probe].WriteString(row.Line + "\n")
	}
	for probe, w := range writers {
		w.check(got[probe].String())
	}
}

// TestConfined checks links that lead out of a followed folder. If a peer chose
// the folder, the links are skipped and counted, and delay nothing. If the user
// chose the folder, the links are followed.
func TestConfined(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	write := func(dir, folder, text string) string {
		t.Helper()
		dir = filepath.Join(dir, folder)
		path := filepath.Join(dir, "log_tcp_complete")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, name string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}
	write(root, "2016_03_24_21_00.out", "first\n")
	link(write(outside, "secret", "secret\n"), "2016_03_24_22_00.out/log_tcp_complete")
	link(filepath.Dir(write(outside, "folder", "folder\n")), "2016_03_24_23_00.out")
	write(root, "kept", "inside\n")
	link("../kept/log_tcp_complete", "2016_03_25_00_00.out/log_tcp_complete")
	write(root, "2016_03_25_01_00.out", "last\n")
	for confined, want := range map[bool]string{true: "first\ninside\nlast\n", false: "first\nsecret\nfolder\ninside\nlast\n"} {
		s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Confined: confined, Format: Line, Start: StartBegin})
		await(t, "the last line", func() bool { return strings.HasSuffix(s.out.String(), "last\n") })
		outside := int64(0)
		if confined {
			outside = 2
		}
		if sum := s.stop(); s.out.String() != want || sum.Outside != outside {
			t.Errorf("confined %v: got %q, left out %d; want %q, %d", confined, s.out, sum.Outside, want, outside)
		}
		if n := strings.Count(s.log.String(), "a link leads out of the folder"); n != int(outside) {
			t.Errorf("confined %v: warned %d times", confined, n)
		}
	}
}
