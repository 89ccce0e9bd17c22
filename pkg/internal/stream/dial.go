package stream

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// dialTimeout bounds connecting, with a TLS handshake, and the answer of an
// acknowledging endpoint.
const dialTimeout = 10 * time.Second

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
