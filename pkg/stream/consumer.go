package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/retry"
)

// consumer takes the batches of its queue until that is closed and everything
// is taken, or ctx ends.
type consumer interface {
	run(ctx context.Context) error
}

// schemes are the kinds of consumers.
const schemes = "-, file:DIR, exec:COMMAND, tcp://HOST:PORT, tls://, ack://HOST:PORT, ack+tls://, kafka://HOST:PORT/TOPIC, kafka+tls://, nats://HOST:PORT/STREAM, nats+tls://"

// target is where a consumer of a URL writes to.
type target struct {
	scheme string
	rest   string   // DIR or COMMAND
	url    *url.URL // of tcp, tls, ack and ack+tls
	broker *broker  // of kafka and nats, with or without +tls
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
	scheme, rest, ok := strings.Cut(text, ":")
	t := &target{scheme: scheme, rest: rest}
	switch {
	case !ok:
	case scheme == "file":
		dir, query, _ := strings.Cut(rest, "?")
		t.rest, t.zstd = dir, query == "compress=zstd"
		switch {
		case dir == "":
			return nil, hint.Usage("it names no folder", "for example file:/srv/live or file:/srv/live?compress=zstd")
		case query != "" && !t.zstd:
			return nil, hint.Usage(fmt.Sprintf("unknown option %q", query), "known: compress=zstd")
		}
		return t, nil
	case scheme == "exec":
		if strings.TrimSpace(rest) == "" {
			return nil, hint.Usage("it names no command", "for example exec:'grep -v 10.0.0.1 >>log'")
		}
		return t, nil
	case isBroker(scheme):
		var err error
		if t.broker, err = parseBroker(scheme, rest, consumerOptions); err != nil {
			return nil, err
		}
		return t, t.broker.checkConsumer()
	case slices.Contains([]string{"tcp", "tls", "ack", "ack+tls"}, scheme):
		u, err := url.Parse(text)
		if err != nil {
			return nil, hint.Usage("it is no URL", "for example "+scheme+"://repository:9001")
		}
		t.url = u
		return t, t.check()
	}
	return nil, hint.Usage("unknown kind of consumer", "known: "+schemes)
}

// check checks the URL of a consumer that is one peer.
func (t *target) check() error {
	u := t.url
	switch {
	case u.Hostname() == "" || u.Port() == "":
		return hint.Usage("it names no host and port", "for example "+t.scheme+"://repository:9001")
	case u.Path != "" || u.RawQuery != "" || u.User != nil:
		return hint.Usage("nothing can follow or precede host and port", "for example "+t.scheme+"://repository:9001")
	}
	return nil
}

// Redact returns the name of a consumer without its secrets.
func Redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if i := strings.LastIndexByte(rest, '@'); ok && i >= 0 && isBroker(scheme) {
		return scheme + "://xxxxx@" + rest[i+1:]
	}
	return text
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
		return newPump(q, raw, openTCP(t.url.Host, files, h.opt.Peers), back), nil
	case "ack", "ack+tls":
		return newPump(q, raw, openAck(t.url.Host, files, h.opt.Peers, session), back), nil
	}
	if t.broker.scheme == "kafka" {
		return newPump(q, out, openKafka(t.broker, h, q, files), back), nil
	}
	return newPump(q, out, openNATS(t.broker, h, q, files), back), nil
}

// wantsRaw reports whether a consumer gets raw lines whatever the format is.
func wantsRaw(text string) bool {
	t, err := parseConsumer(text)
	return err == nil && slices.Contains([]string{"tcp", "tls", "ack", "ack+tls"}, t.scheme)
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
	paused := false
	for len(text) > 0 {
		n, err := s.w.Write(text)
		text = text[n:]
		switch {
		case err == nil && paused:
			s.q.log.Warn("standard output is written again")
			paused = false
		case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
			if !paused {
				s.q.log.Warn("standard output cannot be written: the stream pauses", "err", err)
				paused = true
			}
			if err := retry.Sleep(ctx, diskRetry); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("standard output: %w", err)
		}
	}
	return nil
}
