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

// Dialer connects to peers. Its zero value connects to any of them, without
// TLS files and without limits but those of the context.
type Dialer struct {
	TLS TLS // of DialTLS, as the files are at each connection
	// Control can refuse an address after its name was resolved, see
	// Networks.Control; nil allows all.
	Control func(network, address string, c syscall.RawConn) error
	Timeout time.Duration // of a connection and its handshake; 0: none
	// ReadStall and WriteStall break a connection on which one read or write
	// takes longer; 0: no bound. Neither http.Transport nor the
	// kernel gives up a peer that is alive and does nothing.
	ReadStall, WriteStall time.Duration
}

// Dial connects to addr.
func (d *Dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: d.Timeout, Control: d.Control}).DialContext(ctx, network, addr)
	if err != nil || d.ReadStall == 0 && d.WriteStall == 0 {
		return c, err
	}
	return &stallConn{c, d.ReadStall, d.WriteStall}, nil
}

// DialTLS connects to addr with TLS.
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
	conn := tls.Client(&verdictConn{Conn: raw, closed: make(chan struct{})}, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			// A server without TLS may take the first bytes of a handshake for
			// the start of a line, and wait for its end.
			return nil, hint.Add(fmt.Errorf("TLS handshake: %w", err), "does this port speak TLS?")
		}
		return nil, HandshakeError(err)
	}
	return conn, nil
}

// Dial connects to addr with TLS, by the files as they are now.
func (t TLS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&Dialer{TLS: t}).DialTLS(ctx, network, addr)
}

// Transport returns a transport for HTTP requests to peers. It uses no proxy,
// and leaves compressed bodies as they are.
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

// NoRedirect keeps an http.Client from following redirects: a peer must not
// send it elsewhere, least of all with a password.
func NoRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// stallConn breaks when a read or a write takes too long.
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
