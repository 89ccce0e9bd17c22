package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Dialer connects to peers. The zero value allows all peers and uses no TLS files
// and no timeouts.
type Dialer struct {
	TLS TLS // files for DialTLS, read for each connection
	// Control can reject an address after the host name is resolved; see
	// Networks.Control. nil allows all addresses.
	Control func(network, address string, c syscall.RawConn) error
	Timeout time.Duration // for connecting, including the TLS handshake; 0: none
	// ReadStall and WriteStall are the timeouts for a single read or write; 0 means
	// none. Without them, neither http.Transport nor the kernel gives up on a peer
	// that is alive but inactive.
	ReadStall, WriteStall time.Duration
}

// Dial connects to addr without TLS.
func (d *Dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: d.Timeout, Control: d.Control}).DialContext(ctx, network, addr)
	if err != nil || d.ReadStall == 0 && d.WriteStall == 0 {
		return c, err
	}
	return &stallConn{c, d.ReadStall, d.WriteStall}, nil
}

// DialTLS connects to addr and performs a TLS handshake.
func (d *Dialer) DialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	config, err := d.TLS.Client()
	if err != nil {
		return nil, err
	}
	if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
		return nil, err
	}
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	raw, err := d.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(&alertConn{Conn: raw, closed: make(chan struct{})}, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			// A server without TLS may mistake the handshake for the start of
			// a line, and wait for its end.
			return nil, hint.Add(fmt.Errorf("TLS handshake: %w", err), "does this port speak TLS?")
		}
		return nil, HandshakeError(err)
	}
	return conn, nil
}

// Dial connects to addr with TLS. Each call reads the files of t again.
func (t TLS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&Dialer{TLS: t}).DialTLS(ctx, network, addr)
}

// Transport returns a transport for HTTP requests to peers. It uses no proxy and
// does not decompress bodies.
func (d *Dialer) Transport() *Transport {
	return &Transport{&http.Transport{
		DialContext:            d.Dial,
		DialTLSContext:         d.DialTLS,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHeader,
	}}
}

// NoRedirect keeps an http.Client from following redirects, so that a peer cannot make
// the client send a password elsewhere.
func NoRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// stallConn sets a deadline for each read and write.
type stallConn struct {
	net.Conn
	read, write time.Duration // 0: no limit
}

func (c *stallConn) Read(p []byte) (int, error) {
	if c.read > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	if c.write > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}
