// Package sink writes lines to standard output, files, commands, peers and
// brokers. A sink receives batches from its queue and acks them.
package sink

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
)

// Sink writes the batches of a queue.
type Sink interface {
	// Run writes and acks batches until the queue is closed and everything is
	// acked. It returns an error if ctx is done first or the sink cannot continue.
	Run(ctx context.Context) error
}

// Kinds lists the URL forms of sinks.
var Kinds = slices.Concat(dest.Schemes{"-", "file:DIR", "exec:COMMAND", "tcp://HOST:PORT", "tls://", "ack://HOST:PORT", "ack+tls://"}, broker.Kinds)

// Target is the parsed URL of a sink.
type Target struct {
	scheme string
	rest   string         // DIR or COMMAND
	addr   string         // of tcp, tls, ack and ack+tls
	Broker *broker.Broker // of kafka and nats, with or without +tls
	zstd   bool
}

// Parse parses the URL of a sink. It returns a usage error if the URL is invalid.
func Parse(text string) (*Target, error) {
	if text == "-" {
		return &Target{scheme: "-"}, nil
	}
	scheme, rest := dest.Split(text)
	t := &Target{scheme: scheme, rest: rest}
	switch {
	case !Kinds.Has(scheme):
		return nil, hint.Usage("unknown kind of sink", "known: "+Kinds.String())
	case scheme == "file":
		return t, t.parseFolder()
	case scheme == "exec":
		if strings.TrimSpace(rest) == "" {
			return nil, hint.Usage("it names no command", "for example exec:'grep -v 10.0.0.1 >>log'")
		}
		return t, nil
	case broker.Kinds.Has(scheme):
		var err error
		if t.Broker, err = broker.Parse(text, targetOptions); err != nil {
			return nil, err
		}
		return t, checkTarget(t.Broker)
	}
	return t, t.parsePeer(text)
}

func (t *Target) parseFolder() error {
	dir, options, err := dest.ParsePath(t.rest)
	if err != nil {
		return err
	}
	if dir == "" {
		return hint.Usage("it names no folder", "for example file:/srv/live or file:/srv/live?compress=zstd")
	}
	if err := options.Check("option", "compress"); err != nil {
		return err
	}
	how, compress := options["compress"]
	if compress && how != "zstd" {
		return hint.Usage(fmt.Sprintf("unknown compression %q", how), "known: zstd")
	}
	t.rest, t.zstd = dir, compress
	return nil
}

// parsePeer parses a URL with a single HOST:PORT and nothing else.
func (t *Target) parsePeer(text string) error {
	example := "for example " + t.scheme + "://repository:9001"
	u, err := dest.Parse(text)
	if err != nil {
		return hint.Add(err, example)
	}
	addrs, err := u.Addrs("")
	if err != nil {
		return hint.Add(err, example)
	}
	if len(addrs) > 1 || u.Path != "" || len(u.Options) > 0 || u.User != nil {
		return hint.Usage("nothing can follow or precede host and port", example)
	}
	t.addr = addrs[0]
	return nil
}

// NeedsRaw reports whether the sink always needs lines in wire format, regardless
// of the stream's format.
func (t *Target) NeedsRaw() bool { return t.addr != "" }

// Options configures sinks.
type Options struct {
	Format             batch.Format
	Stdout             io.Writer
	Stderr             io.Writer // of commands
	RetryMin, RetryMax time.Duration
	TLS                peer.TLS
	Peers              peer.Networks // allowed networks of tcp, tls and ack sinks; empty: all
}

// New returns a sink that writes the batches of q to t. session identifies this
// exporter to an acknowledging endpoint.
func New(opt *Options, q *batch.Queue, t *Target, session string) (Sink, error) {
	raw := func(b *batch.Batch) []byte { return b.Raw }
	out := func(b *batch.Batch) []byte { return b.Out }
	var files *peer.TLS
	if t.scheme == "tls" || strings.HasSuffix(t.scheme, "+tls") {
		files = &opt.TLS
	}
	back := retry.New(opt.RetryMin, opt.RetryMax)
	switch t.scheme {
	case "-":
		return &stdout{q, opt.Stdout}, nil
	case "file":
		return newFiles(q, t.rest, opt.Format, t.zstd)
	case "exec":
		return newPump(q, out, openCommand(t.rest, opt.Stdout, opt.Stderr), back), nil
	case "tcp", "tls":
		return newPump(q, raw, openTCP(t.addr, files, opt.Peers), back), nil
	case "ack", "ack+tls":
		return newPump(q, raw, openAck(t.addr, files, opt.Peers, session), back), nil
	}
	if t.Broker.Scheme == "kafka" {
		return newPump(q, out, openKafka(t.Broker, opt, q, files), back), nil
	}
	return newPump(q, out, openNATS(t.Broker, opt, q, files), back), nil
}

// targetOptions lists the URL options of brokers that are used as sinks, by scheme.
var targetOptions = map[string][]string{
	"kafka": {"compress", "sasl", "password-file", "version"},
	"nats":  {"creds", "replicas"},
}

// checkTarget checks the values of the options compress and replicas.
func checkTarget(b *broker.Broker) error {
	text := b.Options["compress"]
	if _, ok := compressions[text]; !ok {
		return hint.Usage(fmt.Sprintf("unknown compression %q", text), "known: "+strings.Join(slices.Sorted(maps.Keys(compressions))[1:], ", "))
	}
	if text := b.Options["replicas"]; text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 5 {
			return hint.Usage(fmt.Sprintf("%q is not a number of replicas from 1 to 5", text), "for example nats://a,b,c/TSTAT?replicas=3")
		}
	}
	return nil
}
