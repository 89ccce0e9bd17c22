package mathproto

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// boundListener has at most maxConns connections at a time; further ones wait.
type boundListener struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func bound(l net.Listener) *boundListener {
	return &boundListener{Listener: l, free: make(chan struct{}, maxConns), closed: make(chan struct{})}
}

func (l *boundListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return c, nil
}

func (l *boundListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// freed is told of every change of a connection's state.
func (l *boundListener) freed(_ net.Conn, s http.ConnState) {
	if s == http.StateClosed || s == http.StateHijacked {
		<-l.free
	}
}

// listenAll opens all listeners or none.
func listenAll(ctx context.Context, opts []peer.Options) ([]net.Listener, error) {
	var list []net.Listener
	for _, o := range opts {
		l, err := peer.Listen(ctx, o)
		if err != nil {
			closeListeners(list)
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

func closeListeners(list []net.Listener) {
	for _, l := range list {
		l.Close()
	}
}

// serve answers requests until ctx ends; then it lets those under way end for
// a moment.
func serve(ctx context.Context, list []net.Listener, h http.Handler, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, l := range list {
		b := bound(l)
		srv := &http.Server{
			Handler:           h,
			ConnState:         b.freed,
			ReadHeaderTimeout: 20 * time.Second,
			ReadTimeout:       time.Minute,
			WriteTimeout:      time.Minute,
			IdleTimeout:       3 * time.Minute,
			MaxHeaderBytes:    maxHeader,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // what strangers send is no news
		}
		wg.Go(func() {
			if err := srv.Serve(b); !errors.Is(err, http.ErrServerClosed) {
				cancel(err)
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			end, stop := context.WithTimeout(context.Background(), time.Second)
			defer stop()
			if srv.Shutdown(end) != nil {
				srv.Close()
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	return context.Cause(ctx)
}

// answer sends a text as the old programs do.
func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", textPlain)
	w.WriteHeader(code)
	io.WriteString(w, text) // who has gone needs no answer
}
