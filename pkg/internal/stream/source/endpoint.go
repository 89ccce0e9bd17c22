package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

const (
	// readBudget is the total size of the read buffers of all connections
	// in bytes. Each connection gets an equal share.
	readBudget = 24 << 20
	// handshakeTimeout bounds a TLS handshake.
	handshakeTimeout = 10 * time.Second
	// After Stop, each connection is read until it has been silent for
	// drainRead, but no longer than drainMax. Otherwise lines in the kernel's
	// buffers would be lost.
	drainRead = 200 * time.Millisecond
	drainMax  = 2 * time.Second
)

// Endpoint reads lines from exporter connections.
type Endpoint struct {
	set *Set
	log *slog.Logger

	wg        sync.WaitGroup
	mu        sync.Mutex
	conns     map[*conn]bool
	places    *peer.Shares // limits conns in total and per host
	stopping  bool
	readUntil time.Time        // set before stopping and conn.stopping
	sessions  map[string]*conn // connections in acknowledged mode
	warnings  rate.Sometimes
	run       string // distinguishes this run from others in message ids
	number    atomic.Int64
}

// NewEndpoint returns an endpoint without connections.
func (s *Set) NewEndpoint() *Endpoint {
	return &Endpoint{
		set: s, log: s.opt.Log, conns: map[*conn]bool{}, places: peer.NewShares(s.opt.MaxConnections, peer.PerHost(s.opt.MaxConnections)),
		sessions: map[string]*conn{}, run: rand.Text(), warnings: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
}

// Serve accepts connections until Stop is called. Then it accepts the
// connections in the backlog and closes the listener.
func (e *Endpoint) Serve(ctx context.Context, l *peer.Listener) {
	defer l.Close()
	for {
		nc, err := l.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break // Stop was called
		}
		if err != nil {
			// The error may be temporary, for example too many open files.
			e.log.Warn("connection not accepted", "address", l.Addr(), "err", err)
			if retry.Sleep(ctx, time.Second) != nil {
				return
			}
			continue
		}
		e.start(ctx, l, nc)
	}
	l.SetDeadline(e.readUntil)
	for acceptPending(l) {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		e.start(ctx, l, nc)
	}
}

// start serves the connection nc in a new goroutine. It refuses nc if too many
// connections are open, in total or from the same host.
func (e *Endpoint) start(ctx context.Context, l *peer.Listener, nc net.Conn) {
	host := peer.ConnHost(nc)
	if ok, all := e.places.TryAcquire(host); !ok {
		cause := peer.ErrTooManyOfHost
		if all {
			cause = errFull
		}
		nc.Close()
		l.Refuse(nc.RemoteAddr(), cause)
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &conn{
		Endpoint: e, listener: l, nc: nc, inlet: e.set.opt.NewInlet(), done: make(chan struct{}), cancel: cancel,
		key: fmt.Sprintf("%s.%d", e.run, e.number.Add(1)),
	}
	e.mu.Lock()
	c.stopping.Store(e.stopping)
	e.conns[c] = true
	e.set.counts.Connections.Store(int64(len(e.conns)))
	e.wg.Add(1)
	e.mu.Unlock()
	e.set.counts.Accepted.Add(1)
	go func() {
		defer e.wg.Done()
		err := c.serve(ctx)
		if cause := context.Cause(ctx); cause != nil && (errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled)) {
			err = cause // why this process closed the connection
		}
		if c.session != "" && c.stopping.Load() {
			c.drain(ctx)
		}
		nc.Close()
		e.places.Release(host)
		cancel(nil)
		c.acks.Wait()
		if c.src != nil {
			c.src.Connections.Add(-1)
		}
		e.mu.Lock()
		delete(e.conns, c)
		if e.sessions[c.session] == c {
			delete(e.sessions, c.session)
		}
		e.set.counts.Connections.Store(int64(len(e.conns)))
		e.mu.Unlock()
		close(c.done)
		c.report(err)
	}()
}

