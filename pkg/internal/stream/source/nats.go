package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

const (
	// natsAckWait is how long the server waits for an acknowledgement
	// before it redelivers a message to any process. A running process
	// extends the wait every natsAckWait/3; see progress.
	natsAckWait = 10 * time.Second
	// natsAckPending limits the unacknowledged messages of all processes.
	natsAckPending = 1000
	// natsFetch and natsFetchBytes limit a fetch. natsPull is how long the
	// server waits for messages.
	natsFetch      = 64
	natsFetchBytes = 64 << 20
	natsPull       = time.Second
	// natsIdleFetches is the number of empty fetches after which checkIdle checks the
	// state of the consumer.
	natsIdleFetches = 10
	// natsNewStream is the delay between creating a stream and creating its
	// consumer. If both are created at the same moment, nats-server 2.9.10 may
	// count messages as delivered that never arrive.
	natsNewStream = time.Second
	// natsRemembered is the number of acknowledged messages to remember, in order to
	// recognize copies that the server redelivered before the acks arrived.
	natsRemembered = 4 * natsAckPending
)

// natsSource reads a stream through a durable consumer named after the group. It
// acknowledges a message to the server once all lines of the message are acked.
type natsSource struct {
	*reader

	mu        sync.Mutex
	delivered map[natsPosition]*natsMessage
	inFlight  int            // number of delivered messages not yet acked
	acked     []natsPosition // keys of the acked messages in delivered, oldest ack first

	// Used only by the reading goroutine:
	last   uint64 // highest sequence received
	floor  uint64 // ack floor of the consumer at the last check, see checkIdle
	absent bool   // the stream did not exist at the last check
}

// natsPosition identifies a message. If the stream is recreated, sequences repeat,
// but the times of messages differ.
type natsPosition struct {
	sequence uint64
	time     int64 // Unix time in nanoseconds
}

// natsMessage is a delivered message.
type natsMessage struct {
	msg   jetstream.Msg // latest delivery; nil once acked
	acked bool
}

func (s *natsSource) Run(ctx, reading context.Context) error {
	var opening retry.Alarm
	const lost, back = "source disconnected or cannot be opened, retrying", "source reconnected"
	for reading.Err() == nil {
		err := s.consume(ctx, reading, func() {
			s.back.Reset()
			opening.Set(nil, s.log, lost, back)
		})
		if reading.Err() != nil || ctx.Err() != nil {
			break
		}
		if hint.IsUsage(err) {
			return err
		}
		opening.Set(err, s.log, lost, back)
		if s.back.Wait(reading) != nil {
			break
		}
	}
	return nil
}

// consume consumes messages until the context reading is done or the connection ends.
// It calls opened when the consumer is ready.
func (s *natsSource) consume(ctx, reading context.Context, opened func()) error {
	lost, fail := context.WithCancelCause(reading)
	defer fail(nil)
	nc, err := broker.ConnectNATS(s.broker, s.files, fail)
	if err != nil {
		return err
	}
	defer nc.Close()
	cons, err := s.consumer(lost, nc)
	if err != nil {
		return err
	}
	opened()
	in := natsOrder{maxMessages: fetchSize(nc.MaxPayload()), deliver: func(msg jetstream.Msg) error { return s.message(ctx, msg) }}
	if in.first, err = s.awaitRedelivery(lost, cons); err != nil {
		return err
	}
	var alive sync.WaitGroup
	living, die := context.WithCancel(ctx)
	defer alive.Wait()
	defer die()
	alive.Go(func() { s.progress(living) })
	for idle := 0; lost.Err() == nil; {
		n, err := in.fetch(cons)
		if idle++; n > 0 {
			idle = 0
		}
		if idle == natsIdleFetches && err == nil {
			idle, err = 0, s.checkIdle(lost, cons)
		}
		if err != nil {
			return err
		}
	}
	if reading.Err() == nil {
		return context.Cause(lost)
	}
	s.drain(ctx)
	return nc.FlushTimeout(commitTimeout)
}

