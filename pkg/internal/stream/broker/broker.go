// Package broker holds the parts that sources and sinks of Kafka and JetStream
// share: URLs, clients, and message headers.
package broker

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// Kinds lists the URL forms of brokers.
var Kinds = dest.Schemes{"kafka://HOST:PORT/TOPIC", "kafka+tls://", "nats://HOST:PORT/STREAM", "nats+tls://"}

// Broker is the parsed URL of a Kafka topic or a JetStream stream.
type Broker struct {
	Scheme  string   // kafka or nats
	TLS     bool     // the scheme ends with +tls
	hosts   []string // host:port of one or more servers
	user    *url.Userinfo
	Name    string // of the topic or stream
	Options dest.Options
}

// IsStream reports whether name is valid as the name of a JetStream stream and as a
// subject token.
func IsStream(name string) bool { return protocol.IsName(name, protocol.WordChars, 255) }

// IsTopic reports whether name is valid as the name of a Kafka topic or group.
func IsTopic(name string) bool {
	return protocol.IsName(name, protocol.WordChars+".", 249) && name != "." && name != ".."
}

// Parse parses SCHEME://[USER@]HOST[:PORT][,HOST[:PORT]...]/NAME[?OPTION=VALUE&...].
// known maps each scheme, without "+tls", to its valid options.
func Parse(text string, known map[string][]string) (*Broker, error) {
	u, err := dest.Parse(text)
	if err != nil {
		return nil, err
	}
	scheme, tls := strings.CutSuffix(u.Scheme, "+tls")
	b := &Broker{Scheme: scheme, TLS: tls, user: u.User, Name: u.Path, Options: u.Options}
	port, example := "4222", "for example nats://localhost:4222/TSTAT"
	if b.Scheme == "kafka" {
		port, example = "9092", "for example kafka://localhost:9092/tstat"
	}
	if b.hosts, err = u.Addrs(port); err != nil {
		return nil, hint.Usage("it names no host and port", example)
	}
	switch {
	case b.Scheme == "nats" && !IsStream(b.Name):
		return nil, hint.Usage("it names no stream of letters, digits, '_' and '-'", example)
	case b.Scheme == "kafka" && !IsTopic(b.Name):
		return nil, hint.Usage("it names no topic of letters, digits, '.', '_' and '-'", example)
	}
	if err := b.Options.Check("option", known[b.Scheme]...); err != nil {
		return nil, err
	}
	if b.Scheme == "kafka" {
		return b, errors.Join(b.checkSASL(), b.checkVersion())
	}
	return b, nil
}

// Same reports whether b and o are both Kafka topics or both JetStream streams, have the
// same name, and share a server.
func (b *Broker) Same(o *Broker) bool {
	return b.Scheme == o.Scheme && b.Name == o.Name && slices.ContainsFunc(b.hosts, func(h string) bool { return slices.Contains(o.hosts, h) })
}

// String returns the URL without user and options.
func (b *Broker) String() string {
	scheme := b.Scheme
	if b.TLS {
		scheme += "+tls"
	}
	return scheme + "://" + strings.Join(b.hosts, ",") + "/" + b.Name
}

// Names of message headers.
const (
	HeaderProbe  = "Tstat-Probe"
	HeaderLog    = "Tstat-Log"
	HeaderPath   = "Tstat-Path"
	HeaderFormat = "Tstat-Format"
	HeaderID     = "Tstat-Id" // Kafka only; unchanged when the message is resent
)

// passwordVariable is the environment variable that holds the Kafka password. The
// "password-file" option overrides it.
const passwordVariable = "TSTATREPO_KAFKA_PASSWORD"