// Stop makes the endpoint deliver the lines that have arrived and then close all
// connections. Call Wait after Serve has returned.
func (e *Endpoint) Stop(listeners []*peer.Listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readUntil = time.Now().Add(drainMax)
	e.stopping = true
	for c := range e.conns {
		c.stopping.Store(true)
		c.nc.SetReadDeadline(time.Now().Add(drainRead))
	}
	for _, l := range listeners {
		l.SetDeadline(time.Now()) // wakes Serve
	}
}

// Wait waits until all connections are closed.
func (e *Endpoint) Wait() { e.wg.Wait() }

// readSize returns the current limit for the read buffer of each connection, in bytes. It
// is a power of two.
func (e *Endpoint) readSize() int {
	n := e.set.counts.Connections.Load()
	share := min(int64(e.set.opt.MaxRead), max(2*batch.MinBuffer, readBudget/max(n, 1)))
	return 1 << (bits.Len64(uint64(share)) - 1) // rounded down
}

// conn is a connection from an exporter.
type conn struct {
	*Endpoint
	listener *peer.Listener
	nc       net.Conn
	key      string
	inlet    Inlet
	split    protocol.Splitter
	cancel   context.CancelCauseFunc
	done     chan struct{}
	stopping atomic.Bool
	probe    string
	addr     string        // of the peer, without port
	src      *stats.Source // nil until the probe is known

	session string        // in acknowledged mode; else ""
	named   bool          // the certificate or the settings name the probe
	pos     int64         // bytes processed, without the hello line
	tracker batch.Tracker // counts positions like pos
	written atomic.Int64  // acked position last sent to the peer
	acks    sync.WaitGroup
	rejects int64
	reason  string // of the first reject
	cut     int    // 1 if the last line was incomplete
}

var (
	errFull     = errors.New("there are as many as max-connections allows")
	errNames    = errors.New("peers have announced too many names of probes")
	errNotLines = errors.New("the first line is too long, and does not begin with the path of a log")
	errTLS      = hint.New("TLS on a listener without TLS", "the peer has to connect without TLS: tcp or ack in place of tls or ack+tls; or name `tls-cert` and `tls-key`")
	errHello    = errors.New("the acknowledged mode does not begin like this")
	errReplaced = errors.New("the exporter reconnected")
	errUnread   = errors.New("the exporter does not read the acknowledgements")
	// errHandshake ends a connection after a failed handshake, which the
	// listener has already logged.
	errHandshake = errors.New("no TLS handshake")
)

// refusals lists the errors that make an accepted connection count as refused.
var refusals = []error{peer.ErrHTTP, errTLS, errNotLines, errHello, errNames}

