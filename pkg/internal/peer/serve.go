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

// maxHeader bounds the header of a request or of an answer, in bytes.
const maxHeader = 64 << 10

// Server serves HTTP within limits of time and number. It refuses requests that
// web pages make a browser send.
type Server struct {
	Handler http.Handler
	// Linkable allows links from web pages to the pages of this server, which
	// must not change anything when they are opened.
	Linkable bool
	// MaxConns bounds the connections of all listeners that are served at a
	// time; 0: no limit. Further connections wait: one of each listener, and
	// those in the queues of the kernel. One host may have PerHost of MaxConns:
	// its further connections are refused.
	MaxConns int
	// ReadTimeout bounds the time to read a request with its body; 0: 1m. A body
	// that arrives too slowly, see slowestBody, ends earlier.
	ReadTimeout  time.Duration
	WriteTimeout time.Duration // of an answer; 0: none
	// Grace is how long requests in hand have left when Serve ends. Their own
	// contexts end then only if Interrupt is set.
	Grace     time.Duration
	Interrupt bool
	Log       *slog.Logger // connections that break, for debugging
}

// Serve serves the connections of all listeners and closes them when ctx ends
// or one fails. The end of ctx is not an error.
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
			listener = &bounded{l, running, hosts}
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
	// Without listeners too.
	g.Go(func() error {
		<-running.Done()
		return nil
	})
	return g.Wait()
}

// server returns the server of a listener.
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

// PerHost returns how many of total connections one host may have: a quarter,
// so that a single host cannot keep others out. Several hosts behind one
// address count as one. Loopback addresses, see Host, are not bounded.
func PerHost(total int) int { return max(1, total/4) }

// ErrTooManyOfHost is the cause of refusing a connection of a host beyond PerHost.
var ErrTooManyOfHost = errors.New("its host has as many connections as one may have")

// ConnHost returns the Host of a connection's peer.
func ConnHost(c net.Conn) string {
	addr, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return Host(addr.Addr())
}

// bounded is a listener whose connections wait for a free place. It does not
// wrap them, so that the kernel can still send files.
type bounded struct {
	*Listener
	ctx   context.Context
	hosts *Shares // of the places of all listeners
}

// Accept waits for a connection and then for a place: a listener without
// connections must not keep a place from the others.
func (l *bounded) Accept() (net.Conn, error) {
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
		if !errors.Is(err, errBound) { // the server ends
			return nil, net.ErrClosed
		}
		l.Refuse(c.RemoteAddr(), ErrTooManyOfHost)
	}
}

// A body has to arrive at slowestBody bytes a second on average, after an initial
// bodyGrace. The slowest line of a probe carries that much, and an attacker who
// wants to hold a connection has to send that much.
const (
	slowestBody = 1 << 10
	bodyGrace   = 10 * time.Second
)

// steadyHandler ends requests whose bodies come too slowly.
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

// steadyBody is the body of a request. A read of it fails with
// os.ErrDeadlineExceeded when the peer is too slow.
type steadyBody struct {
	io.ReadCloser
	conn   *http.ResponseController
	end    time.Time // of the request, at the latest
	n      int64
	waited time.Duration
}

func (b *steadyBody) Read(p []byte) (int, error) {
	begin := time.Now()
	limit := begin.Add(bodyGrace + time.Duration(b.n)*time.Second/slowestBody - b.waited)
	if limit.After(b.end) {
		limit = b.end
	}
	b.conn.SetReadDeadline(limit) // fails for a connection that is gone: so does Read
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.waited += time.Since(begin)
	if err != nil {
		b.conn.SetReadDeadline(b.end) // the server reads on to learn whether the peer is still there
	}
	return n, err
}
