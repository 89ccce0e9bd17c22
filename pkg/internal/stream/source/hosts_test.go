package source

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// from is a connection with the given remote address.
type from struct {
	net.Conn
	addr *net.TCPAddr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// acks is an Inlet that acks every delivery at once.
type acks struct{}

func (acks) Deliver(_ context.Context, t batch.Text) error {
	t.Acked()
	return nil
}

// testEndpoint returns an endpoint with its listener. Both are closed at the end
// of the test.
func testEndpoint(t *testing.T, connections int) (*Endpoint, *peer.Listener) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := New(Options{
		NewInlet: func() Inlet { return acks{} }, MaxRead: 64 << 10, Counts: stats.NewStream(), Probes: new(peer.Probes),
		MaxConnections: connections, IdleTimeout: time.Hour, MaxLine: 32 << 10, State: filepath.Join(t.TempDir(), "x"), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := peer.ListenAll([]peer.Options{{Addr: ":0"}}, log)
	if err != nil {
		t.Fatal(err)
	}
	e := s.NewEndpoint()
	t.Cleanup(func() {
		e.Stop(l)
		e.Wait()
		peer.CloseAll(l)
	})
	return e, l[0]
}

// TestHostsShareConnections checks that silent connections of one host do not lock
// out other hosts. Connections beyond the share of a host are refused and counted.
func TestHostsShareConnections(t *testing.T) {
	e, l := testEndpoint(t, 8)
	dial := func(host string) net.Conn {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close() })
		e.start(t.Context(), l, from{server, &net.TCPAddr{IP: net.ParseIP(host), Port: 1}})
		return client
	}
	open := func(c net.Conn) bool {
		c.SetDeadline(time.Now().Add(time.Minute))
		_, err := c.Write([]byte("/a/log_udp_complete x\n"))
		return err == nil
	}
	for i := range 4 {
		if got := open(dial("10.0.0.1")); got != (i < 2) {
			t.Errorf("connection %d of the host open: %v", i, got)
		}
	}
	if !open(dial("10.0.0.2")) {
		t.Error("another host was refused")
	}
	if n := l.Refused(); n != 2 {
		t.Errorf("%d connections refused, want 2", n)
	}
}

// TestHostsShareProbeNames checks that the names announced by a host count
// against its share.
func TestHostsShareProbeNames(t *testing.T) {
	e, l := testEndpoint(t, 1024)
	dial := func(host string, text string) string {
		client, server := net.Pipe()
		defer client.Close()
		e.start(t.Context(), l, from{server, &net.TCPAddr{IP: net.ParseIP(host), Port: 1}})
		client.SetDeadline(time.Now().Add(time.Minute))
		go io.WriteString(client, text)
		answers := bufio.NewScanner(client)
		for answers.Scan() {
			if line := answers.Text(); strings.HasPrefix(line, "error") || strings.HasSuffix(text, "end\n") && line != "ack 0" {
				return line
			}
		}
		return ""
	}
	var text strings.Builder
	text.WriteString(protocol.AckHello + " 1 a\n")
	for i := range protocol.PerPeer(maxProbes) + 1 {
		fmt.Fprintf(&text, "#probe p%d\n", i)
	}
	if got := dial("10.0.0.1", text.String()); !strings.Contains(got, "probe p1024 is one too many") {
		t.Errorf("answer %q", got)
	}
	if got := dial("10.0.0.2", protocol.AckHello+" 1 b\n#probe new\n"+"/t/log_udp_complete end\n"); !strings.HasPrefix(got, "ack") {
		t.Errorf("another host: %q", got)
	}
}