// serve reads and delivers lines until the peer closes the connection or ctx is
// done.
func (c *conn) serve(ctx context.Context) error {
	if err := c.identify(); err != nil {
		return err
	}
	c.count()
	c.split = protocol.Splitter{Types: &c.set.types, MaxLine: c.set.opt.MaxLine, Probe: c.probe, Peer: peer.ConnHost(c.nc), Key: c.key, Reject: c.reject}
	var (
		buf      = batch.NewBuffer(batch.MinBuffer)
		n        int // bytes in buf
		skipping bool
		first    = true // checkStart has yet to check the first line
		idle     = c.set.opt.IdleTimeout
		maxLine  = c.set.opt.MaxLine
	)
	defer func() { buf.Release() }()
	for {
		if !c.stopping.Load() {
			c.nc.SetReadDeadline(time.Now().Add(idle))
		}
		if c.stopping.Load() { // perhaps set meanwhile
			if time.Now().After(c.readUntil) {
				return os.ErrDeadlineExceeded
			}
			c.nc.SetReadDeadline(time.Now().Add(drainRead))
		}
		m, err := c.nc.Read(buf.Bytes[n:])
		n += m
		if first && n > 0 {
			var drop int
			var beginErr error
			if drop, first, beginErr = c.checkStart(ctx, buf.Bytes[:n], err == nil); beginErr != nil {
				return beginErr
			}
			if drop > 0 {
				n = copy(buf.Bytes, buf.Bytes[drop:n])
				m = n
			}
		}
		if skipping && m > 0 {
			i := bytes.IndexByte(buf.Bytes[:n], '\n')
			if i < 0 {
				c.pos += int64(n)
				n, m = 0, 0
			} else {
				c.skip(i + 1)
				n = copy(buf.Bytes, buf.Bytes[i+1:n])
				m, skipping = n, false
			}
		}
		if i := bytes.LastIndexByte(buf.Bytes[n-m:n], '\n'); i >= 0 {
			whole := n - m + i + 1
			var sendErr error
			if buf, n, sendErr = c.deliver(ctx, buf, whole, n, m); sendErr != nil {
				return sendErr
			}
		} else if n > maxLine {
			c.reject(fmt.Sprintf("line is longer than %d bytes", maxLine), buf.Bytes[:80])
			if first {
				return errNotLines
			}
			c.pos += int64(n)
			n, skipping = 0, true
		}
		if n == len(buf.Bytes) { // a line longer than the buffer
			longer := batch.NewBuffer(2 * n)
			copy(longer.Bytes, buf.Bytes)
			buf.Release()
			buf = longer
		}
		if err != nil {
			if n > 0 || skipping {
				c.cut = 1
			}
			return err
		}
	}
}

// checkStart checks head, the first bytes of a connection. more says whether further
// bytes may follow. If head begins with a hello line, checkStart starts acknowledged mode
// and returns the length of that line in drop. first is true if checkStart needs more
// bytes to decide.
func (c *conn) checkStart(ctx context.Context, head []byte, more bool) (drop int, first bool, err error) {
	i := bytes.IndexByte(head, '\n')
	switch {
	case head[0] == '#' && i < 0 && len(head) < maxHello && more:
		return 0, true, nil
	case head[0] == '#':
		return i + 1, false, c.hello(ctx, head[:max(i, 0)])
	case peer.IsHTTP(head):
		return 0, false, peer.ErrHTTP
	case bytes.HasPrefix(head, []byte{0x16, 3}): // a TLS handshake record
		return 0, false, errTLS
	}
	return 0, head[0] != '/' && i < 0, nil
}

// skip records that the next n bytes of the connection, which end with a line, are not
// delivered and so need no ack.
func (c *conn) skip(n int) {
	c.pos += int64(n)
	c.tracker.Skip(c.pos)
}

// deliver delivers buf.Bytes[:whole], which holds complete lines. buf holds n
// bytes, m of them from the last read. deliver returns the buffer for the next read
// and the number of bytes in it.
func (c *conn) deliver(ctx context.Context, buf *batch.Buffer, whole, n, m int) (*batch.Buffer, int, error) {
	out := buf
	size, limit := len(buf.Bytes), c.readSize()
	switch {
	case n == size && size < limit:
		size *= 2
	case m < size/4 && size > batch.MinBuffer || size > limit && size > c.set.opt.MaxLine:
		size /= 2
	}
	if whole < size/4 {
		// Copy short text, so that it does not keep a large buffer in the
		// queues.
		out = batch.NewBuffer(whole)
		copy(out.Bytes, buf.Bytes[:whole])
		n = copy(buf.Bytes, buf.Bytes[whole:n])
	} else {
		rest := n - whole
		next := batch.NewBuffer(max(size, rest+1))
		copy(next.Bytes, buf.Bytes[whole:n])
		buf, n = next, rest
	}
	err := c.send(ctx, out, out.Bytes[:whole])
	out.Release()
	return buf, n, err
}

