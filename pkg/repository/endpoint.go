package repository

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// endpoint is open while somebody uses it.
type endpoint struct {
	label      string
	capability *mplane.Statement
	// serve opens the endpoint, says where, and serves it until ctx ends.
	serve func(ctx context.Context, opened func(addrs []string)) error
	log   *slog.Logger

	mu     sync.Mutex
	users  int
	closed bool
	now    *session // the last; nil before the first
}

// session is the time from the opening of an endpoint to its end.
type session struct {
	ctx    context.Context
	cancel context.CancelFunc
	opened chan struct{} // closed when it is open
	done   chan struct{} // closed when it has ended
	err    error         // good after done

	once sync.Once
}

var errClosed = errors.New("the repository stops")

// acquire opens the endpoint, unless somebody uses it already. release is to
// be called once for each success.
func (e *endpoint) acquire(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if e.users == 0 {
		if e.now != nil {
			<-e.now.done // its address is in use until then
		}
		s := &session{opened: make(chan struct{}), done: make(chan struct{})}
		s.ctx, s.cancel = context.WithCancel(context.Background())
		go e.run(s)
		select {
		case <-s.opened:
		case <-s.done:
			s.cancel()
			return fmt.Errorf("%s: %w", e.label, s.err)
		case <-ctx.Done():
			s.cancel()
			<-s.done
			return ctx.Err()
		}
		e.now = s
	}
	e.users++
	return nil
}

// release closes the endpoint when nobody uses it any more. It does not wait
// until what is under way is taken.
func (e *endpoint) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users--; e.users == 0 {
		e.now.cancel()
	}
}

// close ends the endpoint for good and returns what its end came to.
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
	if s.err != nil {
		return fmt.Errorf("%s: %w", e.label, s.err)
	}
	return nil
}

// Bounds of the wait before an endpoint that has failed is opened again.
const (
	minRestart = time.Second
	maxRestart = time.Minute
)

// run serves a session until its end. An endpoint that was open once is
// opened again when it fails: it rather comes back than to end the process
// that has the others too.
func (e *endpoint) run(s *session) {
	defer close(s.done)
	opened := func(addrs []string) {
		e.log.Info("listening", "address", strings.Join(addrs, " "))
		s.once.Do(func() { close(s.opened) })
	}
	for wait := minRestart; ; wait = min(2*wait, maxRestart) {
		err := e.serve(s.ctx, opened)
		if s.ctx.Err() != nil {
			s.err = withoutCancel(err)
			if s.err != nil {
				e.log.Error("endpoint has not ended well", "err", s.err)
			}
			return
		}
		select {
		case <-s.opened:
		default:
			s.err = err
			return
		}
		e.log.Error("endpoint has failed", "err", err, "again_in", wait)
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// withoutCancel returns what is in err besides the end of the context.
func withoutCancel(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case ok:
		var rest []error
		for _, e := range joined.Unwrap() {
			rest = append(rest, withoutCancel(e))
		}
		return errors.Join(rest...)
	case errors.Is(err, context.Canceled):
		return nil
	}
	return err
}
