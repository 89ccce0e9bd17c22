package graphite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// CarbonOptions configures the connection to a carbon server. The zero value of
// a field means its default.
type CarbonOptions struct {
	Addr   string    // host:port
	Pickle bool      // instead of plaintext
	TLS    *peer.TLS // nil: no TLS
	// Timeout limits connecting, each write of 64 KiB, and the wait until the
	// server has read everything. The default is 1 minute. If carbon's cache
	// is full, carbon stops reading until there is room.
	Timeout time.Duration
	// RetryTimeout is how long a batch is retried; 0 disables retries.
	RetryTimeout time.Duration
}

// Carbon is a Sink that sends points to a carbon server. It is not safe for
// concurrent use.
type Carbon struct {
	opt    CarbonOptions
	encode func([]byte, []Metric) []byte
	buf    []byte
}

// NewCarbon returns a sink for the carbon server at opt.Addr. It does not connect; Send
// does.
func NewCarbon(opt CarbonOptions) *Carbon {
	if opt.Timeout == 0 {
		opt.Timeout = time.Minute
	}
	c := &Carbon{opt: opt, encode: AppendText}
	if opt.Pickle {
		c.encode = AppendPickle
	}
	return c
}

// Close does nothing, since Send closes its connection.
func (c *Carbon) Close() error { return nil }

// Send sends a batch over a new connection. Carbon does not acknowledge points, so a
// batch counts as sent when the server has read all of it and closed the connection.
func (c *Carbon) Send(ctx context.Context, metrics []Metric) error {
	if Count(metrics) == 0 {
		return nil
	}
	return Retry(ctx, c.opt.RetryTimeout, func() error {
		if err := c.sendOnce(ctx, metrics); err != nil {
			return fmt.Errorf("%w: carbon %s: %w", ErrUnavailable, c.opt.Addr, err)
		}
		return nil
	})
}

// Retry calls f until f succeeds, f returns an error that does not wrap ErrUnavailable,
// or d has passed since the first failure. If ctx is done, Retry returns
// context.Cause(ctx).
func Retry(ctx context.Context, d time.Duration, f func() error) error {
	p := retry.Policy{Transient: isUnavailable, Limit: d, Max: 30 * time.Second}
	err := p.Do(ctx, f)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func isUnavailable(err error) bool { return errors.Is(err, ErrUnavailable) }

const (
	chunk       = 64 << 10 // bytes per write deadline
	chunkPoints = 1000     // points encoded at once, while the server reads
)

func (c *Carbon) sendOnce(ctx context.Context, metrics []Metric) error {
	dialCtx, cancel := context.WithTimeout(ctx, c.opt.Timeout)
	defer cancel()
	dial := new(net.Dialer).DialContext
	if c.opt.TLS != nil {
		dial = c.opt.TLS.Dial
	}
	conn, err := dial(dialCtx, "tcp", c.opt.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for len(metrics) > 0 {
		n := 0
		for points := 0; n < len(metrics) && points < chunkPoints; n++ {
			points += len(metrics[n].Points)
		}
		c.buf = c.encode(c.buf[:0], metrics[:n])
		metrics = metrics[n:]
		for b := c.buf; len(b) > 0; {
			if err := conn.SetWriteDeadline(time.Now().Add(c.opt.Timeout)); err != nil {
				return err
			}
			n, err := conn.Write(b[:min(len(b), chunk)])
			if err != nil {
				return err
			}
			b = b[n:]
		}
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("connection cannot be closed on one side")
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(c.opt.Timeout)); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(conn, chunk)); err != nil {
		return fmt.Errorf("waiting for all to be read: %w", err)
	} else if n == chunk {
		return errors.New("the peer sends data: it is not carbon")
	}
	return nil
}
