package graphite

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

func TestText(t *testing.T) {
	text := AppendText(nil, []Metric{
		{Path: "tstat.p.x", Points: []Point{{Time: 1458855900, Value: 1.0 / 3}, {Time: 1458856200, Value: 4e-7}, {Time: 1458856500, Value: math.NaN()}, {Time: 1458856800, Value: -5}, {Time: 1458857100, Value: math.Inf(1)}}},
		{Path: "a b/../c\n;d~` é", Points: []Point{{Time: 1 << 33, Value: 1e300}, {Time: 0, Value: math.Copysign(0, -1)}, {Time: 1, Value: 1 << 53}}},
	})
	want := "tstat.p.x 0.3333333333333333 1458855900\ntstat.p.x 4e-07 1458856200\ntstat.p.x -5 1458856800\n" +
		"a_b_.._c__d_____ 1e+300 8589934592\na_b_.._c__d_____ -0 0\na_b_.._c__d_____ 9.007199254740992e+15 1\n"
	if string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	metrics, err := ParseText(text)
	if err != nil || len(metrics) != 2 || Count(metrics) != 6 || metrics[0].Points[1] != (Point{Time: 1458856200, Value: 4e-7}) {
		t.Errorf("ParseText: %v, %v", metrics, err)
	}
	for _, bad := range []string{"a 1\n", "a x 1\n", "a 1 x\n", "a 1 1 1\n"} {
		if _, err := ParseText([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a.b", 1.5, int64(3))
	f.Fuzz(func(t *testing.T, path string, v float64, at int64) {
		text := AppendText(nil, []Metric{{Path: "p." + path, Points: []Point{{Time: at, Value: v}}}})
		metrics, err := ParseText(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			if len(text) > 0 {
				t.Errorf("%q", text)
			}
			return
		}
		if got := metrics[0].Points[0]; got != (Point{Time: at, Value: v}) {
			t.Errorf("%v, want %v at %d", got, v, at)
		}
	})
}

// TestPickle checks that Python reads the pickled points.
func TestPickle(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3")
	}
	var m Metric
	m.Path = "tstat.p.x"
	for i := range 1203 {
		m.Points = append(m.Points, Point{Time: 1458855900 + int64(i)*1e7, Value: float64(i) / 3})
	}
	cmd := exec.Command("python3", "-c", `
import pickle, struct, sys
b = sys.stdin.buffer.read()
frames = 0
while b:
    n, = struct.unpack('!L', b[:4])
    for path, (t, v) in pickle.loads(b[4:4+n]): print(path, repr(v), t)
    b = b[4+n:]
    frames += 1
print(frames, file=sys.stderr)
`)
	cmd.Stdin = strings.NewReader(string(AppendPickle(nil, []Metric{m})))
	var frames strings.Builder
	cmd.Stderr = &frames
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err, frames.String())
	}
	got, err := ParseText(out)
	if err != nil || len(got) != 1 || !slices.Equal(got[0].Points, m.Points) || strings.TrimSpace(frames.String()) != "3" {
		t.Errorf("%v, %s frames, %d points", err, &frames, Count(got))
	}
}

// sink is a fake carbon server that counts the lines of each connection.
type sink struct {
	net.Listener
	lines chan []string
}

func listen(t *testing.T, addr string, serve func(net.Conn) bool) *sink {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &sink{l, make(chan []string, 100)}
	go peertest.Accept(l, func(c net.Conn) {
		if serve != nil && !serve(c) {
			return
		}
		var lines []string
		for scan := bufio.NewScanner(c); scan.Scan(); {
			lines = append(lines, scan.Text())
		}
		s.lines <- lines
	})
	return s
}

var one = []Metric{{Path: "a.b", Points: []Point{{Time: 300, Value: 1}, {Time: 600, Value: 2}}}}

