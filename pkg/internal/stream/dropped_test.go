package stream

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// unreachable returns an address on which nobody listens.
func unreachable(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestStopCountsLinesOfOptionalSink checks that the lines that wait for an optional sink
// when the stream ends count as dropped.
func TestStopCountsLinesOfOptionalSink(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), ToOptional: []string{"tcp://" + unreachable(t)}, Drain: 50 * time.Millisecond})
	c := connect(t, s.addr)
	write(t, c, numbered(logPath, 0, 1000))
	c.Close()
	await(t, "all lines", func() bool { return s.acked(0) == 1000 })
	sum := s.stop()
	if o := sum.Sinks[1]; s.err != nil || o.Lines != 0 || o.Dropped != 1000 || sum.Sinks[0].Dropped != 0 {
		t.Errorf("%+v, %v", sum.Sinks, s.err)
	}
}

// TestStopCountsUndeliveredLines checks that the number of lost lines of an old exporter
// includes all lines that were read together with the one that no sink accepts.
func TestStopCountsUndeliveredLines(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), To: []string{"tcp://" + unreachable(t)}, Drain: 50 * time.Millisecond, Queue: 4 << 10})
	c := connect(t, s.addr)
	text := ""
	for range 10 { // 20 runs, each of which takes at least 1 KiB of the queue
		text += logPath + " a\n" + "/x/2016_03_24_21_37.out/log_udp_complete b\n"
	}
	write(t, c, text+"rubbish\n")
	await(t, "a full queue", func() bool { return s.Stats().Unacked >= 5 })
	sum := s.stop()
	var unacked *UnackedError
	if !errors.As(s.err, &unacked) || unacked.Lines != 20 {
		t.Errorf("%+v, %v", sum, s.err)
	}
}

// TestStopWithBlockedStdout checks that a stream ends although nobody reads its standard
// output.
func TestStopWithBlockedStdout(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	s := startStream(t, Options{Listen: loopback(), Stdout: w, Drain: 50 * time.Millisecond})
	c := connect(t, s.addr)
	write(t, c, numbered(logPath, 0, 10))
	c.Close()
	await(t, "the lines", func() bool { return s.Stats().Unacked == 10 })
	s.end()
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream does not end")
	}
	var unacked *UnackedError
	if !errors.As(s.err, &unacked) || unacked.Lines != 10 {
		t.Errorf("%v", s.err)
	}
}
