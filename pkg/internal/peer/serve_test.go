package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is an in-memory network whose hosts can have any address.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

// pipe is a connection with the given remote address.
type pipe struct {
	net.Conn
	from *net.TCPAddr
}

func (p *pipe) RemoteAddr() net.Addr { return p.from }

// newPipes returns a network and a listener on it.
func newPipes(srv *Server) (*pipes, *Listener) {
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	r := &refuser{listen: p.Addr(), log: srv.Log}
	return p, &Listener{Listener: &filter{Listener: p, refuser: r}, refuser: r}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80} }

// dial connects from a host.
func (p *pipes) dial(host string) net.Conn {
	client, server := net.Pipe()
	p.conns <- &pipe{server, &net.TCPAddr{IP: net.ParseIP(host), Port: 1}}
	return client
}

// servePipes runs a server in a synctest bubble while f runs.
func servePipes(t *testing.T, srv Server, log *bytes.Buffer, f func(t *testing.T, p *pipes, l *Listener)) {
	synctest.Test(t, func(t *testing.T) {
		srv.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		p, l := newPipes(&srv)
		ended := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- srv.Serve(ctx, l) }()
		f(t, p, l)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// get sends a request over a connection and returns the status of the response.
func get(c net.Conn) (int, error) {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

// TestServerBoundsHosts checks that a host that keeps unfinished requests on all
// connections of its share does not lock out others. Further connections of the
// host are refused, counted and logged. Loopback is only limited by the total.
func TestServerBoundsHosts(t *testing.T) {
	var log bytes.Buffer
	srv := Server{Handler: http.NotFoundHandler(), MaxConns: 8}
	servePipes(t, srv, &log, func(t *testing.T, p *pipes, l *Listener) {
		var held []net.Conn
		for i := range 5 {
			c := p.dial("10.0.0.1")
			defer c.Close()
			_, err := io.WriteString(c, "GET / HTTP/1.1\r\n")
			if refused := err != nil; refused != (i >= 2) {
				t.Errorf("connection %d of the host refused: %v", i, refused)
			}
			held = append(held, c)
		}
		for _, host := range []string{"10.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.1"} {
			c := p.dial(host)
			defer c.Close()
			if code, err := get(c); code != 404 {
				t.Errorf("%s: %d, %v", host, code, err)
			}
		}
		if l.Refused() != 3 || strings.Count(log.String(), ErrTooManyOfHost.Error()) != 1 || !strings.Contains(log.String(), "10.0.0.1") {
			t.Errorf("refused %d, log: %s", l.Refused(), &log)
		}
		held[0].Close()
		synctest.Wait()
		c := p.dial("10.0.0.1")
		defer c.Close()
		if code, err := get(c); code != 404 {
			t.Errorf("after one was closed: %d, %v", code, err)
		}
	})
}

// serveTwo runs a server on two networks, each with a listener. stop stops the
// server and returns the error of Serve.
func serveTwo(t *testing.T, srv *Server) (from []*pipes, list []*Listener, stop func() error) {
	for range 2 {
		p, l := newPipes(srv)
		from, list = append(from, p), append(list, l)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- srv.Serve(ctx, list...) }()
	return from, list, func() error {
		cancel()
		return <-ended
	}
}

// TestServerBoundsListenersTogether checks that all listeners share one limit, and
// that a listener without connections reserves no place.
func TestServerBoundsListenersTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := Server{Handler: http.NotFoundHandler(), MaxConns: 1, Log: slog.New(slog.DiscardHandler)}
		from, _, stop := serveTwo(t, &srv)
		asked := func(c net.Conn) {
			t.Helper()
			if code, err := get(c); code != 404 {
				t.Errorf("%d, %v", code, err)
			}
		}
		for _, p := range append(from, from...) {
			c := p.dial("10.0.0.1")
			asked(c)
			c.Close()
			synctest.Wait()
		}
		first := from[0].dial("10.0.0.1")
		asked(first)
		second := from[1].dial("127.0.0.1")
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			asked(second)
		}()
		synctest.Wait()
		select {
		case <-answered:
			t.Error("two connections are served at a time")
		default:
		}
		first.Close()
		<-answered
		// A connection that waits for a place does not delay the shutdown.
		third := from[0].dial("127.0.0.1")
		synctest.Wait()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if _, err := third.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection that waited: %v", err)
		}
		second.Close()
	})
}

// TestHostAtItsBoundBlocksNoListener checks that a connection that waits for a
// place is refused once its host has reached its limit. Otherwise it would block
// its listener.
func TestHostAtItsBoundBlocksNoListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := Server{Handler: http.NotFoundHandler(), MaxConns: 4, Log: slog.New(slog.DiscardHandler)}
		from, list, stop := serveTwo(t, &srv)
		var local []net.Conn
		for range srv.MaxConns {
			local = append(local, from[0].dial("127.0.0.1"))
		}
		for _, p := range from {
			defer p.dial("10.0.0.1").Close()
			synctest.Wait() // one connection waits at each listener
		}
		for _, c := range local[:2] {
			c.Close()
			synctest.Wait()
		}
		c := from[1].dial("127.0.0.1")
		if code, err := get(c); code != 404 {
			t.Errorf("%d, %v", code, err)
		}
		if n := list[1].Refused(); n != 1 {
			t.Errorf("%d connections refused, want 1", n)
		}
		for _, c := range append(local, c) {
			c.Close()
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestInterruptWhenListenerFails checks that requests in progress also end when the
// server ends because a listener failed.
func TestInterruptWhenListenerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		srv := Server{Interrupt: true, Grace: time.Hour, Log: slog.New(slog.DiscardHandler),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}
		p, l := newPipes(&srv)
		ended := make(chan error)
		go func() { ended <- srv.Serve(t.Context(), l) }()
		c := p.dial("127.0.0.1")
		defer c.Close()
		go get(c)
		synctest.Wait()
		p.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) || time.Since(started) > time.Minute {
			t.Errorf("it ended after %v: %v", time.Since(started), err)
		}
	})
}

// TestServerEndsSlowBodies checks that a body slower than slowestBody fails early,
// and that a slow but steady body is read to its end.
func TestServerEndsSlowBodies(t *testing.T) {
	type result struct {
		n    int
		err  error
		took time.Duration
	}
	results := make(chan result, 2)
	srv := Server{ReadTimeout: time.Hour, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		body, err := io.ReadAll(r.Body)
		results <- result{len(body), err, time.Since(begin)}
	})}
	servePipes(t, srv, new(bytes.Buffer), func(t *testing.T, p *pipes, _ *Listener) {
		send := func(each int) result {
			c := p.dial("10.0.0.1")
			defer c.Close()
			go io.Copy(io.Discard, c)
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 100*each)
			for range 100 {
				if _, err := c.Write(make([]byte, each)); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			return <-results
		}
		if r := send(2); !errors.Is(r.err, os.ErrDeadlineExceeded) || r.took > 11*time.Second {
			t.Errorf("2 bytes a second: %+v", r)
		}
		if r := send(1500); r.err != nil || r.n != 150_000 {
			t.Errorf("1,500 bytes a second: %+v", r)
		}
	})
}
