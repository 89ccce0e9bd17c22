package peer

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// TestTLSFailures checks that both sides report why a connection failed. The client
// must do so every time, regardless of which goroutine fails first.
func TestTLSFailures(t *testing.T) {
	a := peertest.NewAuthority(t)
	server, good, other := issue(a, "server"), issue(a, "client"), issue(peertest.NewAuthority(t), "client")
	for _, c := range []struct {
		name           string
		server, client TLS
		err, advice    string // of the client
		log            string // of the server; "": nothing logged
	}{
		{"no certificate", server, TLS{CA: good.CA}, "certificate required", "`tls-cert`", "TLS without a client certificate"},
		{"unknown client", server, TLS{Cert: other.Cert, Key: other.Key, CA: good.CA}, "unknown certificate authority", "in its `tls-ca`", "TLS with a client certificate of an unknown authority"},
		{"unknown server", server, other, "signed by unknown authority", "in `tls-ca`", "TLS whose certificate the peer does not accept"},
		{"plain server", TLS{}, good, "server gave HTTP response to HTTPS client", "does this port speak TLS?", ""},
		{"wrong key", server, TLS{Cert: good.Cert, Key: other.Key, CA: good.CA}, "private key does not match", "`tls-key`", ""},
	} {
		l, stop := serve(t, Server{}, Options{Addr: ":0", TLS: c.server})
		for range 20 {
			client := http.Client{Transport: (&Dialer{TLS: c.client, Timeout: 10 * time.Second}).Transport()}
			_, err := client.Post("https://"+l.Addr().String()+"/", "text/plain", strings.NewReader(strings.Repeat("x", 100_000)))
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(hint.Of(err), c.advice) {
				t.Errorf("%s: %v, hint %q", c.name, err, hint.Of(err))
			}
		}
		refused := int64(0)
		if c.log != "" {
			refused = 20
		}
		awaitRefused(l, refused)
		log := stop()
		if l.Refused() != refused || refused > 0 && strings.Count(log, `reason="`+c.log) != 1 || strings.Count(log, "\n") != int(refused/20) {
			t.Errorf("%s: refused %d, log %s", c.name, l.Refused(), log)
		}
	}
}

// awaitRefused waits until a listener has counted and logged n refusals, which
// happens after the connection has ended.
func awaitRefused(l *Listener, n int64) {
	for end := time.Now().Add(10 * time.Second); l.Refused() < n && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	l.mu.Lock() // Refuse holds the lock until it has logged
	defer l.mu.Unlock()
}

// TestPlainOnTLS checks that a listener with TLS counts connections without TLS,
// but not connections that only check whether the port is open.
func TestPlainOnTLS(t *testing.T) {
	l, stop := serve(t, Server{}, Options{Addr: ":0", TLS: issue(peertest.NewAuthority(t), "server")})
	for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n"} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, c) // until the server has closed it
		c.Close()
	}
	awaitRefused(l, 1)
	if log := stop(); l.Refused() != 1 || !strings.Contains(log, "no TLS on a listener with TLS") {
		t.Errorf("refused %d, log %s", l.Refused(), log)
	}
}

// TestClosedHandshake checks that the error says more than EOF if the server closes
// the connection during the handshake.
func TestClosedHandshake(t *testing.T) {
	addr := peertest.Serve(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 1))
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})
	_, err := TLS{}.Dial(t.Context(), "tcp", addr)
	if err == nil || !strings.Contains(err.Error(), "closed the connection") || hint.Of(err) != "does this port speak TLS?" {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}
