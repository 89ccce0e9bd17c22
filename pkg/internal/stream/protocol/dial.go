package protocol

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// DialTimeout bounds connecting, with a TLS handshake, and the first response
// of an acknowledging endpoint.
const DialTimeout = 10 * time.Second

// Dial connects to addr if it is in one of the networks peers; an empty peers
// allows all. With files it uses TLS up to version tlsMax; 0 is the newest.
func Dial(ctx context.Context, addr string, files *peer.TLS, tlsMax uint16, peers peer.Networks) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
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

// ErrClosedByPeer reports that the peer has closed a connection.
var ErrClosedByPeer = errors.New("the other side has closed the connection")
