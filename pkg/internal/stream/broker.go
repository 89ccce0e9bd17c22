package stream

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

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

// consumerOptions are the options of brokers as consumers.
var consumerOptions = map[string][]string{
	"kafka": {"compress", "sasl", "password-file", "version"},
	"nats":  {"creds", "replicas"},
}

// checkConsumer checks the options of a broker as a consumer.
func (b *broker) checkConsumer() error {
	text := b.options["compress"]
	if _, ok := compressions[text]; !ok {
		return hint.Usage(fmt.Sprintf("unknown compression %q", text), "known: "+strings.Join(slices.Sorted(maps.Keys(compressions))[1:], ", "))
	}
	if text := b.options["replicas"]; text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 5 {
			return hint.Usage(fmt.Sprintf("%q is no number of replicas from 1 to 5", text), "for example nats://a,b,c/TSTAT?replicas=3")
		}
	}
	return nil
}

// String returns the URL without user and options.
func (b *broker) String() string {
	scheme := b.scheme
	if b.tls {
		scheme += "+tls"
	}
	return scheme + "://" + strings.Join(b.hosts, ",") + "/" + b.name
}

const (
	// messageSize is about how much text goes into a message, in bytes: 100
	// lines of log_tcp_complete.
	messageSize = 64 << 10
	// messageRoom is what a message has besides text and headers, in bytes, at most.
	messageRoom = 512
)

// Headers of a message, besides its id.
const (
	headerProbe  = "Tstat-Probe"
	headerLog    = "Tstat-Log"
	headerPath   = "Tstat-Path"
	headerFormat = "Tstat-Format"
)

// messages cuts text, which batch b ends with, into messages of about
// messageSize bytes and not more than limit with their headers, and calls
// send for each. A line that is too long for a message is given to drop.
// Batch and text give the same messages each time.
func messages(b *batch, text []byte, limit int, send func(id string, text []byte) error, drop func(n int) error) error {
	for len(text) > 0 {
		at := len(b.out) - len(text)
		room := limit - messageRoom - len(b.probe) - len(b.typ) - len(b.path) - len(b.key)
		n := len(text)
		if most := max(0, min(messageSize, room)); n > most {
			n = wholeLines(text, most)
		}
		msg := text[:n]
		text = text[n:]
		var err error
		if n > room {
			err = drop(n)
		} else {
			err = send(fmt.Sprintf("%s:%d.%d:%d", b.key, b.offset, at, n), msg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wholeLines returns the length of the whole lines that text begins with, not
// more than most unless the first one is longer.
func wholeLines(text []byte, most int) int {
	if n := bytes.LastIndexByte(text[:most], '\n') + 1; n > 0 {
		return n
	}
	return bytes.IndexByte(text, '\n') + 1
}

// passwordVariable holds the password for Kafka if no file does.
const passwordVariable = "TSTATREPO_KAFKA_PASSWORD"
