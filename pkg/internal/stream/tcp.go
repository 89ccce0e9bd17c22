package stream

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// dialTimeout bounds connecting, with a TLS handshake, and the answer of an
// acknowledging endpoint.
const dialTimeout = 10 * time.Second

// link is a connection to an endpoint, ours or an old importer. Without the
// acknowledged mode what counts as arrived is what the peer's kernel has; the
// peer may still lose it.
type link struct {
	ending
	nc      net.Conn
	raw     syscall.RawConn // of the TCP socket
	written atomic.Int64    // bytes
	tasks   sync.WaitGroup
	confirm func(int64)
	last    int64 // confirmed
}

// dial connects to addr if it is in one of the networks, with TLS up to
// version tlsMax if there are files.
func dial(ctx context.Context, addr string, files *peer.TLS, tlsMax uint16, peers peer.Networks) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dialer := &net.Dialer{Control: peers.Control}
	if files == nil {
		return dialer.DialContext(ctx, "tcp", addr)
	}
	config, err := files.Client()
	if err != nil {
		return nil, err
	}
	config.MaxVersion = tlsMax
	nc, err := (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, peer.HandshakeError(err)
	}
	return nc, nil
}

// openTCP opens a plain or, with files, a TLS connection.
func openTCP(addr string, files *peer.TLS, peers peer.Networks) opener {
	return func(ctx context.Context, confirm func(int64)) (session, error) {
		// With TLS 1.3 the handshake ends here before the peer has looked at
		// our certificate: what its kernel has by then would count as
		// arrived, though the peer refuses the connection.
		nc, err := dial(ctx, addr, files, tls.VersionTLS12, peers)
		if err != nil {
			return nil, err
		}
		l := newLink(nc, confirm)
		if err := l.socket(); err != nil {
			nc.Close()
			return nil, err
		}
		l.tasks.Go(l.watch)
		l.tasks.Go(l.listen)
		return l, nil
	}
}

func newLink(nc net.Conn, confirm func(int64)) *link {
	return &link{ending: newEnding(), nc: nc, confirm: confirm}
}

// socket finds the TCP socket below the connection.
func (l *link) socket() (err error) {
	nc := l.nc
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T is no socket", nc)
	}
	l.raw, err = c.SyscallConn()
	return err
}

// watch confirms what the peer's kernel has received, until the link is broken:
// the kernel forgets what was under way. With TLS the bytes on their way are
// more than those of the text, so this is on the safe side.
func (l *link) watch() {
	for retry.Sleep(l.ctx, pollEvery) == nil {
		n := l.written.Load()
		if n == l.last {
			continue
		}
		if queued, ok := unsent(l.raw); ok && n-int64(queued) > l.last {
			l.last = n - int64(queued)
			l.confirm(l.last)
		}
	}
}

// listen notices that the peer has gone; it has nothing to say.
func (l *link) listen() {
	var b [512]byte
	for {
		if _, err := l.nc.Read(b[:]); err != nil {
			l.lose(errClosedByPeer)
			return
		}
	}
}

// lose makes the link broken, also if it is blocked in write.
func (l *link) lose(err error) {
	l.fail(err)
	l.nc.SetWriteDeadline(time.Now())
}

func (l *link) write(_ *batch, text []byte) error {
	if _, err := l.nc.Write(text); err != nil {
		return cmp.Or(l.err(), err)
	}
	l.written.Add(int64(len(text)))
	return nil
}

func (l *link) abort() { l.lose(errAborted) }

func (l *link) end(context.Context) {}

func (l *link) close() int64 {
	l.lose(errAborted)
	l.nc.Close()
	l.tasks.Wait()
	return l.last
}

// ackLink is a connection in the acknowledged mode, see tstatrepo-ack(7).
type ackLink struct {
	*link
	in    *bufio.Reader
	probe string // that was named last

	mu       sync.Mutex
	overhead []overhead
}

// overhead is a place where lines of the mode itself stand in the stream: the
// endpoint counts them, the pump does not.
type overhead struct {
	pos   int64 // of the stream as the pump counts it
	total int64 // bytes of such lines up to there
}

// openAck opens a connection in the acknowledged mode.
func openAck(addr string, files *peer.TLS, peers peer.Networks, name string) opener {
	return func(ctx context.Context, confirm func(int64)) (session, error) {
		nc, err := dial(ctx, addr, files, tls.VersionTLS13, peers)
		if err != nil {
			return nil, err
		}
		l := &ackLink{link: newLink(nc, confirm), in: bufio.NewReaderSize(nc, 512)}
		nc.SetDeadline(time.Now().Add(dialTimeout))
		stop := context.AfterFunc(ctx, func() { nc.Close() })
		defer stop()
		_, writeErr := fmt.Fprintf(nc, "%s %s %s\n", ackHello, ackVersion, name)
		_, err = l.answer() // it says why the peer did not take the line
		if err = cmp.Or(err, writeErr); err != nil {
			nc.Close()
			return nil, peer.ExplainTLS(fmt.Errorf("no answer as by tstatrepo-ack(7): %w", err))
		}
		nc.SetDeadline(time.Time{})
		l.tasks.Go(l.acks)
		return l, nil
	}
}

// answer reads a line of the endpoint.
func (l *ackLink) answer() (int64, error) {
	line, err := l.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	kind, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	switch kind {
	case "ack":
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%q is no confirmation", line)
		}
		return n, nil
	case "error":
		return 0, fmt.Errorf("the endpoint says: %s", rest)
	}
	return 0, fmt.Errorf("%q is no answer", line)
}

// acks takes confirmations until the connection ends.
func (l *ackLink) acks() {
	for {
		n, err := l.answer()
		if err != nil {
			l.lose(fmt.Errorf("connection has ended: %w", err))
			return
		}
		l.mu.Lock()
		n = l.own(n)
		l.mu.Unlock()
		if n > l.last {
			l.last = n
			l.confirm(n)
		}
	}
}

// own turns a position of the endpoint into one of the pump.
func (l *ackLink) own(n int64) int64 {
	for len(l.overhead) > 1 && l.overhead[1].pos+l.overhead[1].total <= n {
		l.overhead = l.overhead[1:]
	}
	if len(l.overhead) == 0 {
		return n
	}
	o := l.overhead[0]
	if n < o.pos+o.total {
		return min(n, o.pos)
	}
	n -= o.total
	if len(l.overhead) > 1 { // within the line of the mode
		n = min(n, l.overhead[1].pos)
	}
	return n
}

func (l *ackLink) write(b *batch, text []byte) error {
	if b.probe != l.probe {
		line := ackProbe + b.probe + "\n"
		l.mu.Lock()
		total := int64(len(line))
		if n := len(l.overhead); n > 0 {
			total += l.overhead[n-1].total
		}
		l.overhead = append(l.overhead, overhead{l.written.Load(), total})
		l.mu.Unlock()
		if _, err := l.nc.Write([]byte(line)); err != nil {
			return err
		}
		l.probe = b.probe
	}
	return l.link.write(b, text)
}
