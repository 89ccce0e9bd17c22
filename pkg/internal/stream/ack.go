package stream

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// The acknowledged mode, see tstatrepo-ack(7): an exporter's first line is
// "#tstatrepo-ack 1 SESSION". What follows is the same as without it, but
// for lines that begin with '#'; the endpoint answers "ack N": the lines up to
// byte N after the first line are with all required consumers.
const (
	ackHello   = "#tstatrepo-ack"
	ackVersion = "1"
	ackProbe   = "#probe "

	maxHello = 256 // bytes of the first line
	// maxProbes bounds the names of probes that peers may announce, see nameSet:
	// consumers keep folders, subjects and layouts of each. The share of one host
	// is enough to forward the lines of a whole site.
	maxProbes = 4096
	// ackTimeout bounds how long a confirmation may take to write.
	ackTimeout = 30 * time.Second
)

// pollEvery is how often it is looked whether what was handed over has arrived.
const pollEvery = 5 * time.Millisecond

// hello begins the acknowledged mode.
func (c *conn) hello(ctx context.Context, line []byte) error {
	f := strings.Split(string(line), " ")
	switch {
	case len(f) != 3 || f[0] != ackHello:
		return c.refuse(errHello, "the first line is neither one of a log nor '%s %s SESSION'", ackHello, ackVersion)
	case f[1] != ackVersion:
		return c.refuse(errHello, "version %.20q is not known, this endpoint has %s", f[1], ackVersion)
	case !isSession(f[2]):
		return c.refuse(errHello, "the name of a session has 1 to 64 letters, digits, '_' and '-', but not '-' first")
	}
	c.session, c.key = f[2], f[2]
	// A former connection of the session may still have lines to hand over;
	// what this one repeats has to come after them.
	for {
		c.mu.Lock()
		former := c.sessions[c.session]
		if former == nil {
			c.sessions[c.session] = c
			c.mu.Unlock()
			break
		}
		c.mu.Unlock()
		former.nc.Close()
		former.cancel(errReplaced)
		select {
		case <-former.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.split.control = func(line []byte) error { return c.control(ctx, line) }
	c.tracker.changed = make(chan struct{}, 1)
	c.tracker.changed <- struct{}{} // "ack 0" tells the exporter that it may begin
	c.acks.Add(1)
	go func() {
		defer c.acks.Done()
		if err := c.tracker.write(ctx, c.nc); err != nil {
			c.cancel(err)
			c.nc.Close()
		}
	}()
	return nil
}

// refuse sends the exporter the reason why the connection ends. It returns the
// reason, wrapped with its cause, which is one of refusals.
func (c *conn) refuse(cause error, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	c.nc.SetWriteDeadline(time.Now().Add(ackTimeout))
	fmt.Fprintf(c.nc, "error %v\n", err)
	return fmt.Errorf("%w: %w", cause, err)
}

// control takes a line between those of logs.
func (c *conn) control(ctx context.Context, line []byte) error {
	text, ok := bytes.CutPrefix(line, []byte(ackProbe))
	if !ok || !isSession(string(text)) {
		c.reject("unknown control line", line)
		return nil
	}
	if c.named {
		return nil
	}
	name := string(text)
	if ok, _ := c.hub.announced.add(name, c.split.who, maxProbes); !ok {
		// The exporter keeps its lines; skipping them would lose them. The lines
		// before are confirmed first, or they would be sent with each attempt.
		c.tracker.settle(ctx)
		return c.refuse(errNames, "probe %s is one too many, at most %d names are accepted, %d of one host", name, maxProbes, perPeer(maxProbes))
	}
	c.probe = name
	c.count()
	c.split.probe, c.split.last, c.split.announced = name, nil, &c.hub.announced
	return nil
}

// tracker follows how far the lines of a connection are confirmed. Positions
// are bytes.
type tracker struct {
	mu        sync.Mutex
	handed    int64 // end of the last lines that were handed over
	confirmed int64
	written   int64         // of confirmed, to the peer
	read      int64         // up to here there is nothing to hand over after handed
	changed   chan struct{} // nil if nobody wants to know
}

// sent says that lines up to pos are to be confirmed.
func (t *tracker) sent(pos int64) {
	t.mu.Lock()
	t.handed = pos
	t.mu.Unlock()
}

// confirm says that lines up to pos are taken.
func (t *tracker) confirm(pos int64) {
	t.mu.Lock()
	t.confirmed = max(t.confirmed, pos)
	t.mu.Unlock()
	t.notify()
}

// skip says that there is nothing to confirm between the last lines and pos.
func (t *tracker) skip(pos int64) {
	t.mu.Lock()
	t.read = pos
	t.mu.Unlock()
	t.notify()
}

func (t *tracker) notify() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// position returns up to where everything is confirmed.
func (t *tracker) position() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.confirmed == t.handed {
		return max(t.confirmed, t.read)
	}
	return t.confirmed
}

// settled reports whether everything that was handed over is confirmed.
func (t *tracker) settled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.confirmed >= t.handed
}

// write sends confirmations until ctx ends or the peer does not take them.
func (t *tracker) write(ctx context.Context, nc net.Conn) error {
	last := int64(-1)
	for {
		select {
		case <-t.changed:
		case <-ctx.Done():
			return nil
		}
		pos := t.position()
		if pos == last {
			continue
		}
		last = pos
		nc.SetWriteDeadline(time.Now().Add(ackTimeout))
		if _, err := fmt.Fprintf(nc, "ack %d\n", pos); err != nil {
			return err
		}
		t.mu.Lock()
		t.written = pos
		t.mu.Unlock()
	}
}

// settle waits until everything that was handed over is confirmed to the
// peer: it would come again after the next start.
func (t *tracker) settle(ctx context.Context) {
	retry.Until(ctx, pollEvery, func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.written >= t.handed
	})
}