func TestCarbonSends(t *testing.T) {
	s := listen(t, "127.0.0.1:0", nil)
	c := NewCarbon(CarbonOptions{Addr: s.Addr().String()})
	if err := c.Send(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if got := <-s.lines; !slices.Equal(got, []string{"a.b 1 300", "a.b 2 600"}) {
		t.Errorf("%q", got)
	}
	if err := c.Send(t.Context(), nil); err != nil { // does not connect
		t.Error(err)
	}
}

// TestCarbonRetries checks that a batch is resent until the peer has read all of it.
func TestCarbonRetries(t *testing.T) {
	var tries atomic.Int32
	s := listen(t, "[::1]:0", func(c net.Conn) bool {
		if tries.Add(1) < 3 {
			c.(*net.TCPConn).SetLinger(0) // closes with a reset
			return false
		}
		return true
	})
	c := NewCarbon(CarbonOptions{Addr: s.Addr().String(), RetryTimeout: time.Minute})
	if err := c.Send(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if got := <-s.lines; len(got) != 2 || tries.Load() != 3 {
		t.Errorf("%q after %d tries", got, tries.Load())
	}
}

func TestCarbonFails(t *testing.T) {
	stuck := listen(t, "127.0.0.1:0", func(c net.Conn) bool {
		io.Copy(io.Discard, c)
		<-t.Context().Done() // never closes
		return false
	})
	web := listen(t, "127.0.0.1:0", func(c net.Conn) bool {
		c.Write(make([]byte, 2*chunk))
		io.Copy(io.Discard, c)
		return false
	})
	gone := listen(t, "127.0.0.1:0", nil)
	gone.Close()
	for name, c := range map[string]struct {
		addr, want string
	}{
		"stuck": {stuck.Addr().String(), "waiting for all to be read"},
		"web":   {web.Addr().String(), "not carbon"},
		"gone":  {gone.Addr().String(), "refused"},
	} {
		err := NewCarbon(CarbonOptions{Addr: c.addr, Timeout: time.Second}).Send(t.Context(), one)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.addr) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Writes to a server that stops reading time out, and end with the context.
	deaf := listen(t, "127.0.0.1:0", func(net.Conn) bool {
		<-t.Context().Done()
		return false
	})
	big := []Metric{{Path: strings.Repeat("x", 200), Points: make([]Point, 300_000)}}
	err := NewCarbon(CarbonOptions{Addr: deaf.Addr().String(), Timeout: 300 * time.Millisecond}).Send(t.Context(), big)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("deaf: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := NewCarbon(CarbonOptions{Addr: deaf.Addr().String()}).Send(ctx, big); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("interrupted: %v after %v", err, time.Since(start))
	}
}

// fake is a sink that can be down.
type fake struct {
	down  bool
	got   []Metric
	sends int
}

func (f *fake) Send(_ context.Context, m []Metric) error {
	f.sends++
	if f.down {
		return ErrUnavailable
	}
	f.got = append(f.got, m...)
	return nil
}
func (f *fake) Close() error { return nil }

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	f := &fake{down: true}
	open := func(max int64) *Spool {
		s, err := NewSpool(f, dir, max, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(1000)
	batch := func(i int) []Metric { return []Metric{{Path: "m", Points: []Point{{Time: int64(i), Value: 1.5}}}} }
	i := 0
	for ; ; i++ {
		if err := s.Send(t.Context(), batch(i)); err != nil {
			if !errors.Is(err, ErrSpoolFull) || !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			break
		}
	}
	if n, size, err := s.Len(); err != nil || n != i || i < 5 || size > 1000 {
		t.Fatalf("%d batches of %d, %d bytes: %v", n, i, size, err)
	}
	if f.sends != 1 {
		t.Errorf("%d tries at a destination that is down", f.sends)
	}
	if s.Down() == nil {
		t.Error("not down")
	}
	// In the next run the destination is up: stored batches are sent first, oldest
	// first, then new points.
	f.down = false
	s = open(1000)
	if err := s.Send(t.Context(), batch(i)); err != nil {
		t.Fatal(err)
	}
	if len(f.got) != i+1 {
		t.Fatalf("%d batches, want %d", len(f.got), i+1)
	}
	for at, m := range f.got {
		if m.Points[0] != (Point{Time: int64(at), Value: 1.5}) {
			t.Errorf("batch %d is %v", at, m)
		}
	}
	if n, _, _ := s.Len(); n != 0 || s.Down() != nil {
		t.Errorf("%d batches left, %v", n, s.Down())
	}

	// A damaged batch is set aside, and the others are sent.
	f.down = true
	s = open(1000)
	s.Send(t.Context(), batch(1))
	s.Send(t.Context(), batch(2))
	names, _, _ := batches(s.dir)
	if err := os.WriteFile(names[0], []byte("tstatrepo-spool 1 00\nm 1 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.down, f.got = false, nil
	s = open(1000)
	if err := s.Flush(t.Context()); err != nil || len(f.got) != 1 {
		t.Errorf("%v, %v", f.got, err)
	}
	if _, err := os.Stat(names[0] + ".damaged"); err != nil {
		t.Error(err)
	}
	// A batch of a newer version is kept, and Flush fails.
	newer := filepath.Join(dir, "1.batch")
	if err := os.WriteFile(newer, []byte("tstatrepo-spool 2 00 zstd\nm 1 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), batch(3)); !errors.Is(err, state.ErrNewer) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), newer) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(newer); err != nil {
		t.Error(err)
	}
}

// TestSpoolsShareSink checks that no spool uses a destination that another spool has
// found down, and that the limit applies to the bytes of all spools.
func TestSpoolsShareSink(t *testing.T) {
	f := &fake{down: true}
	first, err := NewSpool(f, t.TempDir(), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := first.Beside(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	batch := []Metric{{Path: "m", Points: []Point{{Time: 1, Value: 1.5}}}}
	n := 0
	for ; err == nil; n++ {
		err = []*Spool{first, second}[n%2].Send(t.Context(), batch)
	}
	_, a, _ := first.Len()
	_, b, _ := second.Len()
	if !errors.Is(err, ErrSpoolFull) || a+b > 1000 || a == 0 || b == 0 {
		t.Errorf("%d + %d bytes: %v", a, b, err)
	}
	if f.sends != 1 || second.Down() == nil {
		t.Errorf("%d tries at a destination that is down", f.sends)
	}
	f.down, first.shared.until = false, time.Time{} // do not wait for downTime
	if err := second.Send(t.Context(), batch); err != nil || first.Down() != nil || len(f.got) != n {
		t.Errorf("%v, %v, %d batches, want %d", err, first.Down(), len(f.got), n)
	}
	if batches, _, err := first.Len(); err != nil || batches != 0 {
		t.Errorf("%v, %d batches left", err, batches)
	}
}

// TestSpoolPowerCut checks that a batch is durable when Send has returned.
func TestSpoolPowerCut(t *testing.T) {
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	s, err := NewSpool(&fake{down: true}, filepath.Join(dir, "new/spool"), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := []Metric{{Path: "m", Points: []Point{{Time: 1, Value: 1.5}}}}
	if err := s.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	if s, err = NewSpool(f, filepath.Join(disk.Cut(t), "new/spool"), 1000, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil || len(f.got) != 1 {
		t.Errorf("%v, %v", f.got, err)
	}
}

// TestWhisperPowerCut checks that points in new and old files are durable when
// Send has returned.
func TestWhisperPowerCut(t *testing.T) {
	dir := t.TempDir()
	disk := durabletest.Record(t, dir)
	open := func() *Whisper {
		w, err := NewWhisper(WhisperOptions{Dir: filepath.Join(dir, "new")})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	now := time.Now().Unix()
	send := func(w *Whisper, path string, v float64) {
		t.Helper()
		if err := w.Send(t.Context(), []Metric{{Path: path, Points: []Point{{Time: now, Value: v}}}}); err != nil {
			t.Fatal(err)
		}
		file := strings.ReplaceAll(path, ".", "/") + ".wsp"
		want, err := os.ReadFile(filepath.Join(dir, "new", file))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(disk.Cut(t), "new", file)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes after the cut, %d before, or others: %v", file, len(got), len(want), err)
		}
	}
	w := open()
	send(w, "a.b.c", 1)
	send(w, "a.b.c", 2)
	send(w, "a.b.d", 3)
	// Another process was killed before it synced.
	if err := os.Rename(filepath.Join(dir, "new/a/b/c.wsp"), filepath.Join(dir, "new/a/b/e.wsp")); err != nil {
		t.Fatal(err)
	}
	send(open(), "a.b.e", 4)
}

// TestCarbonServer checks that a real carbon stores text and pickle exactly. After
// an outage it gets all points from the spool.
func TestCarbonServer(t *testing.T) {
	testServer(t, carbontest.Start(t, day300, "MAX_CREATES_PER_MINUTE = inf"))
}

// day300 are storage schemas that keep points of 300 s for a day.
const day300 = "[all]\npattern = .*\nretentions = 300s:1d\n"

func testServer(t *testing.T, server *carbontest.Server) {
	base := time.Now().Unix()/300*300 - 3600
	metric := func(path string) Metric {
		m := Metric{Path: path}
		for i := range int64(10) {
			m.Points = append(m.Points, Point{Time: base + 300*i, Value: float64(i) / 7})
		}
		return m
	}
	text := NewCarbon(CarbonOptions{Addr: server.Addr()})
	pickle := NewCarbon(CarbonOptions{Addr: server.PickleAddr(), Pickle: true})
	spool, err := NewSpool(text, t.TempDir(), 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []error{
		spool.Send(t.Context(), []Metric{metric("a.text")}),
		pickle.Send(t.Context(), []Metric{metric("a.pickle")}),
	} {
		if step != nil {
			t.Fatal(i, step)
		}
	}
	// Wait until carbon has written its cache: a stop may lose it.
	read := func(count int) (got carbontest.Points) {
		carbontest.WaitFor(t, "points in files", func() bool {
			got = carbontest.Read(t, server.Whisper(), base-300, base+3600)
			return got.Count() >= count
		})
		return got
	}
	read(20)
	server.Down()
	if err := spool.Send(t.Context(), []Metric{metric("a.spooled")}); err != nil || spool.Down() == nil {
		t.Fatalf("%v, %v", err, spool.Down())
	}
	server.Up()
	spool.shared.until = time.Time{} // do not wait for downTime
	if err := spool.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := read(30)
	for _, path := range []string{"a.text", "a.pickle", "a.spooled"} {
		for _, p := range metric(path).Points {
			if v, ok := got[path][p.Time]; !ok || v != p.Value {
				t.Errorf("%s at %d: %v (%v), want %v", path, p.Time, v, ok, p.Value)
			}
		}
	}
	if strings.Contains(server.Log(), "invalid line") {
		t.Error(server.Log())
	}
}

// TestWhisperDefault checks that recent and old points are in the same archives as
// in Tstat's RRDs, averaged in the coarser archives.
func TestWhisperDefault(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWhisper(WhisperOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	const day = 86400
	m := Metric{Path: "tstat.p.x", Step: 300}
	first := (now-1000*day)/day*day + 300
	for at := first; at <= now; at += 300 {
		m.Points = append(m.Points, Point{Time: at, Value: float64(at % 7200)})
	}
	// Send in two runs, as in practice.
	half := len(m.Points) - 100
	for _, part := range [][]Point{m.Points[:half], m.Points[half:]} {
		if err := w.Send(t.Context(), []Metric{{Path: m.Path, Step: 300, Points: part}}); err != nil {
			t.Fatal(err)
		}
	}
	if w.Lost() != 0 {
		t.Errorf("%d points lost", w.Lost())
	}
	// Whisper reads from the archive that reaches back to the start.
	for _, a := range []struct{ step, age, back int64 }{
		{300, 40 * 3600, 0}, {1800, 10 * day, 3 * day}, {7200, 50 * day, 16 * day}, {day, 990 * day, 70 * day},
	} {
		begin, end := now-a.age, now-a.back
		points := carbontest.Read(t, dir, begin, end)[m.Path]
		n := 0
		for at := begin - begin%a.step + a.step; at <= end-a.step; at += a.step {
			sum, count := 0.0, 0
			for p := at; p < at+a.step; p += 300 {
				sum += float64(p % 7200)
				count++
			}
			if v, ok := points[at]; !ok || math.Abs(v-sum/float64(count)) > 1e-9 {
				t.Fatalf("archive of %d s at %d, %d s ago: %v (%v), want %v", a.step, at, now-at, v, ok, sum/float64(count))
			}
			n++
		}
		if n < 10 {
			t.Errorf("archive of %d s: only %d points", a.step, n)
		}
	}
	// A point beyond the retention of an existing file is counted as lost.
	if err := w.Send(t.Context(), []Metric{{Path: m.Path, Points: []Point{{Time: now - 2000*day, Value: 1}, {Time: now, Value: 5}}}}); err != nil || w.Lost() != 1 {
		t.Errorf("%d points lost, %v", w.Lost(), err)
	}
}

// TestWhisperFullDisk checks that points are refused while the disk is nearly full, and
// stored when there is space again.
func TestWhisperFullDisk(t *testing.T) {
	dir, fill, release := durabletest.SmallDisk(t, "2m")
	w, err := NewWhisper(WhisperOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	m := []Metric{{Path: "tstat.p.x", Step: 300, Points: []Point{{Time: time.Now().Unix(), Value: 1}}}}
	fill(64 << 10)
	if err := w.Send(t.Context(), m); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "less than 5 % of the disk is free") {
		t.Error(err)
	}
	release()
	if err := w.Send(t.Context(), m); err != nil {
		t.Error(err)
	}
}

func TestWhisperSchemas(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "storage-schemas.conf")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\n[carbon]\npattern = ^carbon\\.\nretentions = 60:90d\n\n[tstat]\npattern = ^tstat\\.\nretentions = 1h:30d, 5m:2d\n")
	w, err := NewWhisper(WhisperOptions{Dir: dir, Schemas: file})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	at := now/3600*3600 - 10*86400
	if err := w.Send(t.Context(), []Metric{{Path: "tstat.x", Points: []Point{{Time: now - 40*86400, Value: 1}, {Time: at, Value: 2}, {Time: at + 300, Value: 4}, {Time: now / 300 * 300, Value: 7}}}}); err != nil {
		t.Fatal(err)
	}
	got := carbontest.Read(t, dir, now-29*86400, now)["tstat.x"]
	if w.Lost() != 1 || got[at] != 3 {
		t.Errorf("%d lost, %v", w.Lost(), got)
	}
	for _, c := range []struct{ text, want string }{
		{"[x]\npattern = a\n", ":1: [x] needs"},
		{"\n[x]\npattern = (\nretentions = 1m:1d\n", ":2: [x]: pattern"},
		{"[x]\npattern = a\nretentions = soon\n", "retentions"},
		{"pattern = a\n", ":1: neither"},
	} {
		write(c.text)
		if _, err := NewWhisper(WhisperOptions{Dir: dir, Schemas: file}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}

// TestWhisperStaysInFolder checks that no metric name leads out of the folder.
func TestWhisperStaysInFolder(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWhisper(WhisperOptions{Dir: filepath.Join(dir, "whisper")})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	for _, path := range []string{"../../x", "/etc/x", "..x", "a/../../b", "a..b", "tcp.", "\x00", strings.Repeat("../", 9) + "x"} {
		if err := w.Send(t.Context(), []Metric{{Path: path, Points: []Point{{Time: now, Value: 1}}}}); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}
