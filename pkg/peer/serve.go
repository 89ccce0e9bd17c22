package peer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxHeader bounds the header of a request or of an answer, in bytes.
const maxHeader = 64 << 10

// Server serves HTTP within limits of time and number.
type Server struct {
	Handler http.Handler
	// MaxConns bounds the connections that are served at a time; further ones
	// wait in the queue of the kernel. 0: no limit.
	MaxConns     int
	ReadTimeout  time.Duration // of a request with its body; 0: 1m
	WriteTimeout time.Duration // of an answer; 0: none
	// Grace is how long requests in hand have left when the context of Serve
	// ends. Their own contexts end then only if Interrupt is set.
	Grace     time.Duration
	Interrupt bool
	Log       *slog.Logger // connections that break, for debugging
}

// Serve serves the connections of all listeners and closes them when ctx ends
// or one fails. The end of ctx is not an error.
func (s *Server) Serve(ctx context.Context, list ...*Listener) error {
	g, running := errgroup.WithContext(ctx)
	srv := &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: 20 * time.Second,
		ReadTimeout:       cmp.Or(s.ReadTimeout, time.Minute),
		WriteTimeout:      s.WriteTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	if s.Interrupt {
		srv.BaseContext = func(net.Listener) context.Context { return ctx }
	}
	places := make(chan struct{}, s.MaxConns)
	if s.MaxConns > 0 {
		srv.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				<-places
			}
		}
	}
	for _, l := range list {
		var listener net.Listener = l
		if s.MaxConns > 0 {
			listener = &bounded{l, running, places}
		}
		g.Go(func() error {
			err := srv.Serve(listener)
			if errors.Is(err, http.ErrServerClosed) || running.Err() != nil {
				return nil
			}
			return err
		})
	}
	g.Go(func() error {
		<-running.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Grace)
		defer cancel()
		if srv.Shutdown(limit) != nil {
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}

// bounded is a listener that accepts as long as there are free places.
// Connections stay as they are, so that the kernel can still send files.
type bounded struct {
	net.Listener
	ctx    context.Context
	places chan struct{}
}

// Accept waits for a place and then for a connection.
func (l *bounded) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
	}
	return c, err
}
