package sink

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// link is a connection to a tstatrepo endpoint or to mPlane's old importer. Without
// acknowledged mode, bytes count as arrived when the peer's kernel has received
// them. If the peer then crashes, they may be lost.
type link struct {
	ending
	nc      net.Conn
	raw     syscall.RawConn // of the TCP socket
	written atomic.Int64    // bytes
	tasks   sync.WaitGroup
	ack     func(int64)
	last    int64 // acked bytes
}

// openTCP returns an opener of TCP connections, which use TLS if files is not nil.
func openTCP(addr string, files *peer.TLS, peers peer.Networks) opener {
	return func(ctx context.Context, ack func(int64)) (session, error) {
		// Use TLS 1.2. With TLS 1.3 the handshake returns before the peer has
		// checked the client certificate. Bytes would then count as arrived even if
		// the peer refuses the connection.
		nc, err := protocol.Dial(ctx, addr, files, tls.VersionTLS12, peers)
		if err != nil {
			return nil, err
		}
		l := newLink(nc, ack)
		if err := l.socket(); err != nil {
			nc.Close()
			return nil, err
		}
		l.tasks.Go(l.watch)
		l.tasks.Go(l.listen)
		return l, nil
	}
}

func newLink(nc net.Conn, ack func(int64)) *link {
	return &link{ending: newEnding(), nc: nc, ack: ack}
}

// socket sets l.raw to the TCP socket of the connection.
func (l *link) socket() (err error) {
	nc := l.nc
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T is not a socket", nc)
	}
	l.raw, err = c.SyscallConn()
	return err
}

// watch acks the bytes that the peer's kernel has received, until the link fails.
// With TLS the bytes in flight include overhead, so watch acks too few bytes rather
// than too many.
func (l *link) watch() {
	for retry.Sleep(l.ctx, pollEvery) == nil {
		n := l.written.Load()
		if n == l.last {
			continue
		}
		if queued, ok := unsent(l.raw); ok && n-int64(queued) > l.last {
			l.last = n - int64(queued)
			l.ack(l.last)
		}
	}
}

// listen reads until the peer closes the connection. It ignores the data, since
// the peer is not expected to send any.
func (l *link) listen() {
	var b [512]byte
	for {
		if _, err := l.nc.Read(b[:]); err != nil {
			l.shutDown(protocol.ErrClosedByPeer)
			return
		}
	}
}

// shutDown makes the link fail with err, even while write blocks.
func (l *link) shutDown(err error) {
	l.fail(err)
	l.nc.SetWriteDeadline(time.Now())
}

func (l *link) write(_ *batch.Batch, text []byte) error {
	if _, err := l.nc.Write(text); err != nil {
		return cmp.Or(l.err(), err)
	}
	l.written.Add(int64(len(text)))
	return nil
}

func (l *link) abort() { l.shutDown(errAborted) }

func (l *link) end(context.Context) {}

func (l *link) close() int64 {
	l.shutDown(errAborted)
	l.nc.Close()
	l.tasks.Wait()
	return l.last
}
