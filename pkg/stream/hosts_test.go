package stream

import (
	"net"
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
