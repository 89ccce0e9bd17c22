//go:build linux

package rrdpush

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

var soak = flag.Bool("soak", false, "run the long versions of tests")

// The samples are from 24 and 25 March 2016, except for step60.
const (
	begin, end     = 1458855000, 1458865000
	begin60, end60 = 1795329000, 1795331000
)

// options returns options of a push of dir to dest, with a new state folder.
func options(t testing.TB, dir, dest string) Options {
	t.Helper()
	d, err := ParseDest(dest)
	if err != nil {
		t.Fatal(err)
	}
	naming, _ := d.NamingOf("default", nil)
	return Options{Sources: []string{dir}, Target: Target{Dest: d, Probe: "p", Prefix: "tstat", Naming: naming, Mode: "default",
		SpoolSize: 64 << 20, StateDir: t.TempDir(), Stdout: io.Discard}}
}

// run pushes once.
func run(t testing.TB, opt Options) (sum *Summary, err error) {
	t.Helper()
	p, err := New(opt)
	if err != nil {
		return nil, err
	}
	for sum, err = range p.Run(t.Context()) {
	}
	return sum, errors.Join(err, p.Close())
}

// stub opens a pusher that sends to sink.
func stub(t testing.TB, opt Options, sink graphite.Sink) *Pusher {
	t.Helper()
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	p.sink = sink
	for _, f := range p.folders {
		f.sink, f.spool = sink, nil
	}
	return p
}