// natsOrder fetches messages and sorts redelivered messages, which may arrive
// out of order.
type natsOrder struct {
	maxMessages int                       // messages per fetch
	first       int                       // messages to collect and sort before any are delivered; 0: none
	held        []jetstream.Msg           // messages collected so far
	deliver     func(jetstream.Msg) error // delivers a message
}

// fetchSize returns how many messages to fetch at once. payload is the server's
// maximum message size in bytes.
func fetchSize(payload int64) int {
	return int(max(1, min(natsFetch, natsFetchBytes/max(1, payload))))
}

// fetch fetches messages and delivers them. While redelivered messages are expected, it
// holds all messages and calls release later. It returns the number of messages that
// arrived.
func (o *natsOrder) fetch(cons jetstream.Consumer) (n int, err error) {
	batch, err := cons.Fetch(o.maxMessages, jetstream.FetchMaxWait(natsPull))
	if err != nil {
		return 0, err
	}
	for msg := range batch.Messages() {
		n++
		if o.first > 0 {
			o.held = append(o.held, msg)
			continue
		}
		if err := o.deliver(msg); err != nil {
			return n, err
		}
	}
	if err := batch.Error(); err != nil {
		return n, err
	}
	if o.first > 0 && (n == 0 || len(o.held) >= o.first) {
		err = o.release()
	}
	return n, err
}

// release delivers the held messages in stream order.
func (o *natsOrder) release() error {
	sequence := func(msg jetstream.Msg) uint64 {
		if meta, err := msg.Metadata(); err == nil {
			return meta.Sequence.Stream
		}
		return 0 // not from JetStream; deliver returns an error
	}
	slices.SortStableFunc(o.held, func(a, b jetstream.Msg) int { return cmp.Compare(sequence(a), sequence(b)) })
	held := o.held
	o.first, o.held = 0, nil
	for _, msg := range held {
		if err := o.deliver(msg); err != nil {
			return err
		}
	}
	return nil
}

// checkIdle returns an error if the server has messages but does not deliver them, or if
// messages that it counts as delivered did not arrive. The caller then reconnects.
func (s *natsSource) checkIdle(ctx context.Context, cons jetstream.Consumer) error {
	info, err := cons.Info(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case info.NumPending > 0 && info.NumAckPending < info.Config.MaxAckPending:
		return fmt.Errorf("the server has %d messages and delivers none", info.NumPending)
	case info.NumAckPending > s.inFlight && (info.NumWaiting == 0 || info.AckFloor.Stream == s.floor):
		s.floor = info.AckFloor.Stream
		return fmt.Errorf("the server has delivered %d messages that did not arrive", info.NumAckPending-s.inFlight)
	}
	s.floor = info.AckFloor.Stream
	return nil
}

// consumer returns the durable consumer, and creates it if it does not exist.
func (s *natsSource) consumer(ctx context.Context, nc *nats.Conn) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, protocol.DialTimeout)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	cons, err := js.Consumer(ctx, s.broker.Name, s.group)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if s.absent {
			s.absent = false
			if err := retry.Sleep(ctx, natsNewStream); err != nil {
				return nil, err
			}
		}
		cons, err = js.CreateConsumer(ctx, s.broker.Name, jetstream.ConsumerConfig{
			Durable: s.group, AckPolicy: jetstream.AckExplicitPolicy, AckWait: natsAckWait, MaxAckPending: natsAckPending,
		})
		if err == nil {
			s.log.Info("consumer created", "group", s.group)
		}
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		s.absent = true
		return nil, fmt.Errorf("stream %s does not exist; tstatrepo creates it when it first writes to it", s.broker.Name)
	case err != nil:
		return nil, fmt.Errorf("stream %s, consumer %s: %w", s.broker.Name, s.group, err)
	}
	if policy := cons.CachedInfo().Config.AckPolicy; policy != jetstream.AckExplicitPolicy {
		return nil, hint.Usage(fmt.Sprintf("consumer %s of stream %s does not acknowledge each message, but %q", s.group, s.broker.Name, policy),
			"use another group: "+s.broker.String()+"?group=NAME")
	}
	return cons, nil
}

