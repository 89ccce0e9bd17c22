package stream

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// TestSources checks that lines are counted by probe and address, even after
// the connections have ended, and by folder.
func TestSources(t *testing.T) {
	known := new(peer.Probes)
	known.Replace([]peer.Probe{{Name: "turin", Networks: peer.Networks{netip.MustParsePrefix("127.0.0.0/8")}}})
	began := time.Now()
	s := startStream(t, Options{Listen: loopback(), Probes: known})
	sources := func() string {
		var list []string
		for _, o := range s.Stats().Sources {
			if o.Lines > 0 && (o.Last.Before(began) || o.Last.After(time.Now())) {
				t.Errorf("last line at %v", o.Last)
			}
			list = append(list, fmt.Sprintf("%s %s: %d connections, %d lines, %d rejects", o.Probe, o.From, o.Connections, o.Lines, o.Rejects))
		}
		return strings.Join(list, "\n")
	}
	expect := func(want string) {
		t.Helper()
		await(t, want, func() bool { return sources() == want })
	}
	expect("")
	a, b := connect(t, s.addr), connect(t, s.addr)
	expect("turin 127.0.0.1: 2 connections, 0 lines, 0 rejects")
	write(t, a, numbered(logPath, 0, 3))
	write(t, b, numbered(logPath, 0, 2)+"rubbish\n")
	expect("turin 127.0.0.1: 2 connections, 5 lines, 1 rejects")
	a.Close()
	expect("turin 127.0.0.1: 1 connections, 5 lines, 1 rejects")
	b.Close()
	expect("turin 127.0.0.1: 0 connections, 5 lines, 1 rejects")
}

// TestTrouble checks that the statistics of an unavailable sink show the reason
// and the queued bytes until the sink accepts lines.
func TestTrouble(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := startStream(t, Options{Listen: loopback(), To: []string{"tcp://" + addr}})
	sink := func() SinkStats { return s.Stats().Sinks[0] }
	write(t, connect(t, s.addr), numbered(logPath, 0, 3))
	await(t, "trouble", func() bool { c := sink(); return strings.Contains(c.Trouble, "refused") && c.Queued > 0 })
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	await(t, "no trouble", func() bool { c := sink(); return c.Trouble == "" && c.Queued == 0 && c.Lines == 3 })
}