func push(t testing.TB, opt Options) *Summary {
	t.Helper()
	sum, err := run(t, opt)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// expected returns the points that rrdtool fetch prints for the files in a folder, by
// path of the metric. It leaves out NaN, the current step and, unless negative is set,
// negative percentiles.
func expected(t testing.TB, dir string, negative bool) carbontest.Points {
	t.Helper()
	tool := rrdtest.Start(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.rrd"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	want := carbontest.Points{}
	for _, f := range files {
		points := tool.Points(f, 0)[0]
		maps.DeleteFunc(points, func(_ int64, v float64) bool { return !negative && rrdfile.IsPercentile(filepath.Base(f)) && v < 0 })
		if len(points) > 0 {
			want["tstat.p."+(&rrdfile.Table{}).Name(filepath.Base(f))] = points
		}
	}
	return want
}

// compare reports differences between points, up to the 10 decimals of rrdtool.
func compare(t testing.TB, got, want carbontest.Points) {
	t.Helper()
	for path, points := range want {
		if len(got[path]) != len(points) {
			t.Fatalf("%s: %d points, want %d", path, len(got[path]), len(points))
		}
		for at, v := range points {
			g, ok := got[path][at]
			rounded, _ := strconv.ParseFloat(fmt.Sprintf("%.10e", g), 64)
			if !ok || rounded != v {
				t.Fatalf("%s at %d: %v (%v), want %v", path, at, g, ok, v)
			}
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d metrics, want %d", len(got), len(want))
	}
}

// age sets the modification times of files to an hour ago.
func age(t testing.TB, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.rrd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chtimes(f, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCarbon checks that all samples are stored by a real carbon-cache. Whisper's
// Python library must read exactly the times and values of rrdtool fetch.
func TestCarbon(t *testing.T) {
	testCarbon(t, carbontest.Start(t, carbontest.YearsOf300, "MAX_CREATES_PER_MINUTE = inf"))
}

func testCarbon(t *testing.T, server *carbontest.Server) {
	dir := rrdtest.Samples(t)
	want := expected(t, dir, false)
	opt := options(t, dir, "graphite://"+server.Addr()+"?new-metrics-per-minute=0")
	sum := push(t, opt)
	if sum.Files != 198 || sum.Failed > 0 || sum.Points != int64(want.Count()) || sum.New != int64(len(want)) || sum.Negative == 0 {
		t.Errorf("%+v, want %d points of %d metrics", sum, want.Count(), len(want))
	}
	var got carbontest.Points
	carbontest.WaitFor(t, "all points", func() bool {
		got = carbontest.Read(t, server.Whisper(), begin, end)
		return got.Count() >= want.Count()
	})
	compare(t, got, want)
	age(t, dir)
	push(t, opt)
	if sum := push(t, opt); sum.Points != 0 || sum.Unchanged != 198 {
		t.Errorf("again: %+v", sum)
	}
	t.Logf("%d points of %d metrics", got.Count(), len(got))

	web := carbontest.StartWeb(t, server.Whisper())
	names := slices.Sorted(maps.Keys(want))
	rendered := carbontest.Points{}
	for part := range slices.Chunk(names, 60) {
		maps.Copy(rendered, web.Points(part, begin, end))
	}
	compare(t, rendered, want)
	png := web.Get(url.Values{"target": {"tstat.p.tcp.rtt.in.Average", "tstat.p.tcp.rtt.out.Average"}, "format": {"png"},
		"from": {fmt.Sprint(begin)}, "until": {fmt.Sprint(end)}, "title": {"TCP round trip, ms"}})
	if !bytes.HasPrefix(png, []byte("\x89PNG")) || len(png) < 5000 {
		t.Errorf("%d bytes of PNG", len(png))
	}
	if keep := os.Getenv("TSTATREPO_TESTPNG"); keep != "" { // for visual inspection
		if err := os.WriteFile(keep, png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhisper checks the same as TestCarbon with Whisper files, and with a step of
// 60 s.
func TestWhisper(t *testing.T) {
	samples := rrdtest.Samples(t)
	for _, c := range []struct {
		dir, schemas string
		begin, end   int64
	}{
		{samples, carbontest.YearsOf300, begin, end},
		{filepath.Join(samples, "step60"), carbontest.YearsOf60, begin60, end60},
	} {
		out := t.TempDir()
		schemas := filepath.Join(out, "storage-schemas.conf")
		if err := os.WriteFile(schemas, []byte(c.schemas), 0o644); err != nil {
			t.Fatal(err)
		}
		want := expected(t, c.dir, false)
		sum := push(t, options(t, c.dir, "whisper:"+filepath.Join(out, "w")+"?schemas="+schemas))
		if sum.Points != int64(want.Count()) || sum.TooOld != 0 {
			t.Errorf("%+v, want %d points", sum, want.Count())
		}
		compare(t, carbontest.Read(t, filepath.Join(out, "w"), c.begin, c.end), want)
	}
}

// lines returns the points that a push to standard output prints.
func lines(t testing.TB, opt Options) (carbontest.Points, *Summary) {
	t.Helper()
	var out bytes.Buffer
	opt.Stdout = &out
	sum := push(t, opt)
	metrics, err := graphite.ParseText(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got := carbontest.Points{}
	for _, m := range metrics {
		if got[m.Path] == nil {
			got[m.Path] = map[int64]float64{}
		}
		for _, p := range m.Points {
			got[m.Path][p.Time] = p.Value
		}
	}
	return got, sum
}

func TestNegative(t *testing.T) {
	dir := rrdtest.Samples(t)
	opt := options(t, dir, "-")
	opt.Negative = true
	got, sum := lines(t, opt)
	compare(t, got, expected(t, dir, true))
	if sum.Negative != 0 {
		t.Errorf("%+v", sum)
	}
}

// TestUpstreamNames checks that files without a name are counted, and that shared
// names are logged once.
func TestUpstreamNames(t *testing.T) {
	dir := rrdtest.Samples(t)
	var log bytes.Buffer
	opt := options(t, dir, "-")
	opt.Mode = "upstream"
	opt.Naming, _ = rrdfile.NamingOf("upstream", nil)
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	got, sum := lines(t, opt)
	unnamed, shared, seen := int64(0), int64(0), map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.rrd"))
	for _, f := range files {
		name := rrdfile.UpstreamName(filepath.Base(f))
		switch {
		case name == "":
			unnamed++
		case seen[name]:
			shared++
		}
		seen[name] = true
	}
	if sum.Unnamed != unnamed || sum.Shared != shared || unnamed == 0 {
		t.Errorf("%+v, want %d unnamed, %d shared", sum, unnamed, shared)
	}
	if n := strings.Count(log.String(), "share"); shared > 0 && n != 1 {
		t.Errorf("told %d times:\n%s", n, &log)
	}
	for path := range got {
		if !seen[strings.TrimPrefix(path, "tstat.p.")] {
			t.Errorf("path %s", path)
		}
	}
}

// counter updates an RRD with a step of 300 s. The value of each step is its number.
type counter struct {
	tool *rrdtest.Tool
	file string
	n    int64
}

const epoch = 1_700_000_100

func newCounter(t testing.TB, tool *rrdtest.Tool, file string) *counter {
	tool.Do("create %s --start %d --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600 RRA:AVERAGE:0.5:6:700", file, epoch)
	return &counter{tool, file, 0}
}

// update adds a complete step.
func (c *counter) update() {
	c.n++
	c.tool.Do("update %s %d:%d", c.file, epoch+300*c.n, c.n)
}

// TestOnlyNew checks that every point is sent once, and that the unfinished step is
// not sent.
func TestOnlyNew(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	a := newCounter(t, tool, filepath.Join(dir, "ip_len_in.avg.rrd"))
	newCounter(t, tool, filepath.Join(dir, "ip_len_out.avg.rrd"))
	s := &recorder{}
	opt := options(t, dir, "graphite://127.0.0.1:1")
	p := stub(t, opt, s)
	for round := range 50 {
		for range round % 4 {
			a.update()
		}
		if round%5 == 4 { // not yet finished
			tool.Do("update %s %d:99", a.file, epoch+300*a.n+100)
		}
		if err := p.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var got []graphite.Point
	for _, m := range s.got {
		if m.Path != "tstat.p.ip.packet_length.in.Average" || m.Step != 300 {
			t.Fatalf("%+v", m)
		}
		got = append(got, m.Points...)
	}
	if len(got) != int(a.n) {
		t.Fatalf("%d points, want %d", len(got), a.n)
	}
	for i, pt := range got {
		if pt.Time != epoch+300*int64(i+1) {
			t.Errorf("point %d at %d", i, pt.Time)
		}
	}
	// Since resends points, and does not move the saved position back.
	p.Since = time.Unix(epoch+300*10, 0)
	s.got = nil
	if err := p.pass(t.Context()); err != nil || graphite.Count(s.got) != int(a.n)-9 {
		t.Errorf("%v, %d points since the 10th of %d", err, graphite.Count(s.got), a.n)
	}
	p.Since = time.Time{}
	s.got = nil
	if err := p.pass(t.Context()); err != nil || len(s.got) != 0 {
		t.Errorf("%v, %v", err, s.got)
	}
}

// recorder is a sink that records metrics, or fails.
type recorder struct {
	got  []graphite.Metric
	fail error
}

func (r *recorder) Send(_ context.Context, m []graphite.Metric) error {
	if r.fail == nil {
		r.got = append(r.got, m...)
	}
	return r.fail
}
func (r *recorder) Close() error { return nil }

// differing is a reader that reports a difference in one file.
type differing struct {
	reader
	file string
}

func (d differing) Read(path string, after int64) (*rrdfile.File, error) {
	if filepath.Base(path) == d.file {
		return nil, fmt.Errorf("%s: %w", path, &rrdfile.DifferenceError{Source: "x", Go: &graphite.Point{Time: 300, Value: 1.5}})
	}
	return d.reader.Read(path, after)
}

// TestDifferenceSendsNothing checks that a pass sends and saves nothing if the two
// readers differ, and does not flush the spool.
func TestDifferenceSendsNothing(t *testing.T) {
	tool := rrdtest.Start(t)
	opt := options(t, t.TempDir(), "graphite://127.0.0.1:1")
	opt.Sources = append(opt.Sources, t.TempDir()) // each folder is a separate batch
	for i, name := range []string{"tcp_a.avg.rrd", "tcp_b.avg.rrd"} {
		newCounter(t, tool, filepath.Join(opt.Sources[i], name)).update()
	}
	s := &recorder{}
	p := stub(t, opt, s)
	good := p.reader
	p.Reader, p.reader = rrdfile.Both, differing{good, "tcp_b.avg.rrd"}
	for range 2 {
		err := p.pass(t.Context())
		if !errors.As(err, new(*rrdfile.DifferenceError)) || errors.Is(err, ErrFiles) || !strings.Contains(err.Error(), "tcp_b.avg.rrd: data source x: 1.5 at 300 read in Go, no value by librrd") {
			t.Errorf("%v", err)
		}
		if len(s.got) > 0 || p.sum.Points > 0 || len(p.folders[0].state.Files) > 0 {
			t.Errorf("%d metrics sent: %+v", len(s.got), p.sum)
		}
	}
	p.reader = good
	if err := p.pass(t.Context()); err != nil || len(s.got) != 2 || p.sum.Points != 2 || p.sum.Unchanged != 0 {
		t.Errorf("%v: %+v", err, p.sum)
	}
}

// TestFails checks that points that were not accepted are sent in the next run.
func TestFails(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	c := newCounter(t, tool, filepath.Join(dir, "ip_len_in.avg.rrd"))
	c.update()
	if err := os.WriteFile(filepath.Join(dir, "tcp_bad.avg.rrd"), []byte("no RRD"), 0o644); err != nil {
		t.Fatal(err)
	}
	opt := options(t, dir, "graphite://127.0.0.1:"+strconv.Itoa(carbontest.Port(t)))
	opt.SpoolSize = 0
	sum, err := run(t, opt)
	if !errors.Is(err, graphite.ErrUnavailable) || sum.Points != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
	opt.SpoolSize = 1 << 20
	sum, err = run(t, opt)
	if !errors.Is(err, graphite.ErrUnavailable) || !errors.Is(err, ErrFiles) || sum.Points != 1 || sum.Spooled == 0 || sum.Failed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	// Another protocol does not change the destination.
	if sum, err = run(t, opt); !errors.Is(err, graphite.ErrUnavailable) || sum.Points != 0 || sum.Spooled == 0 {
		t.Errorf("again: %+v, %v", sum, err)
	}
	unlock, err := state.Lock(opt.StateDir, "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	opt.Sources = []string{filepath.Join(dir, "none")}
	if _, err := run(t, opt); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestSkippedFileGetsHint checks that the log has a hint for an unreadable file.
func TestSkippedFileGetsHint(t *testing.T) {
	dir := t.TempDir()
	foreign := append([]byte("RRD\x000003"), make([]byte, 200)...)
	if err := os.WriteFile(filepath.Join(dir, "tcp_x.avg.rrd"), foreign, 0o644); err != nil {
		t.Fatal(err)
	}
	opt := options(t, dir, "-")
	var log bytes.Buffer
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	if _, err := run(t, opt); !errors.Is(err, ErrFiles) {
		t.Error(err)
	}
	if text := log.String(); !strings.Contains(text, "unknown architecture") || !strings.Contains(text, `hint="convert it: rrdtool dump`) {
		t.Errorf("log %q", text)
	}
}

// TestPacing checks that no more new metrics are sent than the server creates. The
// other metrics are not recorded as sent, and are sent later.
func TestPacing(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	for i := range 10 {
		newCounter(t, tool, filepath.Join(dir, fmt.Sprintf("tcp_x%d.avg.rrd", i))).update()
	}
	s := &recorder{}
	opt := options(t, dir, "graphite://127.0.0.1:1?new-metrics-per-minute=4")
	p := stub(t, opt, s)
	for i, want := range []struct{ sent, waiting int64 }{{2, 8}, {0, 8}, {2, 6}, {2, 4}, {2, 2}, {2, 0}, {0, 0}} {
		if i >= 2 { // a minute later
			p.folders[0].state.Counted -= 60
		}
		if err := p.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.sum.New != want.sent || p.sum.Waiting != want.waiting || (p.sum.WaitFor > 0) != (want.waiting > 0) {
			t.Errorf("pass %d: %+v, want %+v", i, p.sum, want)
		}
	}
	if len(s.got) != 10 {
		t.Errorf("%d metrics", len(s.got))
	}
}

// TestWaitingTakesNoMemory checks that points of delayed metrics are not kept in
// memory. A first push may delay all history of thousands of files.
func TestWaitingTakesNoMemory(t *testing.T) {
	opt := options(t, rrdtest.Samples(t), "graphite://127.0.0.1:1?new-metrics-per-minute=4")
	p := stub(t, opt, &recorder{})
	p.sum = &Summary{}
	files, err := p.list()
	if err != nil {
		t.Fatal(err)
	}
	r := &reading{Pusher: p, next: newBatch()}
	for _, f := range files {
		if err := r.file(f); err != nil {
			t.Fatal(err)
		}
	}
	if p.sum.Waiting == 0 || len(r.next.all) != 0 {
		t.Errorf("%d metrics wait, %d points are kept", p.sum.Waiting, len(r.next.all))
	}
}

// TestFolders checks that the folders of a push have separate states, but share the
// budget of new metrics and the destination. A missing folder does not affect others.
func TestFolders(t *testing.T) {
	tool := rrdtest.Start(t)
	top := t.TempDir()
	opt := options(t, filepath.Join(top, "a"), "graphite://127.0.0.1:1?new-metrics-per-minute=4")
	opt.Sources = append(opt.Sources, filepath.Join(top, "b"), filepath.Join(top, "c", "tcp_c0.avg.rrd"))
	opt.Every = time.Minute
	var counters []*counter
	for _, dir := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			c := newCounter(t, tool, filepath.Join(top, dir, fmt.Sprintf("tcp_%s%d.avg.rrd", dir, i)))
			c.update()
			counters = append(counters, c)
		}
	}
	s := &recorder{}
	p := stub(t, opt, s)
	pass := func(seconds, sent, waiting int64, failure string) {
		t.Helper()
		for _, f := range p.folders { // later
			f.state.Counted -= seconds
		}
		err := p.pass(t.Context())
		if text := fmt.Sprint(err); failure == "" && err != nil || !strings.Contains(text, failure) {
			t.Errorf("%v, want %s", err, failure)
		}
		if p.sum.New != sent || p.sum.Waiting != waiting {
			t.Errorf("%+v, want %d sent, %d waiting", p.sum, sent, waiting)
		}
	}
	pass(0, 2, 3, "")
	pass(0, 0, 3, "")
	pass(60, 2, 1, "")
	pass(60, 1, 0, "")
	if len(s.got) != 5 {
		t.Fatalf("%d metrics", len(s.got))
	}
	// A new pusher knows which points were sent.
	p.Close()
	opt.Sources = opt.Sources[1:]
	p = stub(t, opt, s)
	for _, c := range counters {
		c.update()
	}
	pass(60, 0, 0, "")
	if p.sum.Points != 3 || p.sum.Files != 3 {
		t.Errorf("%+v", p.sum)
	}
	if err := os.RemoveAll(filepath.Join(top, "b")); err != nil {
		t.Fatal(err)
	}
	counters[4].update()
	pass(60, 0, 0, "source "+filepath.Join(top, "b")+": no such file or directory")
	if p.sum.Points != 1 {
		t.Errorf("%+v", p.sum)
	}
	if err := os.Remove(counters[4].file); err != nil {
		t.Fatal(err)
	}
	pass(60, 0, 0, "1 of 1 files could not be read")
}

// TestPacingLeavesRoom checks that a newly started carbon drops no metric of the
// probe, although it creates its own metrics under the same limit.
func TestPacingLeavesRoom(t *testing.T) {
	const limit, own = 50, 20
	opt := options(t, t.TempDir(), "graphite://127.0.0.1:1?new-metrics-per-minute=50")
	p := &Pusher{Options: opt, folders: []*folder{{}}}
	p.folders[0].state = pushState{Creates: p.mostCreates(), Counted: time.Now().Unix()}
	for _, every := range []int{1, 20, 60, 61, 90} {
		p.folders[0].state.Creates = p.mostCreates()
		budget, sent := float64(limit), 0
		for second := range 300 {
			budget = min(limit, budget+limit/60.0)
			if second == 60 {
				budget -= own
			}
			p.folders[0].state.Counted--
			if second%every == 0 {
				n := p.allowance()
				p.folders[0].state.Creates -= float64(n)
				budget -= float64(n)
				sent += n
			}
			if budget < 0 {
				t.Fatalf("a push every %d s: %.0f dropped after %d s", every, -budget, second)
			}
		}
		if sent < 100 {
			t.Errorf("a push every %d s: %d metrics in 5 minutes", every, sent)
		}
	}
}

// TestPacedCarbon checks that a carbon with Debian's limit of 50 new metrics per
// minute stores all metrics.
func TestPacedCarbon(t *testing.T) {
	if !*soak {
		t.Skip("takes four minutes: -soak")
	}
	dir := rrdtest.Samples(t)
	want := expected(t, dir, false)
	server := carbontest.Start(t, carbontest.YearsOf300, "CARBON_METRIC_INTERVAL = 60")
	opt := options(t, dir, "graphite://"+server.Addr()+"?new-metrics-per-minute=50")
	for {
		sum := push(t, opt)
		t.Logf("%d new, %d wait for %v s", sum.New, sum.Waiting, sum.WaitFor)
		if sum.Waiting == 0 {
			break
		}
		time.Sleep(20 * time.Second)
	}
	var got carbontest.Points
	carbontest.WaitFor(t, "all points", func() bool {
		got = carbontest.Read(t, server.Whisper(), begin, end)
		return got.Count() >= want.Count()
	})
	compare(t, got, want)
}

// TestCarbonAway stops and restarts carbon and fills its cache. Only points are lost
// that carbon reports as dropped. They arrive when they are sent again.
func TestCarbonAway(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	const files, steps = 100, 590
	var updates strings.Builder
	for i := range steps {
		fmt.Fprintf(&updates, " %d:%d.5", epoch+300*(i+1), i)
	}
	for i := range files {
		c := newCounter(t, tool, filepath.Join(dir, fmt.Sprintf("tcp_x%d.avg.rrd", i)))
		tool.Do("update %s%s", c.file, &updates)
	}
	server := carbontest.Start(t, carbontest.YearsOf300, "MAX_CREATES_PER_MINUTE = inf", "MAX_CACHE_SIZE = 40000",
		"MAX_UPDATES_PER_SECOND = 100", "CARBON_METRIC_INTERVAL = 0")
	server.Down()
	opt := options(t, dir, "graphite://"+server.Addr()+"?new-metrics-per-minute=0")
	sum, err := run(t, opt)
	if !errors.Is(err, graphite.ErrUnavailable) || sum.Points != files*steps || sum.Spooled == 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	server.Up()
	if sum := push(t, opt); sum.Points != 0 || sum.Spooled != 0 {
		t.Errorf("%+v", sum)
	}
	read := func(least int) (got carbontest.Points) {
		carbontest.WaitFor(t, fmt.Sprint(least, " points"), func() bool {
			got = carbontest.Read(t, server.Whisper(), epoch, epoch+300*steps+300)
			return got.Count() >= least
		})
		return got
	}
	dropped := strings.Count(server.Log(), "MetricCache is full")
	got := read(files*steps - dropped)
	t.Logf("%d of %d points dropped by carbon", dropped, files*steps)
	opt.Since = time.Unix(epoch, 0)
	for end := time.Now().Add(90 * time.Second); got.Count() < files*steps && time.Now().Before(end); {
		push(t, opt)
		got = read(files*steps - strings.Count(server.Log(), "MetricCache is full"))
	}
	if got.Count() != files*steps {
		t.Errorf("%d points, want %d", got.Count(), files*steps)
	}
	for path, points := range got {
		for at, v := range points {
			if want := float64((at-epoch)/300) - 0.5; v != want {
				t.Fatalf("%s at %d: %v, want %v", path, at, v, want)
			}
		}
	}
	if strings.Contains(server.Log(), "invalid line") {
		t.Error("carbon got an invalid line")
	}
}

// TestVictoria checks that VictoriaMetrics returns the same times, and the same values
// up to its precision.
func TestVictoria(t *testing.T) {
	dir := rrdtest.Samples(t)
	want := expected(t, dir, false)
	v := carbontest.StartVictoria(t)
	push(t, options(t, dir, "graphite://"+v.Addr+"?new-metrics-per-minute=0"))
	var got carbontest.Points
	carbontest.WaitFor(t, "all points", func() bool {
		got = v.Points(`tstat\\..*`)
		return got.Count() >= want.Count()
	})
	for path, points := range want {
		for at, w := range points {
			if g, ok := got[path][at]; !ok || math.Abs(g-w) > 1e-9*math.Abs(w) {
				t.Fatalf("%s at %d: %v (%v), want %v", path, at, g, ok, w)
			}
		}
	}
	if got.Count() != want.Count() {
		t.Errorf("%d points, want %d", got.Count(), want.Count())
	}
}

// TestCarbonTLS checks a carbon behind TLS that requires a client certificate.
func TestCarbonTLS(t *testing.T) {
	dir := rrdtest.Samples(t)
	server, client := certificates(t)
	l, err := peer.Listen(t.Context(), peer.Options{Addr: ":0", TLS: server})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		text, _ := io.ReadAll(c)
		c.Close()
		got <- text
	}()
	opt := options(t, dir, "graphite+tls://"+l.Addr().String()+"?new-metrics-per-minute=0")
	opt.TLS = client
	sum := push(t, opt)
	if n := bytes.Count(<-got, []byte("\n")); int64(n) != sum.Points || n == 0 {
		t.Errorf("%d lines, want %d", n, sum.Points)
	}
}

func TestParseDest(t *testing.T) {
	for dest, want := range map[string]Dest{
		"graphite://h":                                {scheme: "graphite", addr: "h:2003", creates: -1},
		"graphite+pickle://[::1]":                     {scheme: "graphite", addr: "[::1]:2004", pickle: true, creates: -1},
		"graphite+pickle+tls://h:1":                   {scheme: "graphite", addr: "h:1", pickle: true, tls: true, creates: -1},
		"graphite+tls://h?timeout=2s":                 {scheme: "graphite", addr: "h:2003", tls: true, timeout: 2 * time.Second, creates: -1},
		"graphite://h:9?new-metrics-per-minute=50":    {scheme: "graphite", addr: "h:9", creates: 50},
		"whisper:/srv/w":                              {scheme: "whisper", dir: "/srv/w", creates: -1},
		"whisper:w?schemas=/etc/storage-schemas.conf": {scheme: "whisper", dir: "w", schema: "/etc/storage-schemas.conf", creates: -1},
		"./w":                   {scheme: "whisper", dir: "./w", creates: -1},
		"https://repo:9000/":    {scheme: "https", url: "https://repo:9000", creates: -1},
		"http://127.0.0.1:9000": {scheme: "http", url: "http://127.0.0.1:9000", creates: -1},
		"-":                     {scheme: "-", creates: -1},
	} {
		got, err := ParseDest(dest)
		if err != nil {
			t.Errorf("%s: %v", dest, err)
			continue
		}
		want.text = dest
		if *got != want {
			t.Errorf("%s: %+v, want %+v", dest, *got, want)
		}
	}
	for _, dest := range []string{"", "carbon://h", "graphite://", "graphite:h", "graphite://h/x", "graphite://h?x=1", "graphite://h?timeout=x",
		"graphite://h?new-metrics-per-minute=-1", "graphite://u:secret@h", "whisper:", "whisper:d?x=1", "https://h/other", "graphite://h:x", "graphite://a,b"} {
		_, err := ParseDest(dest)
		if !hint.IsUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", dest, err)
		}
	}
}

// TestRecreated checks that a file that Tstat recreated after its clock was ahead is
// sent from its start, and reported once.
func TestRecreated(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "ip_bitrate_in.avg.rrd")
	start := time.Now().Unix()/1800*1800 - 36000 // where a row of the second archive starts
	make := func(from int64, values int) {
		tool.Do("create %s --start %d --step 300 DS:ip_bitrate_in:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600 RRA:AVERAGE:0.5:6:700", file, from-300)
		for i := range values {
			tool.Do("update %s %d:%d", file, from+int64(i)*300, i)
		}
	}
	var log bytes.Buffer
	opt := options(t, dir, "whisper:"+t.TempDir())
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	pass := func(points, recreated int64) {
		t.Helper()
		if sum := push(t, opt); sum.Points != points || sum.Recreated != recreated {
			t.Errorf("%+v, want %d points", sum, points)
		}
	}
	make(start, 20)
	pass(20, 0)
	for i := range int64(3) { // the clock is 30 days ahead for 10 minutes
		tool.Do("update %s %d:1", file, start+30*86400+i*300)
	}
	pass(2, 0)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	make(start+20*300, 30)
	pass(30, 1)
	pass(0, 0)
	tool.Do("update %s %d:7", file, start+50*300)
	pass(1, 0)
	// The file is replaced by a backup.
	backup, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tool.Do("update %s %d:8", file, start+51*300)
	pass(1, 0)
	if err := os.WriteFile(file, backup, 0o644); err != nil {
		t.Fatal(err)
	}
	pass(31, 1)
	if n := strings.Count(log.String(), "examples="+filepath.Base(file)); n != 2 {
		t.Errorf("%d warnings: %s", n, &log)
	}
}

// TestInfinite checks that infinite values are left out and counted.
func TestInfinite(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "ip_bitrate_in.avg.rrd")
	tool.Do("create %s --start 1458855000 --step 300 DS:ip_bitrate_in:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600", file)
	for i, v := range []string{"1", "inf", "3", "-inf", "5"} {
		tool.Do("update %s %d:%s", file, 1458855300+i*300, v)
	}
	out := &bytes.Buffer{}
	opt := options(t, dir, "-")
	opt.Stdout = out
	if sum := push(t, opt); sum.Points != 3 || sum.NotFinite != 2 || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("%+v: %s", sum, out)
	}
}
