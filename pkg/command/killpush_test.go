//go:build linux

package command

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

// lineSink is a carbon that records every line.
type lineSink struct {
	addr string
	net.Listener

	mu    sync.Mutex
	lines map[string]int
	conns sync.WaitGroup
}

func (s *lineSink) up(t *testing.T) {
	t.Helper()
	addr := s.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.Listener, s.addr = l, l.Addr().String()
	s.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() {
				defer c.Close()
				scan := bufio.NewScanner(c)
				s.mu.Lock()
				defer s.mu.Unlock()
				for scan.Scan() {
					s.lines[scan.Text()]++
				}
			})
		}
	})
}

func (s *lineSink) down() {
	s.Close()
	s.conns.Wait()
}

// TestKillPush kills pushes at random times, while the destination is up or down. After
// one more run, every point must have arrived.
func TestKillPush(t *testing.T) {
	rounds := 5
	if *soak {
		rounds = 50
	}
	tool := rrdtest.Start(t)
	dir, state := t.TempDir(), t.TempDir()
	const files, epoch = 200, 1_700_000_100
	steps := 0
	update := func(n int) {
		var b strings.Builder
		for range n {
			steps++
			fmt.Fprintf(&b, " %d:%d", epoch+300*steps, steps)
		}
		for i := range files {
			tool.Do("update %s/tcp_x%d.avg.rrd%s", dir, i, &b)
		}
	}
	for i := range files {
		tool.Do("create %s/tcp_x%d.avg.rrd --start %d --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:5000", dir, i, epoch)
	}
	sink := &lineSink{lines: map[string]int{}}
	sink.up(t)
	defer func() { sink.down() }()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := func() *exec.Cmd {
		return &exec.Cmd{Path: exe, Args: []string{"tstatrepo", "rrd-push", "--probe", "p", "--state-dir", state, "--retry-timeout", "0s",
			"--to", "graphite://" + sink.addr + "?new-metrics-per-minute=0", dir}}
	}
	kills := 0
	for round := range rounds {
		update(min(200, 20+rand.IntN(500)))
		for range 1 + rand.IntN(3) {
			away := rand.IntN(3) == 0
			if away {
				sink.down()
			}
			cmd := command()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rand.Int64N(int64(250 * time.Millisecond)))) // kill at a random time
			cmd.Process.Kill()
			cmd.Wait()
			kills++
			if away {
				sink.up(t)
			}
		}
		cmd := command()
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("round %d: %v: %s", round, err, &stderr)
		}
		sink.mu.Lock()
		for i := range files {
			for n := 1; n <= steps; n++ {
				if line := fmt.Sprintf("tstat.p.tcp.x%d.Average %d %d", i, n, epoch+300*n); sink.lines[line] == 0 {
					t.Fatalf("round %d: no line %q", round, line)
				}
			}
		}
		sink.mu.Unlock()
		if left, _ := filepath.Glob(filepath.Join(state, "rrd-push", "*.spool", "*.batch")); len(left) > 0 {
			t.Errorf("round %d: left in the spool: %v", round, left)
		}
	}
	again := 0
	for _, n := range sink.lines {
		again += n - 1
	}
	t.Logf("%d points, %d kills, %d lines came again", files*steps, kills, again)
	if len(sink.lines) < files*steps || again > kills*2*210_000 {
		t.Errorf("%d lines of %d points, %d came again after %d kills", len(sink.lines), files*steps, again, kills)
	}
}