// send splits complete lines by log and delivers them.
func (c *conn) send(ctx context.Context, buf *batch.Buffer, lines []byte) error {
	begin := c.pos
	var failure error // of the first delivery that failed
	err := c.split.Split(lines, func(o *batch.Origin, from int, run []byte, n int) error {
		t := batch.Text{Origin: o, Source: c.src, Offset: begin + int64(from), Lines: n, Bytes: run, Wire: true, Buffer: buf}
		end := t.Offset + int64(len(run))
		t.Acked = func() { c.tracker.Ack(end) }
		if c.session == "" {
			c.set.counts.Unacked.Add(int64(n))
			t.Acked = func() { c.set.counts.Unacked.Add(-int64(n)) }
		}
		if failure == nil {
			c.tracker.Deliver(end)
			failure = c.inlet.Deliver(ctx, t)
		}
		if c.session == "" {
			return nil // the exporter does not resend the lines that follow: count them
		}
		return failure
	})
	if err = cmp.Or(err, failure); err != nil {
		return err
	}
	c.pos = begin + int64(len(lines))
	c.tracker.Skip(c.pos)
	return nil
}

// identify determines the name of the probe from the certificate, the settings or
// the address of the peer. On a TLS connection, it also performs the handshake.
func (c *conn) identify() error {
	addr, err := netip.ParseAddrPort(c.nc.RemoteAddr().String())
	if err != nil {
		return err
	}
	probe, known := c.set.opt.Probes.ByAddr(addr.Addr())
	c.probe, c.named = cmp.Or(probe.Name, peer.AddressName(addr.Addr())), known
	c.addr = addr.Addr().Unmap().String()
	t, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	if err := c.listener.Handshake(t, handshakeTimeout); err != nil {
		return errHandshake
	}
	state := t.ConnectionState()
	id, err := peer.IdentityOf(&state)
	if err != nil {
		return err
	}
	if name := peer.ProbeOf(id); name != "" {
		c.probe, c.named = name, true
	}
	return nil
}

// count adds the connection to the counts of its current probe, and removes it from the
// counts of its previous probe.
func (c *conn) count() {
	if c.src != nil {
		c.src.Connections.Add(-1)
	}
	c.src = c.set.counts.Sources.Lookup(c.probe, c.addr)
	c.src.Connections.Add(1)
}

func (c *conn) reject(reason string, line []byte) {
	c.set.counts.Rejects.Add(1)
	c.src.Rejects.Add(1)
	if c.rejects++; c.rejects > 1 {
		return
	}
	c.reason = reason
	c.warnings.Do(func() {
		c.log.Warn("line rejected", "peer", c.nc.RemoteAddr(), "reason", reason, "line", string(line[:min(len(line), 80)]))
	})
}

// report counts and logs how the connection ended.
func (c *conn) report(err error) {
	c.set.counts.Empty.Add(c.split.Empty)
	attrs := []any{"probe", c.probe, "bytes", c.pos}
	if c.rejects > 0 {
		attrs = append(attrs, "rejects", c.rejects)
	}
	if c.cut > 0 && c.session == "" { // in acknowledged mode the peer resends the line
		c.set.counts.Cuts.Add(1)
		attrs = append(attrs, "cut", 1)
	}
	if i := slices.IndexFunc(refusals, func(cause error) bool { return errors.Is(err, cause) }); i >= 0 {
		//lint:ignore errorlint a wrapped cause says more
		if err != refusals[i] {
			attrs = append(attrs, "err", err)
		}
		c.listener.Refuse(c.nc.RemoteAddr(), refusals[i], attrs...)
		return
	}
	attrs = append([]any{"peer", c.nc.RemoteAddr()}, attrs...)
	switch {
	case errors.Is(err, errHandshake):
	case errors.Is(err, io.EOF):
		c.log.Debug("connection closed", attrs...)
	case c.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		c.log.Debug("connection closed on shutdown", attrs...)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.log.Info("idle connection closed", attrs...)
	default:
		c.warnings.Do(func() { c.log.Warn("connection lost", append(attrs, "err", err)...) })
	}
}
