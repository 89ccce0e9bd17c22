package peer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// serve starts a server that accepts every request. stop stops the server and
// returns its log.
func serve(t *testing.T, s Server, opt Options) (l *Listener, stop func() string) {
	t.Helper()
	var log bytes.Buffer
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	l, err := Listen(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	s.Handler, s.Log = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") }), opt.Log
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return l, func() string {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return log.String()
	}
}

// request sends text over a connection and returns the status of the response.
func request(t *testing.T, c net.Conn, err error, text string) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, text)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || (string(body) == "served") != (resp.StatusCode == http.StatusOK) {
		t.Errorf("%s: %s %q, %v", text, resp.Status, body, err)
	}
	return resp.StatusCode
}

// TestWebPages checks that a server refuses requests that a web page makes a
// browser send, and accepts requests of programs, including those of mPlane and
// MATH.
func TestWebPages(t *testing.T) {
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const json = "\r\nContent-Type: text/plain\r\nContent-Length: 2"
	for _, c := range []struct {
		head         string // PORT stands for the port of the listener
		other, pages int    // expected status without and with Linkable
	}{
		{"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nConnection: close\r\nAccept-Encoding: gzip\r\nUser-Agent: Tornado/4.0.2", 200, 200}, // reference implementation
		{"POST / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nAccept-Encoding: identity" + json, 200, 200},                                       // urllib3, the same
		{"POST / HTTP/1.1\r\nHost: localhost:PORT\r\nUser-Agent: Go-http-client/1.1" + json, 200, 200},                                  // math_probe
		{"GET / HTTP/1.0", 200, 200},
		{"GET / HTTP/1.1\r\nHost: LOCALHOST", 200, 200},
		{"GET / HTTP/1.1\r\nHost: repo.localhost:PORT", 200, 200},
		{"GET / HTTP/1.1\r\nHost: [::1]:PORT", 200, 200},
		{"GET / HTTP/1.1\r\nHost: [::1]", 200, 200},
		{"GET / HTTP/1.1\r\nHost: 10.0.0.1:PORT", 200, 200}, // through a tunnel
		{"GET / HTTP/1.1\r\nHost: " + own, 200, 200},
		{"GET / HTTP/1.1\r\nHost: evil.example", 421, 421},
		{"GET / HTTP/1.1\r\nHost: evil.example:PORT", 421, 421},
		{"GET / HTTP/1.1\r\nHost: localhost.evil.example:PORT", 421, 421},
		{"GET / HTTP/1.1\r\nHost: notlocalhost", 421, 421},
		{"POST http://evil.example/ HTTP/1.1\r\nHost: localhost" + json, 421, 421},
		{"POST / HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: https://evil.example" + json, 403, 403},
		{"POST / HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: null" + json, 403, 403},
		{"POST / HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: http://localhost:PORT" + json, 403, 403},
		{"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate", 200, 200},
		{"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate", 200, 200},
		{"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate", 403, 200}, // a link
		{"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors", 403, 403},  // an image
		{"GET / HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors", 403, 403},   // another port
	} {
		for linkable, want := range map[bool]int{false: c.other, true: c.pages} {
			l, stop := serve(t, Server{Linkable: linkable, MaxConns: 10}, Options{Addr: ":0"})
			_, port, _ := net.SplitHostPort(l.Addr().String())
			head := strings.ReplaceAll(c.head, "PORT", port)
			conn, err := net.Dial("tcp", l.Addr().String())
			if got := request(t, conn, err, head+"\r\n\r\n{}"); got != want {
				t.Errorf("%q: %d, want %d", head, got, want)
			}
			refused := int64(0)
			if want != 200 {
				refused = 1
			}
			if log := stop(); l.Refused() != refused || strings.Count(log, `msg="connection refused" peer=127.0.0.1:`) != int(refused) {
				t.Errorf("%q: refused %d; log %s", head, l.Refused(), log)
			}
		}
	}
}

// TestNamesElsewhere checks that any host name is accepted where DNS rebinding is
// no risk: with TLS, on addresses other than loopback, and for the name in
// Options.Addr.
func TestNamesElsewhere(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: repository.example\r\n\r\n"
	files := issue(peertest.NewAuthority(t), "server")
	l, stop := serve(t, Server{}, Options{Addr: ":0", TLS: files})
	c, err := files.Dial(t.Context(), "tcp", l.Addr().String())
	if got := request(t, c, err, head); got != 200 {
		t.Errorf("with TLS: %d", got)
	}
	stop()
	if l := (&Listener{host: "Repository.example"}); !l.isOwnName("repository.example:80") || l.isOwnName("evil.example") {
		t.Error("the name of the setting does not count")
	}
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "127.0.0.2:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "10.0.0.1:1": false, "[2001:db8::1]:1": false} {
		if got := isLoopback(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// TestRefusals checks that each cause is logged at most once per logEvery, and that
// every refusal is counted.
func TestRefusals(t *testing.T) {
	l, stop := serve(t, Server{}, Options{Addr: ":0"})
	for i := range 5 {
		for _, head := range []string{"Host: evil.example", "Host: localhost\r\nOrigin: null"} {
			c, err := net.Dial("tcp", l.Addr().String())
			request(t, c, err, fmt.Sprintf("GET /%d HTTP/1.1\r\n%s\r\n\r\n", i, head))
		}
	}
	log := stop()
	for _, want := range []string{
		`reason="request under a foreign name, perhaps of a web page" refused=1 host=evil.example hint=`,
		`reason="request of a web page" refused=2 origin=null hint=`,
	} {
		if strings.Count(log, want) != 1 {
			t.Errorf("%s\nis not once in\n%s", want, log)
		}
	}
	if l.Refused() != 10 {
		t.Errorf("refused %d, want 10", l.Refused())
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(Refusals)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`label:{name:"listen" value:"%s"} label:{name:"reason" value:"request of a web page"} counter:{value:5`, l.Addr())
	if got := strings.ReplaceAll(fmt.Sprint(families), "  ", " "); !strings.Contains(got, want) {
		t.Errorf("%s; want %s", got, want)
	}
}

func TestIsHTTP(t *testing.T) {
	for head, want := range map[string]bool{
		"GET ": true, "POST / HTTP/1.1\r\nHost: x\r\n": true, "OPTIONS * HTTP/1.1\r\n": true, "PRI * HTTP/2.0\r\n": true,
		"EVIL /x HTTP/1.1\r\nHost: x\r\n": true, "a /x HTTP/1.0\n": true, // a page may choose the method
		"/data/2015_01_01_00_00.out/log_tcp_complete 10.0.0.1 GET / HTTP/1.1\n": false, // a log_http_complete has such values
		"#tstatrepo-ack 1 x\n": false, "": false, "GE": false, "GETS x\n": false, "10.0.0.1 443 10.0.0.2 80\n": false, "\n": false,
	} {
		if got := IsHTTP([]byte(head)); got != want {
			t.Errorf("%q: %v", head, got)
		}
	}
}
