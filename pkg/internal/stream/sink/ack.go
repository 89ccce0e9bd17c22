package sink

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// ackLink is a connection in acknowledged mode; see tstatrepo-ack(7).
type ackLink struct {
	*link
	in    *bufio.Reader
	probe string // last announced probe

	mu       sync.Mutex
	overhead []overhead
}

// overhead records a protocol line that was sent between log lines. The endpoint counts
// the bytes of protocol lines, but the pump does not.
type overhead struct {
	pos   int64 // position of the line, as counted by the pump
	total int64 // bytes of all protocol lines so far, including this line
}

// openAck returns an opener of connections in acknowledged mode. name identifies
// this exporter to the endpoint.
func openAck(addr string, files *peer.TLS, peers peer.Networks, name string) opener {
	return func(ctx context.Context, ack func(int64)) (session, error) {
		nc, err := protocol.Dial(ctx, addr, files, tls.VersionTLS13, peers)
		if err != nil {
			return nil, err
		}
		l := &ackLink{link: newLink(nc, ack), in: bufio.NewReaderSize(nc, 512)}
		nc.SetDeadline(time.Now().Add(protocol.DialTimeout))
		stop := context.AfterFunc(ctx, func() { nc.Close() })
		defer stop()
		_, writeErr := fmt.Fprintf(nc, "%s %s %s\n", protocol.AckHello, protocol.AckVersion, name)
		_, err = l.answer() // its error says why the peer rejects the hello line
		if err = cmp.Or(err, writeErr); err != nil {
			nc.Close()
			return nil, peer.ExplainTLS(fmt.Errorf("no answer as by tstatrepo-ack(7): %w", err))
		}
		nc.SetDeadline(time.Time{})
		l.tasks.Go(l.readAcks)
		return l, nil
	}
}

// answer reads a response from the endpoint and returns the acked position in it. If the
// endpoint reports an error instead, answer returns that error.
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
			return 0, fmt.Errorf("%q is not an acknowledgement", line)
		}
		return n, nil
	case "error":
		return 0, fmt.Errorf("the endpoint says: %s", rest)
	}
	return 0, fmt.Errorf("%q is not a valid response", line)
}

// readAcks reads acknowledgements until the connection ends.
func (l *ackLink) readAcks() {
	for {
		n, err := l.answer()
		if err != nil {
			l.shutDown(fmt.Errorf("connection has ended: %w", err))
			return
		}
		l.mu.Lock()
		n = l.toPump(n)
		l.mu.Unlock()
		if n > l.last {
			l.last = n
			l.ack(n)
		}
	}
}

// toPump converts a position from the endpoint to the pump's position, which does not
// include the bytes of protocol lines. The caller must hold l.mu.
func (l *ackLink) toPump(n int64) int64 {
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
	if len(l.overhead) > 1 { // n may be within the next protocol line
		n = min(n, l.overhead[1].pos)
	}
	return n
}

func (l *ackLink) write(b *batch.Batch, text []byte) error {
	if b.Probe != l.probe {
		line := protocol.AckProbe + b.Probe + "\n"
		l.mu.Lock()
		total := int64(len(line))
		if n := len(l.overhead); n > 0 {
			total += l.overhead[n-1].total
		}
		l.overhead = append(l.overhead, overhead{l.written.Load(), total})
		l.mu.Unlock()
		if _, err := l.nc.Write([]byte(line)); err != nil {
			return cmp.Or(l.err(), err)
		}
		l.probe = b.Probe
	}
	return l.link.write(b, text)
}
