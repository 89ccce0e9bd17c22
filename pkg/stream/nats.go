package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

const (
	// natsMessage is about how much text goes into a message, in bytes: 100
	// lines of log_tcp_complete.
	natsMessage = 64 << 10
	// natsPending bounds the messages on their way; the queue does before.
	natsPending = 1 << 14
)

// natsTarget is a stream of a JetStream server.
type natsTarget struct {
	url    string // of the server, with user and password
	creds  string // file of credentials; "" for none
	stream string
	files  *peer.TLS // nil without TLS
}

// natsSession is a connection that does not reconnect by itself: messages
// that were buffered meanwhile could overtake those to be sent again.
type natsSession struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	stream  string
	max     int // bytes of a message
	q       *queue
	log     *slog.Logger
	sent    int64
	futures chan future
	gone    chan struct{}
	once    sync.Once
	failure error
	wait    sync.WaitGroup
	last    int64
}

// future is a message to be acknowledged, that ends at a position.
type future struct {
	jetstream.PubAckFuture
	end int64
}

func openNATS(target natsTarget, q *queue) opener {
	return func(ctx context.Context, confirm func(int64)) (session, error) {
		s := &natsSession{stream: target.stream, q: q, log: q.log, futures: make(chan future, natsPending), gone: make(chan struct{})}
		opts := []nats.Option{
			nats.Name("tstatrepo"), nats.NoReconnect(), nats.Timeout(dialTimeout),
			nats.ClosedHandler(func(nc *nats.Conn) { s.fail(cmpErr(nc.LastError(), errClosedByPeer)) }),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.fail(err) }),
		}
		if target.creds != "" {
			opts = append(opts, nats.UserCredentials(target.creds))
		}
		if target.files != nil {
			config, err := target.files.Client()
			if err != nil {
				return nil, err
			}
			opts = append(opts, nats.Secure(config))
		}
		var err error
		if s.nc, err = nats.Connect(target.url, opts...); err != nil {
			return nil, err
		}
		if err := s.prepare(ctx); err != nil {
			s.nc.Close()
			return nil, err
		}
		s.max = int(s.nc.MaxPayload()) - 4096 // for the header
		s.wait.Go(func() { s.acks(confirm) })
		return s, nil
	}
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// prepare makes the stream if it is not there. It succeeds only when
// JetStream answers: after a restart of the server that takes a while.
func (s *natsSession) prepare(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(natsPending)); err != nil {
		return err
	}
	_, err = s.js.Stream(ctx, s.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = s.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: s.stream, Subjects: []string{s.stream + ".>"}, Storage: jetstream.FileStorage,
		})
		if err == nil {
			s.log.Info("stream made", "stream", s.stream, "subjects", s.stream+".>")
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.stream, err)
	}
	return nil
}

// write publishes text in messages of whole lines, on the subject
// STREAM.PROBE.LOG. Their ids are the same when they are sent again.
func (s *natsSession) write(b *batch, text []byte) error {
	subject := s.stream + "." + b.probe + "." + b.typ
	for len(text) > 0 {
		n := len(text)
		if n > natsMessage {
			if n = bytes.LastIndexByte(text[:natsMessage], '\n') + 1; n == 0 {
				n = bytes.IndexByte(text, '\n') + 1
			}
		}
		at := len(b.out) - len(text)
		msg := text[:n]
		text = text[n:]
		s.sent += int64(n)
		if n > s.max {
			s.q.stats.dropped.Add(1)
			s.log.Warn("line dropped: it is longer than the server takes", "consumer", s.q.name, "bytes", n, "limit", s.max)
			if err := s.expect(future{nil, s.sent}); err != nil {
				return err
			}
			continue
		}
		f, err := s.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: msg},
			jetstream.WithMsgID(fmt.Sprintf("%s:%d.%d:%d", b.key, b.offset, at, n)),
			// Tried again at once it would come after those that follow it.
			jetstream.WithRetryAttempts(0))
		if err != nil {
			return err
		}
		if err := s.expect(future{f, s.sent}); err != nil {
			return err
		}
	}
	return nil
}

func (s *natsSession) expect(f future) error {
	select {
	case s.futures <- f:
		return nil
	case <-s.gone:
		return s.failure
	}
}

// acks takes the acknowledgements in the order of the messages.
func (s *natsSession) acks(confirm func(int64)) {
	for {
		select {
		case f := <-s.futures:
			if f.PubAckFuture != nil {
				select {
				case <-f.Ok():
				case err := <-f.Err():
					s.fail(fmt.Errorf("message not taken: %w", err))
					return
				case <-s.gone:
					return
				}
			}
			s.last = f.end
			confirm(f.end)
		case <-s.gone:
			return
		}
	}
}

func (s *natsSession) fail(err error) {
	s.once.Do(func() {
		s.failure = err
		close(s.gone)
	})
}

func (s *natsSession) broken() <-chan struct{} { return s.gone }
func (s *natsSession) err() error              { return s.failure }
func (s *natsSession) end(context.Context)     {}

func (s *natsSession) abort() {
	s.fail(errAborted)
	s.nc.Close()
}

func (s *natsSession) close() int64 {
	s.abort()
	s.wait.Wait()
	return s.last
}
