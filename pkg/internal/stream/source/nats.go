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
	// reports every third of it that it still has the message.
	natsAckWait = 10 * time.Second
	// natsAckPending limits the unacknowledged messages of all processes.
	natsAckPending = 1000
	// natsFetch and natsFetchBytes limit a fetch, and natsPull how long the
	// server waits for messages.
	natsFetch      = 64
	natsFetchBytes = 64 << 20
	natsPull       = time.Second
	// natsLook is the number of fetches without a message after which the
	// source asks the server whether any are left.
	natsLook = 10
	// natsNewStream is how old a stream must be before a consumer is
	// created. If both are created at the same moment, the consumer may
	// never get a message: nats-server 2.9.10 repeatedly counts messages as
	// delivered, but none arrives.
	natsNewStream = time.Second
	// natsRemembered is how many acknowledged messages are remembered: the
	// server may have redelivered them before.
	natsRemembered = 4 * natsAckPending
)

// natsSource consumes a stream by a durable consumer with the group's name. It
// acknowledges a message to the server when its lines are acked.
type natsSource struct {
	*reader

	mu        sync.Mutex
	delivered map[natsPosition]*natsMessage
	underway  int            // delivered, not acked
	acked     []natsPosition // delivered messages in the order of their acks

	// Used only by the goroutine that reads:
	last   uint64 // highest sequence received
	floor  uint64 // everything up to it was acknowledged at the last check, see idle
	absent bool   // the stream did not exist at the last check
}

// natsPosition identifies a message; the time distinguishes it from one of a
// recreated stream.
type natsPosition struct {
	sequence uint64
	time     int64 // unix, nanoseconds
}

// natsMessage is a delivered message.
type natsMessage struct {
	msg   jetstream.Msg // as received last; nil once it is acked
	acked bool
}

