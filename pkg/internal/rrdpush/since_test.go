//go:build linux

package rrdpush

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// repeat runs passes of p at its interval. Before pass i it calls before(i). It ends
// when before returns false.
func repeat(t *testing.T, p *Pusher, before func(pass int) bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pass := 0
	if !before(pass) {
		return
	}
	for range p.Run(ctx) {
		if pass++; !before(pass) {
			cancel()
		}
	}
}

// TestSinceLastsUntilSent checks that in a push with an interval, Since applies to each
// file until the file was sent, also if the first passes fail or leave metrics for later.
func TestSinceLastsUntilSent(t *testing.T) {
	tool := rrdtest.Start(t)
	for _, c := range []struct {
		name, dest string
		fail       int // passes
	}{{"away", "graphite://127.0.0.1:1", 2}, {"waiting", "graphite://127.0.0.1:1?new-metrics-per-minute=2", 0}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"tcp_a.avg.rrd", "tcp_b.avg.rrd"} {
				counter := newCounter(t, tool, filepath.Join(dir, name))
				for range 10 {
					counter.update()
				}
			}
			opt := options(t, dir, c.dest)
			opt.Since, opt.Every = time.Unix(epoch+300*8, 0), time.Minute
			synctest.Test(t, func(t *testing.T) {
				s := &recorder{}
				p := stub(t, opt, s)
				repeat(t, p, func(pass int) bool {
					if s.fail = nil; pass < c.fail {
						s.fail = graphite.ErrUnavailable
					}
					p.folders[0].state.Counted -= 60 // of the budget
					return pass < 5
				})
				if n := graphite.Count(s.got); len(s.got) != 2 || n != 6 {
					t.Errorf("%d metrics with %d points sent, want 2 with the last 3 points of each", len(s.got), n)
				}
			})
		})
	}
}

// TestPrintEvery checks that a push with an interval prints each point once.
func TestPrintEvery(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	c := newCounter(t, tool, filepath.Join(dir, "tcp_a.avg.rrd"))
	for range 5 {
		c.update()
	}
	opt := options(t, dir, "-")
	out := &bytes.Buffer{}
	opt.Stdout, opt.Since, opt.Every = out, time.Unix(epoch+300*3, 0), time.Millisecond
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	repeat(t, p, func(pass int) bool {
		if pass == 3 {
			c.update()
		}
		return pass < 5
	})
	var want strings.Builder
	for n := 3; n <= 6; n++ {
		fmt.Fprintf(&want, "tstat.p.tcp.a.Average %d %d\n", n, epoch+300*n)
	}
	if out.String() != want.String() {
		t.Errorf("printed\n%swant\n%s", out, &want)
	}
}

// TestRenamedMetricIsNew checks that a metric that the table of names renames is sent
// like a new one: with its history, and within the budget of new metrics.
func TestRenamedMetricIsNew(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	var counters []*counter
	for i := range 4 {
		c := newCounter(t, tool, filepath.Join(dir, fmt.Sprintf("tcp_x%d_in.avg.rrd", i)))
		c.update()
		counters = append(counters, c)
	}
	opt := options(t, dir, "graphite://127.0.0.1:1?new-metrics-per-minute=6")
	table := &rrdfile.Table{Histograms: map[string]string{}}
	var s *recorder
	pass := func(sent, created, waiting int64) {
		t.Helper()
		p, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		s = &recorder{}
		p.folders[0].sink, p.folders[0].spool = s, nil
		p.folders[0].state.Counted -= 60
		if err := p.pass(t.Context()); err != nil || p.sum.Points != sent || p.sum.New != created || p.sum.Waiting != waiting {
			t.Errorf("%v: %+v, want %d points, %d new metrics, %d waiting", err, p.sum, sent, created, waiting)
		}
	}
	pass(3, 3, 1)
	pass(1, 1, 0)
	for i, c := range counters {
		c.update()
		table.Histograms[fmt.Sprintf("tcp_x%d_in", i)] = fmt.Sprintf("own.x%d", i)
	}
	opt.Naming, _ = rrdfile.NamingOf("default", table)
	pass(6, 3, 1)
	if path := s.got[0].Path; path != "tstat.p.own.x0.Average" {
		t.Error(path)
	}
	pass(2, 1, 0)
	pass(0, 0, 0)
	// A state that an older version saved has no names.
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range p.folders[0].state.Files {
		f.Metric = ""
	}
	if err := errors.Join(state.Save(p.folders[0].path, stateFormat, p.folders[0].state), p.Close()); err != nil {
		t.Fatal(err)
	}
	counters[0].update()
	pass(1, 0, 0)
}

