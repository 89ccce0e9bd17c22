package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

// The load for the RRD cases: a day of points in RRDs with Tstat's file names and
// archives.
const (
	rrdFiles  = 2000
	rrdSteps  = 288
	rrdPoints = rrdFiles * rrdSteps
	rrdBegin  = 1_700_006_400 // a multiple of every archive's step
	rrdEnd    = rrdBegin + 300*rrdSteps
	rrdPasses = 20 // a single pass is too short to measure
)

// rrds creates the RRDs of the RRD cases, unless they exist, and returns their folder.
func (b *bench) rrds(tb *serverTB) (string, error) {
	dir := filepath.Join(b.dir, "rrds")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	text, err := os.ReadFile(filepath.Join(b.root, "pkg", "rrdfile", "testdata", "names.tsv"))
	if err != nil {
		return "", err
	}
	b.logf("making %d RRDs", rrdFiles)
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		return "", err
	}
	tool := rrdtest.Start(tb)
	for i, line := range strings.Split(string(text), "\n")[1 : rrdFiles+1] {
		name, _, _ := strings.Cut(line, "\t")
		file := filepath.Join(part, name)
		source, _, _ := strings.Cut(name, ".")
		tool.Do("create %s --start %d --step 300 DS:%s:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600 RRA:AVERAGE:0.5:6:700 "+
			"RRA:AVERAGE:0.5:24:775 RRA:AVERAGE:0.5:288:797", file, rrdBegin, source[:min(len(source), 19)])
		var updates strings.Builder
		for n := range rrdSteps {
			fmt.Fprintf(&updates, " %d:%d.%d", rrdBegin+300*(n+1), (i*7919+n*104729)%100000, n%1000)
		}
		tool.Do("update %s%s", file, &updates)
	}
	return dir, os.Rename(part, dir)
}

// python returns a command that runs a script of this package with Debian's Python,
// because only that Python finds the modules in Debian's packages.
func (b *bench) python(script string, args ...string) []string {
	return append([]string{carbontest.Python, filepath.Join(b.root, "pkg", "internal", "tools", "bench", script)}, args...)
}

// number returns a side that runs a command and fails unless it prints the expected
// number.
func (b *bench) number(want int, args []string) side {
	return func(ctx context.Context) (usage, error) {
		u, err := b.run(ctx, args...)
		if got := strings.TrimSpace(string(u.out)); err == nil && got != strconv.Itoa(want) {
			err = fmt.Errorf("%s points, not %d", got, want)
		}
		return u, err
	}
}

// caseRRDRead reads the points of RRD files and converts the files' names to metric
// names. It compares this with fetch.py, which only fetches the points and gets one more
// row per file.
func (b *bench) caseRRDRead(ctx context.Context) (err error) {
	tb := &serverTB{}
	defer tb.end(&err)
	dir, err := b.rrds(tb)
	if err != nil {
		return err
	}
	since, until, passes := strconv.Itoa(rrdBegin), strconv.Itoa(rrdEnd), strconv.Itoa(rrdPasses)
	return b.compare(ctx, "RRDs read and named / python3-rrdtool fetch, files/s", rrdFiles*rrdPasses, 2.8,
		b.number(rrdPoints*rrdPasses, []string{filepath.Join(b.dir, "rrdread"), dir, since, passes}),
		b.number(rrdFiles*(rrdSteps+1)*rrdPasses, b.python("fetch.py", dir, since, until, passes)))
}

// lineSink is a fake carbon server that only counts lines.
type lineSink struct {
	net.Listener
	lines atomic.Int64
}

func newLineSink() (*lineSink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &lineSink{Listener: l}
	go peertest.Accept(l, func(c net.Conn) {
		buf := make([]byte, 256<<10)
		for {
			n, err := c.Read(buf)
			s.lines.Add(int64(bytes.Count(buf[:n], []byte("\n"))))
			if err != nil {
				return
			}
		}
	})
	return s, nil
}

func (s *lineSink) port() string {
	_, port, _ := net.SplitHostPort(s.Addr().String())
	return port
}

// counted returns a side that runs f and checks that s received rrdPoints lines, one for
// each point of the load.
func (s *lineSink) counted(f side) side {
	return func(ctx context.Context) (usage, error) {
		s.lines.Store(0)
		u, err := f(ctx)
		if n := s.lines.Load(); err == nil && n != rrdPoints {
			err = fmt.Errorf("%d lines, not %d", n, rrdPoints)
		}
		return u, err
	}
}

// push returns a side that pushes all points in dir to the carbon server at addr, without
// state from earlier runs.
func (b *bench) push(dir, addr string) side {
	return func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		u, err := b.run(ctx, b.tstatrepo("rrd-push", "--to=graphite://"+addr+"?new-metrics-per-minute=0",
			"--state-dir="+filepath.Join(b.out(), "state"), "--probe=p", "--json", dir)...)
		var sum struct{ Points int }
		if err == nil {
			err = json.Unmarshal(u.out, &sum)
		}
		if err == nil && sum.Points != rrdPoints {
			err = fmt.Errorf("%d points, not %d", sum.Points, rrdPoints)
		}
		return u, err
	}
}

func (b *bench) caseRRDPush(ctx context.Context) (err error) {
	tb := &serverTB{}
	defer tb.end(&err)
	dir, err := b.rrds(tb)
	if err != nil {
		return err
	}
	sink, err := newLineSink()
	if err != nil {
		return err
	}
	defer sink.Close()
	old := b.number(rrdPoints, b.python("exporter.py", dir, strconv.Itoa(rrdBegin), strconv.Itoa(rrdEnd), sink.port()))
	return b.compare(ctx, "rrd-push / mPlane's exporter and importer, points/s", rrdPoints, 9,
		sink.counted(b.push(dir, sink.Addr().String())), sink.counted(old))
}

func (b *bench) caseGraphite(ctx context.Context) (err error) {
	tb := &serverTB{}
	defer tb.end(&err)
	dir, err := b.rrds(tb)
	if err != nil {
		return err
	}
	prepared := filepath.Join(b.dir, "prepared.txt")
	file, err := os.Create(prepared)
	if err != nil {
		return err
	}
	defer file.Close()
	args := b.tstatrepo("rrd-push", "--to=-", "--probe=p", dir)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout = file
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("preparing a file: %w", err)
	}
	nc := func(addr string) side {
		return func(ctx context.Context) (usage, error) {
			if err := b.fresh(ctx); err != nil {
				return usage{}, err
			}
			host, port, _ := net.SplitHostPort(addr)
			return b.run(ctx, "sh", "-c", `exec nc -N "$1" "$2" <"$0"`, prepared, host, port)
		}
	}
	carbon := carbontest.Start(tb, "[all]\npattern = .*\nretentions = 300s:15y\n",
		"MAX_CREATES_PER_MINUTE = inf", "MAX_UPDATES_PER_SECOND = 50", "CARBON_METRIC_INTERVAL = 0")
	victoria := carbontest.StartVictoria(tb)
	// VictoriaMetrics stores points as fast as nc sends them, which shows the
	// overhead of tstatrepo. Carbon is slower than both.
	for _, s := range []struct {
		name, addr string
		target     float64
	}{
		{"VictoriaMetrics", victoria.Addr, 0.6}, {"carbon-cache", carbon.Addr(), 0.9},
	} {
		if err := b.compare(ctx, "rrd-push into "+s.name+" / nc with a file, points/s", rrdPoints, s.target, b.push(dir, s.addr), nc(s.addr)); err != nil {
			return err
		}
	}
	return nil
}
