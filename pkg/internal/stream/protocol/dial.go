package protocol

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// DialTimeout is the timeout for connecting, including the TLS handshake. In
// acknowledged mode, it also limits the wait for the endpoint's first response.
const DialTimeout = 10 * time.Second

// Dial connects to addr if its IP address is in peers. If peers is empty, all addresses
// are allowed. If files is not nil, Dial uses TLS up to version tlsMax; 0 allows the
// newest version.
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

// ErrClosedByPeer reports that the peer closed the connection.
var ErrClosedByPeer = errors.New("the other side has closed the connection")
