package repository

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// server is a listening endpoint, served by Run.
type server interface {
	Addrs() []string
	Run(context.Context) error
}

// openFunc opens an endpoint.
type openFunc func(context.Context) (server, error)

// endpoint is open while it is used.
type endpoint struct {
	label      string
	capability *mplane.Statement
	log        *slog.Logger

	// acquiring prevents concurrent opening.
	acquiring sync.Mutex

	mu     sync.Mutex
	open   openFunc
	former openFunc // the function before reopen, kept until open succeeds; may be nil
	server server   // as last opened; nil if it never was
	users  int
	closed bool
	now    *session // the last session; may be nil
	again  context.CancelFunc
	addrs  []string // empty if it is not open
	since  time.Time
	err    error // why it is not open though it is used
}

// session is the time from the opening of an endpoint to its end.
type session struct {
	ctx    context.Context
	cancel context.CancelFunc
	opened chan struct{} // closed when it was open for the first time
	done   chan struct{} // closed when it has ended
	err    error         // valid after done

	once sync.Once
}

var errClosed = errors.New("the repository stops")

// acquire opens the endpoint, unless it is open. Call release once for each
// success.
func (e *endpoint) acquire(ctx context.Context) error {
	e.acquiring.Lock()
	defer e.acquiring.Unlock()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return errClosed
	}
	if e.users > 0 {
		e.users++
		e.mu.Unlock()
		return nil
	}
	former := e.now
	s := &session{opened: make(chan struct{}), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	e.now = s
	e.mu.Unlock()

	if former != nil {
		<-former.done // its address is in use until then
	}
	go e.run(s)
	select {
	case <-s.opened:
		e.mu.Lock()
		e.users++
		e.mu.Unlock()
		return nil
	case <-s.done:
		if s.err == nil {
			return errClosed
		}
		return fmt.Errorf("%s: %w", e.label, s.err)
	case <-ctx.Done():
		s.cancel()
		<-s.done
		return ctx.Err()
	}
}

// release closes the endpoint when its last user releases it. It does not wait
// for data in flight.
func (e *endpoint) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users--; e.users == 0 {
		e.now.cancel()
	}
}

// close ends the endpoint for good and returns its last error; nil if it was
// not opened.
func (e *endpoint) close() error {
	e.mu.Lock()
	e.closed = true
	s := e.now
	e.mu.Unlock()
	if s == nil {
		return nil
	}
	s.cancel()
	<-s.done
	select {
	case <-s.opened:
	default:
		return nil // acquire has returned the error
	}
	if s.err != nil {
		return fmt.Errorf("%s: %w", e.label, s.err)
	}
	return nil
}

// reopen changes the function that opens the endpoint. An open endpoint is
// reopened as soon as data in flight is accepted. If the new function fails,
// the former one is used.
func (e *endpoint) reopen(open openFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.former == nil {
		e.former = e.open
	}
	e.open = open
	if e.again != nil {
		e.again()
	}
}

// Limits of the wait before a failed endpoint is reopened.
const (
	minRestart = time.Second
	maxRestart = time.Minute
)

// run serves a session until its end. An endpoint that was open once is
// reopened after a failure: the process has other endpoints to serve.
func (e *endpoint) run(s *session) {
	defer close(s.done)
	defer s.cancel()
	for back := retry.New(minRestart, maxRestart); ; {
		ctx, again := context.WithCancel(s.ctx)
		e.mu.Lock()
		open := e.open
		e.again = again
		e.mu.Unlock()
		srv, err := open(ctx)
		good := err == nil
		if good {
			e.opened(srv)
			s.once.Do(func() { close(s.opened) })
			err = srv.Run(ctx)
		}
		reopened := ctx.Err() != nil
		again()
		if reopened {
			err = hint.Without(err, context.Canceled)
		}
		formerGoesOn := e.ended(err, good || reopened)
		switch {
		case s.ctx.Err() != nil:
			if s.err = err; err != nil {
				e.log.Error("endpoint failed", "err", err)
			}
			return
		case formerGoesOn:
			e.log.Error("endpoint not opened with the changed settings, keeping the former", "err", err)
			continue
		case reopened:
			if err != nil {
				e.log.Error("endpoint failed", "err", err)
			}
			continue
		}
		select {
		case <-s.opened:
		default:
			s.err = err
			return
		}
		if good {
			back.Reset()
		}
		wait := back.Next()
		e.log.Error("endpoint failed, retrying", "err", err, "retry_in", wait.Round(time.Millisecond))
		if retry.Sleep(s.ctx, wait) != nil {
			return
		}
	}
}

// opened records the open endpoint.
func (e *endpoint) opened(srv server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server, e.addrs, e.since, e.err, e.former = srv, srv.Addrs(), time.Now(), nil, nil
	e.log.Info("listening", "address", strings.Join(e.addrs, " "))
}

// ended records that the endpoint is not open, and reports whether to reopen it
// with the former function.
func (e *endpoint) ended(err error, good bool) (former bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again = nil
	e.addrs, e.since, e.err = nil, time.Now(), err
	if good || e.former == nil {
		return false
	}
	e.open, e.former = e.former, nil
	return true
}

// last returns the endpoint as last opened, or nil if it never was.
func last[T server](e *endpoint) (srv T) {
	if e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		srv, _ = e.server.(T)
	}
	return srv
}

// stats returns the state of the endpoint.
func (e *endpoint) stats() EndpointStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return EndpointStats{Label: e.label, Addrs: e.addrs, Since: e.since, Err: e.err}
}
