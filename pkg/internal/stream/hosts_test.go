package stream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// from is a connection from an address.
type from struct {
	net.Conn
	addr *net.TCPAddr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// TestHostsShareConnections: silent connections of one host, which may be
// silent for long, keep no other host out; those beyond its share are refused
// and counted.
func TestHostsShareConnections(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), MaxConnections: 8})
	dial := func(host string) net.Conn {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close() })
		s.endpoint.start(t.Context(), s.listeners[0], from{server, &net.TCPAddr{IP: net.ParseIP(host), Port: 1}})
		return client
	}
	open := func(c net.Conn) bool {
		c.SetDeadline(time.Now().Add(patience))
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
	if n := s.Stats().Refused; n != 2 {
		t.Errorf("%d connections refused, want 2", n)
	}
}

// TestHostsShareProbeNames: the names that a host announces count for it.
func TestHostsShareProbeNames(t *testing.T) {
	s := startStream(t, Options{Listen: loopback()})
	dial := func(host string, text string) string {
		client, server := net.Pipe()
		defer client.Close()
		s.endpoint.start(t.Context(), s.listeners[0], from{server, &net.TCPAddr{IP: net.ParseIP(host), Port: 1}})
		client.SetDeadline(time.Now().Add(patience))
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
	text.WriteString(ackHello + " 1 a\n")
	for i := range perPeer(maxProbes) + 1 {
		fmt.Fprintf(&text, "#probe p%d\n", i)
	}
	if got := dial("10.0.0.1", text.String()); !strings.Contains(got, "probe p1024 is one too many") {
		t.Errorf("answer %q", got)
	}
	if got := dial("10.0.0.2", ackHello+" 1 b\n#probe new\n"+logPath+" end\n"); !strings.HasPrefix(got, "ack") {
		t.Errorf("another host: %q", got)
	}
}
