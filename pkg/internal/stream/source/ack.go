package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

const (
	maxHello = 256 // maximum bytes of the hello line
	// maxProbes limits the number of probe names that peers may announce, since
	// sinks keep folders, subjects and layouts for each probe. One host may
	// announce protocol.PerPeer(maxProbes) names, enough to forward a whole site.
	maxProbes = 4096
	// ackTimeout bounds how long writing an acknowledgement may take.
	ackTimeout = 30 * time.Second
)

// drainPoll is the interval at which drain checks whether all delivered lines
// are acked.
const drainPoll = 5 * time.Millisecond

// hello checks the hello line and starts acknowledged mode. Before that, it closes any
// earlier connection of the same session and waits until that connection has ended.
func (c *conn) hello(ctx context.Context, line []byte) error {
	f := strings.Split(string(line), " ")
	switch {
	case len(f) != 3 || f[0] != protocol.AckHello:
		return c.refuse(errHello, "the first line is neither one of a log nor '%s %s SESSION'", protocol.AckHello, protocol.AckVersion)
	case f[1] != protocol.AckVersion:
		return c.refuse(errHello, "version %.20q is not known, this endpoint has %s", f[1], protocol.AckVersion)
	case !protocol.IsSession(f[2]):
		return c.refuse(errHello, "the name of a session has 1 to 64 letters, digits, '_' and '-', but not '-' first")
	}
	c.session, c.key = f[2], f[2]
	// An earlier connection of the session may still deliver lines. The lines
	// that this connection resends must come after them.
	for {
		c.mu.Lock()
		former := c.sessions[c.session]
		if former == nil {
			c.sessions[c.session] = c
			c.mu.Unlock()
			break
		}
		c.mu.Unlock()
		former.cancel(errReplaced)
		former.nc.Close()
		select {
		case <-former.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.split.Control = func(line []byte) error { return c.control(ctx, line) }
	changed := c.tracker.Notify()
	c.acks.Go(func() {
		if err := c.writeAcks(ctx, changed); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) { // report would call the connection idle
				err = errUnread
			}
			c.cancel(err)
			c.nc.Close()
		}
	})
	return nil
}

// refuse sends the exporter the reason for closing the connection. It returns an
// error that wraps cause, which must be one of refusals.
func (c *conn) refuse(cause error, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	c.nc.SetWriteDeadline(time.Now().Add(ackTimeout))
	fmt.Fprintf(c.nc, "error %v\n", err)
	return fmt.Errorf("%w: %w", cause, err)
}

// control processes a line that begins with '#'. If the line announces the name of the
// probe, control sets the name, unless the certificate or the settings name the probe.
// It rejects any other line.
func (c *conn) control(ctx context.Context, line []byte) error {
	text, ok := bytes.CutPrefix(line, []byte(protocol.AckProbe))
	if !ok || !protocol.IsSession(string(text)) {
		c.reject("unknown control line", line)
		return nil
	}
	if c.named {
		return nil
	}
	name := string(text)
	if ok, _ := c.set.announced.Add(name, c.split.Peer, maxProbes); !ok {
		// The exporter keeps the lines, so end the connection instead of
		// skipping them. Ack earlier lines first, so that the exporter
		// does not resend them in every attempt.
		c.drain(ctx)
		return c.refuse(errNames, "probe %s is one too many, at most %d names are accepted, %d of one host", name, maxProbes, protocol.PerPeer(maxProbes))
	}
	c.probe = name
	c.count()
	c.split.Probe, c.split.Last, c.split.Announced = name, nil, &c.set.announced
	return nil
}

// writeAcks sends the acked position to the peer at the start and after each
// change. It returns nil when ctx is done. The exporter starts to send after it has
// received "ack 0".
func (c *conn) writeAcks(ctx context.Context, changed <-chan struct{}) error {
	last := int64(-1)
	for {
		if pos := c.tracker.Position(); pos != last {
			last = pos
			c.nc.SetWriteDeadline(time.Now().Add(ackTimeout))
			if _, err := fmt.Fprintf(c.nc, "ack %d\n", pos); err != nil {
				return err
			}
			c.written.Store(pos)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// drain waits until the peer has been sent the ack for all delivered lines, or ctx
// is done. Without the ack, the peer would resend the lines after a restart.
func (c *conn) drain(ctx context.Context) {
	retry.Until(ctx, drainPoll, func() bool { return c.written.Load() >= c.tracker.End() })
}
