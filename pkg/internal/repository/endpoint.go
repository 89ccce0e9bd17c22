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

// server is an endpoint that is listening. Run serves it.
type server interface {
	Addrs() []string
	Run(context.Context) error
}

// openFunc opens an endpoint, that is, starts to listen.
type openFunc func(context.Context) (server, error)

// endpoint is a server that listens only while it has users: Repository.Run or active
// specifications.
type endpoint struct {
	label      string
	capability *mplane.Statement
	log        *slog.Logger

	// acquiring serializes calls to acquire.
	acquiring sync.Mutex

	mu        sync.Mutex
	open      openFunc
	former    openFunc // the previous function, kept until open succeeds; may be nil
	reverted  bool     // the function that reopen set last has failed
	server    server   // the server that was opened last; nil if there was none
	users     int
	closed    bool
	session   *session // the latest session; may be nil
	cancelRun context.CancelFunc
	addrs     []string // empty while closed
	since     time.Time
	err       error // why the endpoint is closed although it has users
}

// session is one period of use of an endpoint, from its first user until its server has
// ended.
type session struct {
	ctx    context.Context
	cancel context.CancelFunc
	opened chan struct{} // closed when the endpoint has been opened for the first time
	done   chan struct{} // closed when the session has ended
	err    error         // valid after done is closed

	once sync.Once
}

var errClosed = errors.New("the repository stops")

// acquire adds a user to the endpoint, and opens the endpoint for the first user.
// If acquire succeeds, the caller must call release.
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
	former := e.session
	s := &session{opened: make(chan struct{}), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	e.session = s
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

// release removes a user from the endpoint, and closes the endpoint after the last
// user. It does not wait for data in flight.
func (e *endpoint) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users--; e.users == 0 {
		e.session.cancel()
	}
}

// close closes the endpoint permanently. It returns the error that ended the endpoint, or
// nil if there was none or the endpoint was never open.
func (e *endpoint) close() error {
	e.mu.Lock()
	e.closed = true
	s := e.session
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

// reopen replaces the function that opens the endpoint. An open endpoint accepts the data
// in flight, and is then closed and opened with the new function. If the new function
// fails, the previous one is used again.
func (e *endpoint) reopen(open openFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.former == nil {
		e.former = e.open
	}
	e.open, e.reverted = open, false
	if e.cancelRun != nil {
		e.cancelRun()
	}
}

// Limits on the delay before a failed endpoint is reopened.
const (
	minRestart = time.Second
	maxRestart = time.Minute
)

// run serves the endpoint until the session s ends. If the endpoint fails after its first
// successful opening, run reopens it, because the process also serves other endpoints.
func (e *endpoint) run(s *session) {
	defer close(s.done)
	defer s.cancel()
	for back := retry.New(minRestart, maxRestart); ; {
		ctx, cancelRun := context.WithCancel(s.ctx)
		e.mu.Lock()
		open := e.open
		e.cancelRun = cancelRun
		e.mu.Unlock()
		srv, err := open(ctx)
		good := err == nil
		if good {
			e.recordOpened(srv)
			s.once.Do(func() { close(s.opened) })
			err = srv.Run(ctx)
		}
		reopened := ctx.Err() != nil
		cancelRun()
		if reopened {
			err = hint.Without(err, context.Canceled)
		}
		useFormer := e.recordClosed(err, good || reopened)
		switch {
		case s.ctx.Err() != nil:
			if s.err = err; err != nil {
				e.log.Error("endpoint failed", "err", err)
			}
			return
		case useFormer:
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

// recordOpened records that srv is listening.
func (e *endpoint) recordOpened(srv server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server, e.addrs, e.since, e.err, e.former = srv, srv.Addrs(), time.Now(), nil, nil
	e.log.Info("listening", "address", strings.Join(e.addrs, " "))
}

// recordClosed records that the endpoint has ended with err. The argument good is false
// if the endpoint could not be opened. If the function that failed to open it was set by
// reopen, recordClosed restores the previous function and returns true.
func (e *endpoint) recordClosed(err error, good bool) (former bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancelRun = nil
	e.addrs, e.since, e.err = nil, time.Now(), err
	if good || e.former == nil {
		return false
	}
	e.open, e.former, e.reverted = e.former, nil, true
	return true
}

// lastOpened returns the server that e opened last. It returns the zero value if e
// is nil or was never open.
func lastOpened[T server](e *endpoint) (srv T) {
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
