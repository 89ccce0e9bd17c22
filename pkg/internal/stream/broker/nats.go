package broker

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// ConnectNATS connects to one of b's servers. fail is called when the connection is
// closed or an asynchronous error occurs.
func ConnectNATS(b *Broker, files *peer.TLS, fail func(error)) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("tstatrepo"), nats.NoReconnect(), nats.Timeout(protocol.DialTimeout),
		nats.ClosedHandler(func(nc *nats.Conn) { fail(cmp.Or(nc.LastError(), protocol.ErrClosedByPeer)) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { fail(err) }),
	}
	if creds := b.Options["creds"]; creds != "" {
		opts = append(opts, nats.UserCredentials(creds))
	}
	if files != nil {
		config, err := files.Client()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(config))
	}
	var servers []string
	for _, host := range b.hosts {
		servers = append(servers, (&url.URL{Scheme: "nats", User: b.user, Host: host}).String())
	}
	return nats.Connect(strings.Join(servers, ","), opts...)
}
