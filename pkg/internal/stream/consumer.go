package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// consumer takes the batches of its queue until that is closed and everything
// is taken, or ctx ends.
type consumer interface {
	run(ctx context.Context) error
}

// Consumers are the kinds of consumers.
var Consumers = slices.Concat(dest.Schemes{"-", "file:DIR", "exec:COMMAND", "tcp://HOST:PORT", "tls://", "ack://HOST:PORT", "ack+tls://"}, Brokers)

// target is where a consumer of a URL writes to.
type target struct {
	scheme string
	rest   string  // DIR or COMMAND
	addr   string  // of tcp, tls, ack and ack+tls
	broker *broker // of kafka and nats, with or without +tls
	zstd   bool
}

// CheckConsumer returns a usage error if text names no consumer.
func CheckConsumer(text string) error {
	_, err := parseConsumer(text)
	return err
}

func parseConsumer(text string) (*target, error) {
	if text == "-" {
		return &target{scheme: "-"}, nil
	}
	scheme, rest := dest.Split(text)
	t := &target{scheme: scheme, rest: rest}
	switch {
	case !Consumers.Has(scheme):
		return nil, hint.Usage("unknown kind of consumer", "known: "+Consumers.String())
	case scheme == "file":
		return t, t.parseFolder()
	case scheme == "exec":
		if strings.TrimSpace(rest) == "" {
			return nil, hint.Usage("it names no command", "for example exec:'grep -v 10.0.0.1 >>log'")
		}
		return t, nil
	case Brokers.Has(scheme):
		var err error
		if t.broker, err = parseBroker(text, consumerOptions); err != nil {
			return nil, err
		}
		return t, t.broker.checkConsumer()
	}
	return t, t.parsePeer(text)
}

func (t *target) parseFolder() error {
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

// parsePeer reads the URL of a consumer that is one peer.
func (t *target) parsePeer(text string) error {
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

// newConsumer makes the consumer that a queue is for. number tells it from
// others of this run.
func newConsumer(h *hub, q *queue, text string, session string) (consumer, error) {
	t, err := parseConsumer(text)
	if err != nil {
		return nil, err
	}
	raw := func(b *batch) []byte { return b.raw }
	out := func(b *batch) []byte { return b.out }
	var files *peer.TLS
	if t.scheme == "tls" || strings.HasSuffix(t.scheme, "+tls") {
		files = &h.opt.TLS
	}
	back := retry.New(h.opt.RetryMin, h.opt.RetryMax)
	switch t.scheme {
	case "-":
		return &stdout{q, h.opt.Stdout}, nil
	case "file":
		return newFiles(q, t.rest, h.opt.Format, t.zstd)
	case "exec":
		return newPump(q, out, openCommand(t.rest, h.opt.Stdout, h.opt.Stderr), back), nil
	case "tcp", "tls":
		h.needRaw = true
		return newPump(q, raw, openTCP(t.addr, files, h.opt.Peers), back), nil
	case "ack", "ack+tls":
		h.needRaw = true
		return newPump(q, raw, openAck(t.addr, files, h.opt.Peers, session), back), nil
	}
	if t.broker.scheme == "kafka" {
		return newPump(q, out, openKafka(t.broker, h, q, files), back), nil
	}
	return newPump(q, out, openNATS(t.broker, h, q, files), back), nil
}

// stdout writes to the standard output.
type stdout struct {
	q *queue
	w io.Writer
}

func (s *stdout) run(ctx context.Context) error {
	for {
		select {
		case b, ok := <-s.q.ch:
			if !ok {
				return nil
			}
			if err := s.write(ctx, b.out); err != nil {
				if s.q.optional {
					s.q.discard(b)
				}
				return err
			}
			s.q.done(b)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write writes all of the text; it waits where a disk is full.
func (s *stdout) write(ctx context.Context, text []byte) error {
	var writing retry.Alarm
	for len(text) > 0 {
		n, err := s.w.Write(text)
		text = text[n:]
		if err != nil && (!durable.IsTransient(err) || errors.Is(err, syscall.EIO)) { // a terminal that is gone is EIO
			return fmt.Errorf("standard output: %w", err)
		}
		writing.Set(err, s.q.log, "standard output cannot be written: the stream pauses", "standard output is written again")
		if err == nil {
			continue
		}
		if err := retry.Sleep(ctx, diskRetry); err != nil {
			return err
		}
	}
	return nil
}
