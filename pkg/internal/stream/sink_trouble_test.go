package stream

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// TestNATSTooLarge checks that a stream with a low size limit gets smaller messages. A
// line longer than the limit is dropped and counted, and delays nothing.
func TestNATSTooLarge(t *testing.T) {
	server := startNATS(t)
	nc, err := nats.Connect("nats://" + server.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"SMALL.>"}, MaxMsgSize: 3000}); err != nil {
		t.Fatal(err)
	}
	s := startStream(t, Options{Listen: loopback(), To: []string{"nats://" + server.addr + "/SMALL"}, Drain: time.Second})
	long := logPath + " " + strings.Repeat("y", 8000) + "\n"
	before, after := numbered(logPath, 0, 250), numbered(logPath, 250, 499)
	c := connect(t, s.addr)
	write(t, c, before+long+after)
	c.Close()
	await(t, "the lines", func() bool { return s.acked(0) == 500 })
	sum := s.stop()
	if got := server.text("SMALL"); got != before+after || sum.Sinks[0].Dropped != 1 || s.err != nil {
		t.Errorf("%d bytes of %d, %+v, %v", len(got), len(before+after), sum.Sinks[0], s.err)
	}
}

// TestFilesLeaveNoEmptyFiles makes writing fail repeatedly, because the folder of another
// probe cannot be created. The retries leave no empty compressed files behind.
func TestFilesLeaveNoEmptyFiles(t *testing.T) {
	dir := t.TempDir()
	const blocked = "127_0_0_1/log_udp_complete"
	if err := os.Mkdir(filepath.Join(dir, filepath.Dir(blocked)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, blocked), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := startStream(t, Options{Listen: loopback(), To: []string{"file:" + dir + "?compress=zstd"}})
	c := connect(t, s.addr)
	write(t, c, logPath+" a\n/x/2016_03_24_21_37.out/log_udp_complete b\n")
	c.Close()
	await(t, "the failure", func() bool { return strings.Contains(s.log.String(), "files cannot be written") })
	time.Sleep(2500 * time.Millisecond) // two retries
	if err := os.Remove(filepath.Join(dir, blocked)); err != nil {
		t.Fatal(err)
	}
	await(t, "the lines", func() bool { return s.acked(0) == 2 })
	s.stop()
	if names, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*")); len(names) != 2 {
		t.Errorf("%d files, want 2: %v", len(names), names)
	}
}

// TestAcksEndAtLineEnds checks that no acknowledgement ends within an overlong line, as
// tstatrepo-ack(7) promises.
func TestAcksEndAtLineEnds(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), MaxLine: 4096})
	c := connect(t, s.addr)
	first, long := logPath+" a\n", logPath+" "+strings.Repeat("x", 100_000)+"\n"
	write(t, c, fmt.Sprintf("%s 1 s\n%s%s", protocol.AckHello, first, long[:50_000]))
	await(t, "the reject", func() bool { return s.Stats().Rejects == 1 })
	time.Sleep(100 * time.Millisecond)
	write(t, c, long[50_000:]+first)
	valid := map[string]bool{}
	last := fmt.Sprintf("ack %d\n", 2*len(first)+len(long))
	for _, n := range []int{0, len(first), len(first) + len(long)} {
		valid[fmt.Sprintf("ack %d\n", n)] = true
	}
	c.SetDeadline(time.Now().Add(patience))
	for in := bufio.NewReader(c); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == last {
			break
		}
		if !valid[line] {
			t.Errorf("%q is not at the end of a line", line)
		}
	}
}

// TestReplacedConnectionIsExplained checks that the log says why the endpoint closed the
// connection of an exporter that has connected again.
func TestReplacedConnectionIsExplained(t *testing.T) {
	s := startStream(t, Options{Listen: loopback()})
	for range 2 {
		c := connect(t, s.addr)
		write(t, c, protocol.AckHello+" 1 s\n")
		c.SetDeadline(time.Now().Add(patience))
		if line, err := bufio.NewReader(c).ReadString('\n'); line != "ack 0\n" {
			t.Fatal(line, err)
		}
	}
	await(t, "the log", func() bool { return strings.Contains(s.log.String(), "connection lost") })
	if s.stop(); !strings.Contains(s.log.String(), `err="the exporter reconnected"`) {
		t.Error(s.log.String())
	}
}