// awaitRedelivery waits until the server redelivers the unacked messages of a killed
// process, so that they can be delivered before newer ones. It returns the number of
// unacked messages, or 0 if there is nothing to wait for. If another process also reads
// from cons, the order is undefined and awaitRedelivery does not wait.
func (s *natsSource) awaitRedelivery(ctx context.Context, cons jetstream.Consumer) (int, error) {
	info := cons.CachedInfo()
	if info.NumAckPending == 0 || info.NumWaiting > 0 || info.Delivered.Stream <= s.last {
		return 0, nil
	}
	wait := info.Config.AckWait + time.Second
	s.log.Info("waiting for unacknowledged messages of a former process", "messages", info.NumAckPending, "timeout", wait)
	return info.NumAckPending, retry.Sleep(ctx, wait)
}

// message delivers the lines of a message, unless the message has already been
// delivered.
func (s *natsSource) message(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	pos := natsPosition{meta.Sequence.Stream, meta.Timestamp.UnixNano()}
	s.last = max(s.last, pos.sequence)
	if s.isRedelivered(pos, msg) {
		return nil
	}
	m := inbound{
		key:    fmt.Sprintf("%s/%d@%d", s.broker, pos.sequence, pos.time),
		format: msg.Headers().Get(broker.HeaderFormat), path: msg.Headers().Get(broker.HeaderPath), value: msg.Data(),
	}
	// The probe comes from the subject rather than from a header, since the server
	// can restrict who publishes on a subject.
	if tokens := strings.Split(msg.Subject(), "."); len(tokens) >= 2 {
		m.probe = tokens[len(tokens)-2]
	}
	sent := false
	err = s.deliver(ctx, &m, func() {
		sent = true
		s.mu.Lock()
		defer s.mu.Unlock()
		s.delivered[pos] = &natsMessage{msg: msg}
		s.inFlight++
	}, func() { s.ack(pos) })
	if err == nil && !sent {
		return msg.Ack()
	}
	return err
}

// isRedelivered reports whether a message has already been delivered. If its lines are
// acked, isRedelivered acknowledges it to the server again. The server redelivers
// messages after a lost connection or when sinks are slow.
func (s *natsSource) isRedelivered(pos natsPosition, msg jetstream.Msg) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.delivered[pos]
	if m == nil {
		return false
	}
	if m.acked {
		msg.Ack()
	} else {
		m.msg = msg
	}
	return true
}

// ack acknowledges a message to the server. If the acknowledgement is lost, the
// message is redelivered.
func (s *natsSource) ack(pos natsPosition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.delivered[pos]
	m.acked = true
	m.msg.Ack()
	m.msg = nil // frees the text
	s.inFlight--
	if s.acked = append(s.acked, pos); len(s.acked) > natsRemembered {
		delete(s.delivered, s.acked[0])
		s.acked = s.acked[1:]
	}
	s.window.Save(s.window.Snapshot())
}

// progress tells the server that the messages in flight are still in progress, so that it
// does not redeliver them. It repeats this until ctx is done.
func (s *natsSource) progress(ctx context.Context) {
	for retry.Sleep(ctx, natsAckWait/3) == nil {
		s.mu.Lock()
		var msgs []jetstream.Msg
		for _, m := range s.delivered {
			if !m.acked {
				msgs = append(msgs, m.msg)
			}
		}
		s.mu.Unlock()
		for _, msg := range msgs {
			msg.InProgress() // a lost connection is detected elsewhere
		}
	}
}

// drain waits until all delivered lines are acked, or ctx is done.
func (s *natsSource) drain(ctx context.Context) {
	retry.Until(ctx, drainPoll, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.inFlight == 0
	})
}
