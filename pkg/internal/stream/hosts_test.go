package stream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
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

// TestNamesShareRoom: a peer that makes up names leaves room for those of
// others; the peer "" may fill it. Names that were not used for a day give way.
func TestNamesShareRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s nameSet
		added := func(who string, from, to int) (n int) {
			for i := from; i < to; i++ {
				if has, _ := s.add(fmt.Sprint(who, i), who, 100); has {
					n++
				}
			}
			return n
		}
		if n := added("a", 0, 200); n != 25 {
			t.Errorf("a peer has %d names of 100, want 25", n)
		}
		if n := added("b", 0, 5); n != 5 {
			t.Errorf("another has %d, want 5", n)
		}
		if n := added("", 0, 200); n != 70 {
			t.Errorf("those without a bound of their own are %d, want 70", n)
		}
		if n := added("b", 5, 6); n != 0 {
			t.Error("there is room in a full set")
		}
		time.Sleep(nameAge / 2)
		s.used("a7")
		time.Sleep(nameAge/2 + time.Second)
		if n := added("b", 10, 200); n != 25 {
			t.Errorf("after a day %d, want 25", n)
		}
		if has, fresh := s.add("a7", "c", 100); !has || fresh || s.held["a"] != 1 {
			t.Errorf("a name in use was forgotten: %v", s.held)
		}
	})
}

// TestHostsShareUnknownLogs: a host that makes up logs leaves room for those of
// others, and the reason of its rejects says what is wrong.
func TestHostsShareUnknownLogs(t *testing.T) {
	var types typeNames
	reason := ""
	for i := range maxTypes {
		reason = types.check(fmt.Sprintf("log_new_%d", i), "10.0.0.1")
	}
	if want := `"log_new_63" is one unknown log too many, at most 64 are accepted, 16 of one host`; reason != want {
		t.Errorf("%q, want %q", reason, want)
	}
	for name, who := range map[string]string{"log_other": "10.0.0.2", "log_new_1": "10.0.0.1", "log_udp_complete": "10.0.0.1"} {
		if reason := types.check(name, who); reason != "" {
			t.Errorf("%s of %s: %s", name, who, reason)
		}
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