// TestSpooledBytesOfFailedPass checks that the summary of a pass that fails because the
// spool is full has the size of the spool.
func TestSpooledBytesOfFailedPass(t *testing.T) {
	tool := rrdtest.Start(t)
	opt := options(t, t.TempDir(), "graphite://127.0.0.1:"+strconv.Itoa(carbontest.Port(t)))
	opt.Sources = append(opt.Sources, t.TempDir()) // each folder is a separate batch
	for _, dir := range opt.Sources {
		newCounter(t, tool, filepath.Join(dir, "tcp_a_in.avg.rrd")).update()
	}
	opt.SpoolSize = 150
	first := true
	opt.Naming = func(file string) string { first = !first; return fmt.Sprintf("%v.%s", first, file) }
	sum, err := run(t, opt)
	if !errors.Is(err, graphite.ErrSpoolFull) || sum.Spooled == 0 {
		t.Errorf("%v: %+v", err, sum)
	}
}

// TestLockedIsOneLine checks that the error of a second run names the destination in one
// line.
func TestLockedIsOneLine(t *testing.T) {
	opt := options(t, t.TempDir(), "prometheus+http://127.0.0.1:1")
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := New(opt); !errors.Is(err, state.ErrLocked) || strings.Contains(err.Error(), "\n") ||
		!strings.Contains(err.Error(), " to prometheus+http://127.0.0.1:1/api/v1/write: locked") {
		t.Errorf("got %v", err)
	}
}

// TestSpoolIsSentWithoutFiles checks that a push sends the points in the spool also if
// Tstat's folder is empty or missing.
func TestSpoolIsSentWithoutFiles(t *testing.T) {
	tool := rrdtest.Start(t)
	for name, remove := range map[string]func(dir string) error{
		"empty":   func(dir string) error { return os.Remove(filepath.Join(dir, "tcp_a.avg.rrd")) },
		"missing": os.RemoveAll,
	} {
		dir := filepath.Join(t.TempDir(), "rrd")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		newCounter(t, tool, filepath.Join(dir, "tcp_a.avg.rrd")).update()
		received := make(chan int, 1)
		port := carbontest.Port(t)
		opt := options(t, dir, "graphite://127.0.0.1:"+strconv.Itoa(port))
		if _, err := run(t, opt); !errors.Is(err, graphite.ErrUnavailable) {
			t.Fatal(err)
		}
		p, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := remove(dir); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err == nil {
				text, _ := io.ReadAll(c)
				c.Close()
				received <- strings.Count(string(text), "\n")
			}
		}()
		if err := p.pass(t.Context()); err == nil || errors.Is(err, graphite.ErrUnavailable) || p.sum.Spooled > 0 {
			t.Errorf("%s: %v, %+v", name, err, p.sum)
		}
		select {
		case n := <-received:
			if n != 1 {
				t.Errorf("%s: %d points received", name, n)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: nothing received", name)
		}
	}
}

// TestLongNameBlocksNoOther checks that a file whose name is too long for a Whisper file is
// left out and counted, and that the other files are sent.
func TestLongNameBlocksNoOther(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	for _, name := range []string{strings.Repeat("a", 247), strings.Repeat("b", 248), "tcp_x_in.avg"} {
		c := newCounter(t, tool, filepath.Join(dir, "new"))
		c.update()
		if err := os.Rename(c.file, filepath.Join(dir, name+".rrd")); err != nil {
			t.Fatal(err)
		}
	}
	opt := options(t, dir, "whisper:"+t.TempDir())
	if sum := push(t, opt); sum.Points != 2 || sum.Files != 3 || sum.Unnamed != 1 || sum.TooOld > 0 {
		t.Errorf("%+v", sum)
	}
	list, err := List(opt)
	if err != nil || len(list) != 3 || list[1].LeftOut == "" || list[1].Metric != "" || list[0].LeftOut+list[2].LeftOut != "" {
		t.Errorf("%v: %+v", err, list)
	}
}

// TestWaitingMetricsAreNotCounted checks that a summary does not count the values of metrics
// that wait for a later pass: it would count them again in each pass until they are sent.
func TestWaitingMetricsAreNotCounted(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	for _, name := range []string{"tcp_a.prc50.rrd", "tcp_b.prc50.rrd"} {
		c := newCounter(t, tool, filepath.Join(dir, name))
		c.update()
		for i, v := range []string{"-1", "inf", "U"} {
			tool.Do("update %s %d:%s", c.file, epoch+300*(int(c.n)+i+1), v)
		}
	}
	p := stub(t, options(t, dir, "graphite://127.0.0.1:1?new-metrics-per-minute=2"), &recorder{})
	var want Summary
	for pass := range 2 {
		p.folders[0].state.Counted -= 60
		if err := p.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := Summary{Points: p.sum.Points, Unknown: p.sum.Unknown, NotFinite: p.sum.NotFinite, Negative: p.sum.Negative, Old: p.sum.Old}
		if pass == 0 {
			want = got
		}
		if got != want || got.Points != 1 || got.Negative != 1 || got.NotFinite != 1 {
			t.Errorf("pass %d: %+v, first %+v", pass, got, want)
		}
	}
}
