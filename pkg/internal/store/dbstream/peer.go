package dbstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

var errDisconnected = errors.New("connection lost")

// refusedError reports that the scheduler refused a request or gave an invalid
// answer.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// peer is a connection to the scheduler.
type peer struct {
	ctx  context.Context
	conn *watchedConn
	rpc  *rpc.Client
}

func newPeer(ctx context.Context, conn net.Conn) *peer {
	w := &watchedConn{Conn: conn, gone: make(chan struct{})}
	w.remaining.Store(maxAnswer)
	return &peer{ctx, w, rpc.NewClient(w)}
}

func (p *peer) close() { p.rpc.Close() }

// call calls a method of the scheduler. It returns a refusedError if the
// scheduler answers with an error.
func (p *peer) call(method string, arg, reply any, timeout time.Duration) error {
	p.conn.remaining.Store(maxAnswer)
	p.conn.SetWriteDeadline(time.Now().Add(timeout))
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	c := p.rpc.Go("SchedRemote."+method, arg, reply, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
	case <-timer.C:
		return fmt.Errorf("%s: no answer within %v", method, timeout)
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	var se rpc.ServerError
	switch {
	case errors.As(c.Error, &se):
		return &refusedError{method + ": " + printable(string(se))}
	case c.Error != nil:
		return fmt.Errorf("%s: %w", method, c.Error)
	}
	return nil
}

// printable shortens text from the peer and escapes its control characters, for
// the log.
func printable(text string) string {
	q := strconv.QuoteToGraphic(text[:min(len(text), maxReason)])
	return q[1 : len(q)-1]
}

// watchedConn detects that the peer has disconnected, even between calls, and
// limits how many bytes the peer may send in one call.
type watchedConn struct {
	net.Conn
	remaining atomic.Int64
	once      sync.Once
	gone      chan struct{} // closed when the peer has disconnected
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := 0, errors.New("the answer is too long")
	if left := c.remaining.Load(); left > 0 {
		n, err = c.Conn.Read(p[:min(int64(len(p)), left)])
		c.remaining.Add(-int64(n))
	}
	if err != nil {
		c.once.Do(func() { close(c.gone) })
	}
	return n, err
}
