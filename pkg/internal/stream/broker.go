package stream

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Brokers are the kinds of brokers.
var Brokers = dest.Schemes{"kafka://HOST:PORT/TOPIC", "kafka+tls://", "nats://HOST:PORT/STREAM", "nats+tls://"}

// broker is a topic of Kafka or a stream of JetStream, as a URL names it.
type broker struct {
	scheme  string   // kafka or nats
	tls     bool     // the scheme ends with +tls
	hosts   []string // host:port of one or more servers
	user    *url.Userinfo
	name    string // of the topic or stream
	options dest.Options
}

// wordChars are those of a name that is a token of a NATS subject, too.
const wordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// isName reports whether name has 1 to most characters, and only these.
func isName(name, chars string, most int) bool {
	return name != "" && len(name) <= most && strings.Trim(name, chars) == ""
}

// isSession reports whether name may name a session, or a probe: files and
// folders have such names, which programs must not take for options.
func isSession(name string) bool { return isName(name, wordChars, 64) && name[0] != '-' }

// isStream reports whether name is one of a JetStream stream that is a token
// of a subject too.
func isStream(name string) bool { return isName(name, wordChars, 255) }

// isTopic reports whether Kafka takes name for a topic or a group.
func isTopic(name string) bool {
	return isName(name, wordChars+".", 249) && name != "." && name != ".."
}

// parseBroker reads SCHEME://[USER@]HOST[:PORT][,HOST[:PORT]...]/NAME[?OPTION=VALUE&...].
// known are the options by scheme.
func parseBroker(text string, known map[string][]string) (*broker, error) {
	u, err := dest.Parse(text)
	if err != nil {
		return nil, err
	}
	scheme, tls := strings.CutSuffix(u.Scheme, "+tls")
	b := &broker{scheme: scheme, tls: tls, user: u.User, name: u.Path, options: u.Options}
	port, example := "4222", "for example nats://localhost:4222/TSTAT"
	if b.scheme == "kafka" {
		port, example = "9092", "for example kafka://localhost:9092/tstat"
	}
	if b.hosts, err = u.Addrs(port); err != nil {
		return nil, hint.Usage("it names no host and port", example)
	}
	switch {
	case b.scheme == "nats" && !isStream(b.name):
		return nil, hint.Usage("it names no stream of letters, digits, '_' and '-'", example)
	case b.scheme == "kafka" && !isTopic(b.name):
		return nil, hint.Usage("it names no topic of letters, digits, '.', '_' and '-'", example)
	}
	if err := b.options.Check("option", known[b.scheme]...); err != nil {
		return nil, err
	}
	if b.scheme == "kafka" {
		return b, errors.Join(b.checkSASL(), b.checkVersion())
	}
	return b, nil
}

// same reports whether both name the same topic or stream of the same broker.
func (b *broker) same(o *broker) bool {
	return b.scheme == o.scheme && b.name == o.name && slices.ContainsFunc(b.hosts, func(h string) bool { return slices.Contains(o.hosts, h) })
}

// String returns the URL without user and options.
func (b *broker) String() string {
	scheme := b.scheme
	if b.tls {
		scheme += "+tls"
	}
	return scheme + "://" + strings.Join(b.hosts, ",") + "/" + b.name
}

// Headers of a message.
const (
	headerProbe  = "Tstat-Probe"
	headerLog    = "Tstat-Log"
	headerPath   = "Tstat-Path"
	headerFormat = "Tstat-Format"
	headerID     = "Tstat-Id" // of Kafka: the same when the message is sent again
)

// passwordVariable holds the password for Kafka if no file does.
const passwordVariable = "TSTATREPO_KAFKA_PASSWORD"
