package peer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxHeader is the maximum size of request and response headers in bytes.
const maxHeader = 64 << 10

// Server is an HTTP server that limits connections and the duration of requests. It
// refuses requests forged by web pages (CSRF).
type Server struct {
	Handler http.Handler
	// Linkable allows links from other web pages to this server. GET requests
	// must then have no side effects.
	Linkable bool
	// MaxConns is the maximum number of connections over all listeners; 0 means no
	// limit. Further connections wait. A single host may have PerHost(MaxConns)
	// connections; more are refused.
	MaxConns int
	// ReadTimeout limits the time to read a request with its body; 0 means 1
	// minute. A body slower than slowestBody fails earlier.
	ReadTimeout  time.Duration
	WriteTimeout time.Duration // of a response; 0: none
	// Grace is how long requests in progress may continue after Serve's ctx is
	// done. If Interrupt is set, their contexts are canceled with ctx.
	Grace     time.Duration
	Interrupt bool
	Log       *slog.Logger // logs failed connections at debug level
}

// Serve serves all listeners until ctx is done or one of them fails. It then closes
// all listeners. Serve returns nil if it stopped because ctx is done.
func (s *Server) Serve(ctx context.Context, list ...*Listener) error {
	g, running := errgroup.WithContext(ctx)
	base := context.Background()
	if s.Interrupt {
		base = running
	}
	hosts := NewShares(s.MaxConns, PerHost(s.MaxConns))
	for _, l := range list {
		srv := s.server(l)
		srv.BaseContext = func(net.Listener) context.Context { return context.WithValue(base, listenerKey{}, l) }
		var listener net.Listener = l
		if s.MaxConns > 0 {
			listener = &limited{l, running, hosts}
			srv.ConnState = func(c net.Conn, state http.ConnState) {
				if state == http.StateClosed || state == http.StateHijacked {
					hosts.Release(ConnHost(c))
				}
			}
		}
		g.Go(func() error {
			err := srv.Serve(listener)
			if errors.Is(err, http.ErrServerClosed) || running.Err() != nil {
				return nil
			}
			return err
		})
		g.Go(func() error {
			<-running.Done()
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Grace)
			defer cancel()
			if srv.Shutdown(limit) != nil {
				return srv.Close()
			}
			return nil
		})
	}
	// Wait for ctx even if list is empty.
	g.Go(func() error {
		<-running.Done()
		return nil
	})
	return g.Wait()
}

// server returns an http.Server for a listener.
func (s *Server) server(l *Listener) *http.Server {
	timeout := cmp.Or(s.ReadTimeout, time.Minute)
	return &http.Server{
		Handler:           s.guard(&steadyHandler{s.Handler, timeout}),
		ReadHeaderTimeout: 20 * time.Second,
		ReadTimeout:       timeout,
		WriteTimeout:      s.WriteTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(&serverLog{l, s.Log}, "", 0),
	}
}

// PerHost returns the maximum number of connections of a single host: a quarter of the
// total, but at least one. Hosts behind the same address count as one host. Loopback
// addresses have no such limit; see Host.
func PerHost(total int) int { return max(1, total/4) }

// ErrTooManyOfHost is the reason for refusing a connection from a host that already has
// the maximum number of connections; see PerHost.
var ErrTooManyOfHost = errors.New("its host has as many connections as one may have")

// ConnHost returns the host of a connection's peer; see Host.
func ConnHost(c net.Conn) string {
	addr, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return Host(addr.Addr())
}

// limited is a listener that limits the number of connections, in total and per host.
// It does not wrap the connections, so that the kernel can still use sendfile.
type limited struct {
	*Listener
	ctx   context.Context
	hosts *Shares // shared by all listeners
}

// Accept waits for a connection first and then for a place for it. The reverse order
// would reserve places for listeners to which nobody connects.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		err = l.hosts.acquireWithin(l.ctx, ConnHost(c))
		if err == nil {
			return c, nil
		}
		c.Close()
		if !errors.Is(err, errBound) { // the server is shutting down
			return nil, net.ErrClosed
		}
		l.Refuse(c.RemoteAddr(), ErrTooManyOfHost)
	}
}

// After bodyGrace, the average rate of a request body must be at least slowestBody bytes
// per second. Even a probe with a very slow uplink reaches this rate. An attacker must
// keep sending at this rate to hold a connection open.
const (
	slowestBody = 1 << 10
	bodyGrace   = 10 * time.Second
)

// steadyHandler makes request bodies fail if they arrive too slowly.
type steadyHandler struct {
	http.Handler
	timeout time.Duration // of a whole request
}

func (h *steadyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &steadyBody{ReadCloser: r.Body, conn: http.NewResponseController(w), end: time.Now().Add(h.timeout)}
	}
	h.Handler.ServeHTTP(w, r)
}

// steadyBody is the body of a request. Read fails with os.ErrDeadlineExceeded if
// the peer is too slow.
type steadyBody struct {
	io.ReadCloser
	conn   *http.ResponseController
	end    time.Time // deadline of the request
	n      int64     // bytes read
	waited time.Duration
}

func (b *steadyBody) Read(p []byte) (int, error) {
	begin := time.Now()
	limit := begin.Add(bodyGrace + time.Duration(b.n)*time.Second/slowestBody - b.waited)
	if limit.After(b.end) {
		limit = b.end
	}
	b.conn.SetReadDeadline(limit) // if it fails, Read fails too
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.waited += time.Since(begin)
	if err != nil {
		b.conn.SetReadDeadline(b.end) // the server continues to read, to detect a disconnect
	}
	return n, err
}
