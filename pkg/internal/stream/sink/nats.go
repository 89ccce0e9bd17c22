package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
)

const (
	// natsPending limits the messages in flight. The queue usually limits
	// them first.
	natsPending = 1 << 14
	// natsSilence is the timeout for an acknowledgement. If the leader of a stream
	// dies, no acknowledgement arrives.
	natsSilence = 5 * time.Second
)

// natsSession is a session that sends lines to JetStream. Its connection does not
// reconnect by itself, because buffered messages could then overtake messages that must
// be resent.
type natsSession struct {
	ending
	nc     *nats.Conn
	js     jetstream.JetStream
	stream string
	format string
	max    int // bytes of a message
	// inFlight holds the last message sent on each subject; it is nil if the stream
	// has no replicas. If a cluster loses the leader of a stream, it may lose a
	// message and still accept later messages. Each message therefore waits for the
	// acknowledgement of the previous message of its subject.
	inFlight map[string]future
	q        *batch.Queue
	log      *slog.Logger
	sent     int64       // bytes
	futures  chan future // in the order of the messages
	wait     sync.WaitGroup
	last     int64 // acked bytes
}

// future is a message in flight, or a dropped line.
type future struct {
	jetstream.PubAckFuture               // nil for a dropped line
	end                    int64         // position after the message
	done                   chan struct{} // closed when the message is acknowledged
	lost                   int           // bytes of a dropped line
}

func openNATS(b *broker.Broker, opt *Options, q *batch.Queue, files *peer.TLS) opener {
	return func(ctx context.Context, ack func(int64)) (session, error) {
		s := &natsSession{
			ending: newEnding(), stream: b.Name, format: string(opt.Format), q: q, log: q.Log,
			futures: make(chan future, natsPending),
		}
		var err error
		if s.nc, err = broker.ConnectNATS(b, files, s.fail); err != nil {
			return nil, err
		}
		if err := s.prepare(ctx, b); err != nil {
			s.nc.Close()
			return nil, err
		}
		s.wait.Go(func() { s.awaitAcks(ack) })
		return s, nil
	}
}

// prepare creates the stream if it does not exist, and sets s.max. It fails if JetStream
// does not respond within natsSilence, for example soon after a server restart.
func (s *natsSession) prepare(ctx context.Context, b *broker.Broker) (err error) {
	ctx, cancel := context.WithTimeout(ctx, natsSilence)
	defer cancel()
	if s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(natsPending), jetstream.WithPublishAsyncTimeout(natsSilence)); err != nil {
		return err
	}
	replicas, _ := strconv.Atoi(b.Options["replicas"]) // checked by Parse
	stream, err := s.js.Stream(ctx, s.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: s.stream, Subjects: []string{s.stream + ".>"}, Storage: jetstream.FileStorage, Replicas: max(replicas, 1),
		})
		if err == nil {
			s.log.Info("stream created", "stream", s.stream, "subjects", s.stream+".>", "replicas", max(replicas, 1))
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.stream, err)
	}
	config := stream.CachedInfo().Config
	s.max = int(s.nc.MaxPayload())
	if config.MaxMsgSize > 0 {
		s.max = min(s.max, int(config.MaxMsgSize))
	}
	has := config.Replicas
	if has > 1 {
		s.inFlight = map[string]future{}
	}
	if replicas > 0 && has != replicas {
		s.log.Warn("stream has another number of replicas, left unchanged", "stream", s.stream, "replicas", has, "wanted", replicas)
	}
	return nil
}

// write publishes text in messages of complete lines on the subject
// STREAM.PROBE.LOG. Resent messages keep their ids, so that the server can drop
// duplicates.
func (s *natsSession) write(b *batch.Batch, text []byte) error {
	subject := s.stream + "." + b.Probe + "." + b.Type
	return messages(b, text, s.max, func(id string, text []byte) error {
		if before, ok := s.inFlight[subject]; ok {
			select {
			case <-before.done:
			case <-s.broken():
				return s.err()
			}
		}
		s.sent += int64(len(text))
		f, err := s.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: text, Header: nats.Header{
			broker.HeaderProbe: {b.Probe}, broker.HeaderLog: {b.Type}, broker.HeaderPath: {b.Path}, broker.HeaderFormat: {s.format},
		}},
			jetstream.WithMsgID(id),
			// A retry by the client could put the message after later messages.
			jetstream.WithRetryAttempts(0))
		if err != nil {
			return err
		}
		sent := future{PubAckFuture: f, end: s.sent, done: make(chan struct{})}
		if s.inFlight != nil {
			s.inFlight[subject] = sent
		}
		return s.expect(sent)
	}, func(n int) error {
		s.sent += int64(n)
		return s.expect(future{end: s.sent, done: make(chan struct{}), lost: n})
	})
}

func (s *natsSession) expect(f future) error {
	select {
	case s.futures <- f:
		return nil
	case <-s.broken():
		return s.err()
	}
}

// awaitAcks waits for the server to acknowledge each message, in the order of sending.
// After each acknowledgement, it calls ack with the total number of acknowledged bytes.
func (s *natsSession) awaitAcks(ack func(int64)) {
	for {
		select {
		case f := <-s.futures:
			if f.PubAckFuture != nil {
				select {
				case <-f.Ok():
				case err := <-f.Err():
					s.fail(fmt.Errorf("message not accepted: %w", err))
					return
				case <-s.broken():
					return
				}
			}
			if f.lost > 0 {
				s.q.Stats.Dropped.Add(1)
				s.log.Warn("line dropped: longer than the server accepts", "sink", s.q.Name, "bytes", f.lost, "limit", s.max)
			}
			s.last = f.end
			close(f.done)
			ack(f.end)
		case <-s.broken():
			return
		}
	}
}

func (s *natsSession) end(context.Context) {}

func (s *natsSession) abort() {
	s.fail(errAborted)
	s.nc.Close()
}

func (s *natsSession) close() int64 {
	s.abort()
	s.wait.Wait()
	return s.last
}