func (s *natsSource) Run(ctx, reading context.Context) error {
	var opening retry.Alarm
	const lost, back = "source disconnected or cannot be opened, retrying", "source reconnected"
	for reading.Err() == nil {
		err := s.connection(ctx, reading, func() {
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

// connection consumes messages until reading or the connection ends. It calls
// opened when it can start.
func (s *natsSource) connection(ctx, reading context.Context, opened func()) error {
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
	in := natsOrder{most: fetchSize(nc.MaxPayload()), hand: func(msg jetstream.Msg) error { return s.message(ctx, msg) }}
	if in.first, err = s.former(lost, cons); err != nil {
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
		if idle == natsLook && err == nil {
			idle, err = 0, s.idle(lost, cons)
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

// natsOrder sorts messages: redelivered messages may arrive out of order.
type natsOrder struct {
	most  int // messages per fetch
	first int // number of redelivered messages that precede new ones
	held  []jetstream.Msg
	hand  func(jetstream.Msg) error
}

// fetchSize returns how many messages to fetch at once from a server whose
// messages may have payload bytes.
func fetchSize(payload int64) int {
	return int(max(1, min(natsFetch, natsFetchBytes/max(1, payload))))
}

// fetch delivers messages, and returns how many arrived.
func (o *natsOrder) fetch(cons jetstream.Consumer) (n int, err error) {
	batch, err := cons.Fetch(o.most, jetstream.FetchMaxWait(natsPull))
	if err != nil {
		return 0, err
	}
	for msg := range batch.Messages() {
		n++
		if o.first > 0 {
			o.held = append(o.held, msg)
			continue
		}
		if err := o.hand(msg); err != nil {
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

// release delivers the messages that were held back.
func (o *natsOrder) release() error {
	sequence := func(msg jetstream.Msg) uint64 {
		if meta, err := msg.Metadata(); err == nil {
			return meta.Sequence.Stream
		}
		return 0 // not from JetStream: hand returns the error
	}
	slices.SortStableFunc(o.held, func(a, b jetstream.Msg) int { return cmp.Compare(sequence(a), sequence(b)) })
	held := o.held
	o.first, o.held = 0, nil
	for _, msg := range held {
		if err := o.hand(msg); err != nil {
			return err
		}
	}
	return nil
}

// idle returns an error if the server has messages but delivers none, or if
// delivered messages did not arrive. The caller then reconnects.
func (s *natsSource) idle(ctx context.Context, cons jetstream.Consumer) error {
	info, err := cons.Info(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case info.NumPending > 0 && info.NumAckPending < info.Config.MaxAckPending:
		return fmt.Errorf("the server has %d messages and gives none", info.NumPending)
	case info.NumAckPending > s.underway && (info.NumWaiting == 0 || info.AckFloor.Stream == s.floor):
		s.floor = info.AckFloor.Stream
		return fmt.Errorf("the server has given out %d messages that have not come", info.NumAckPending-s.underway)
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
		return nil, fmt.Errorf("stream %s does not exist; tstatrepo makes it when it first writes to it", s.broker.Name)
	case err != nil:
		return nil, fmt.Errorf("stream %s, consumer %s: %w", s.broker.Name, s.group, err)
	}
	if policy := cons.CachedInfo().Config.AckPolicy; policy != jetstream.AckExplicitPolicy {
		return nil, hint.Usage(fmt.Sprintf("consumer %s of stream %s does not acknowledge each message, but %q", s.group, s.broker.Name, policy),
			"use another group: "+s.broker.String()+"?group=NAME")
	}
	return cons, nil
}

// former waits until the server redelivers the messages of a killed process:
// they precede what has arrived since. It returns how many there are. If
// another process consumes too, the order is undefined anyway.
func (s *natsSource) former(ctx context.Context, cons jetstream.Consumer) (int, error) {
	info := cons.CachedInfo()
	if info.NumAckPending == 0 || info.NumWaiting > 0 || info.Delivered.Stream <= s.last {
		return 0, nil
	}
	wait := info.Config.AckWait + time.Second
	s.log.Info("waiting for unacknowledged messages of a former process", "messages", info.NumAckPending, "timeout", wait)
	return info.NumAckPending, retry.Sleep(ctx, wait)
}

// message delivers the lines of a message.
func (s *natsSource) message(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	pos := natsPosition{meta.Sequence.Stream, meta.Timestamp.UnixNano()}
	s.last = max(s.last, pos.sequence)
	if s.again(pos, msg) {
		return nil
	}
	m := inbound{
		key:    fmt.Sprintf("%s/%d@%d", s.broker, pos.sequence, pos.time),
		format: msg.Headers().Get(broker.HeaderFormat), path: msg.Headers().Get(broker.HeaderPath), value: msg.Data(),
	}
	// The server can restrict who publishes on a subject.
	if tokens := strings.Split(msg.Subject(), "."); len(tokens) >= 2 {
		m.probe = tokens[len(tokens)-2]
	}
	sent := false
	err = s.deliver(ctx, &m, func() {
		sent = true
		s.mu.Lock()
		defer s.mu.Unlock()
		s.delivered[pos] = &natsMessage{msg: msg}
		s.underway++
	}, func() { s.ack(pos) })
	if err == nil && !sent {
		return msg.Ack()
	}
	return err
}

// again reports whether a message was delivered before: after a lost
// connection, or when sinks are slow.
func (s *natsSource) again(pos natsPosition, msg jetstream.Msg) bool {
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
	m.msg = nil // free its text
	s.underway--
	if s.acked = append(s.acked, pos); len(s.acked) > natsRemembered {
		delete(s.delivered, s.acked[0])
		s.acked = s.acked[1:]
	}
	s.window.Save(s.window.Snapshot())
}

// progress reports messages in flight to the server, so that it does not
// redeliver them.
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

// drain waits until all delivered lines are acked, or ctx ends.
func (s *natsSource) drain(ctx context.Context) {
	retry.Until(ctx, drainPoll, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.underway == 0
	})
}
