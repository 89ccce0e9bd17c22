package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
)

const (
	// kafkaMaxBatch is the initial size limit of record batches in bytes. Brokers
	// accept batches of this size by default. Whenever a topic rejects a batch as
	// too large, the limit is halved, down to kafkaMinBatch.
	kafkaMaxBatch = 1000012
	kafkaMinBatch = 1 << 10
	// kafkaSilence is how long messages may stay unacknowledged before a
	// warning is logged. The library continues to retry.
	kafkaSilence = 5 * time.Second
)

// compressions maps the valid values of the "compress" option to codecs.
var compressions = map[string]kgo.CompressionCodec{
	"":       kgo.ZstdCompression(),
	"zstd":   kgo.ZstdCompression(),
	"lz4":    kgo.Lz4Compression(),
	"snappy": kgo.SnappyCompression(),
	"gzip":   kgo.GzipCompression(),
	"none":   kgo.NoCompression(),
}

// kafkaSession is a session that sends lines through a Kafka producer. The Kafka library
// reconnects and resends, in order and without duplicates. The session fails when the
// broker rejects a message.
type kafkaSession struct {
	client   *kgo.Client
	topic    string
	format   string
	maxBytes int // bytes of a record batch
	q        *batch.Queue
	log      *slog.Logger
	inner    *broker.KafkaLog

	ending
	sending  context.Context // canceled when the session ends
	cancel   context.CancelFunc
	dropOnce sync.Once
	wait     sync.WaitGroup // for messages in flight, and watch

	mu       sync.Mutex
	pending  []*kafkaMessage // from the first unacknowledged message on, in order
	sent     int64
	last     int64     // position up to which everything is acknowledged
	progress time.Time // when s.last increased or pending[0] was sent, whichever is later
	ack      func(int64)
}

// kafkaMessage is a message in flight.
type kafkaMessage struct {
	end   int64 // position after the message, in bytes of the session
	size  int   // bytes
	acked bool
	lost  int // lines dropped because the topic rejects them
}

func openKafka(b *broker.Broker, opt *Options, q *batch.Queue, files *peer.TLS) opener {
	limit := kafkaMaxBatch
	var former *kafkaSession
	return func(ctx context.Context, ack func(int64)) (session, error) {
		if former != nil && errors.Is(former.err(), kerr.MessageTooLarge) && limit > kafkaMinBatch {
			limit = max(limit/2, kafkaMinBatch)
			q.Log.Warn("topic accepts smaller messages only", "sink", q.Name, "limit", limit)
		}
		former = nil
		inner := &broker.KafkaLog{Logger: q.Log}
		s := &kafkaSession{
			topic: b.Name, format: string(opt.Format), maxBytes: limit, q: q, log: q.Log, inner: inner,
			ending: newEnding(), ack: ack,
		}
		var err error
		s.client, err = kgo.NewClient(append(broker.KafkaOptions(b, files, opt.Peers, inner),
			kgo.DefaultProduceTopic(b.Name), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchMaxBytes(int32(limit)),
			kgo.ProducerBatchCompression(compressions[b.Options["compress"]]),
			// Retry without limit, so that a recreated topic is
			// found. CheckTopic checks that the topic exists.
			kgo.UnknownTopicRetries(-1))...)
		if err != nil {
			return nil, err
		}
		if err := broker.CheckTopic(ctx, s.client, b); err != nil {
			s.client.Close()
			return nil, err
		}
		s.sending, s.cancel = context.WithCancel(context.Background())
		s.wait.Go(s.watch)
		former = s
		return s, nil
	}
}

// write sends text to the topic in messages of complete lines. The message key is the
// probe, so that the probe's lines stay in order in one partition.
func (s *kafkaSession) write(b *batch.Batch, text []byte) error {
	return messages(b, text, s.maxBytes, func(id string, text []byte) error {
		m := s.addPending(len(text))
		s.wait.Add(1)
		s.client.Produce(s.sending, &kgo.Record{Key: []byte(b.Probe), Value: text, Headers: []kgo.RecordHeader{
			{Key: broker.HeaderProbe, Value: []byte(b.Probe)}, {Key: broker.HeaderLog, Value: []byte(b.Type)}, {Key: broker.HeaderPath, Value: []byte(b.Path)},
			{Key: broker.HeaderFormat, Value: []byte(s.format)}, {Key: broker.HeaderID, Value: []byte(id)},
		}}, func(_ *kgo.Record, err error) {
			defer s.wait.Done()
			s.onResponse(m, text, err)
		})
		return s.err()
	}, func(n int) error {
		s.finish(s.addPending(n), 1)
		return nil
	})
}

// addPending adds a message of n bytes to pending.
func (s *kafkaSession) addPending(n int) *kafkaMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += int64(n)
	m := &kafkaMessage{end: s.sent, size: n}
	if len(s.pending) == 0 {
		s.progress = time.Now()
	}
	s.pending = append(s.pending, m)
	return m
}

// onResponse finishes m if err is nil, that is, if the broker has accepted m. Otherwise
// it makes the session fail. If s.maxBytes is already at its minimum, onResponse also
// drops the first message that the topic rejects as too large. Responses for different
// probes may arrive in any order.
func (s *kafkaSession) onResponse(m *kafkaMessage, text []byte, err error) {
	if err != nil {
		if errors.Is(err, kerr.MessageTooLarge) && s.maxBytes == kafkaMinBatch && s.sending.Err() == nil {
			// The message cannot be made smaller. Later messages of the batch fail
			// with it, so only the first one is dropped.
			s.dropOnce.Do(func() { s.finish(m, bytes.Count(text, []byte{'\n'})) })
		}
		s.fail(fmt.Errorf("message not accepted: %w", err))
		return
	}
	s.finish(m, 0)
}

// finish records that m is acknowledged or dropped; lost is the number of dropped
// lines. It then acks all messages before the first unfinished message.
func (s *kafkaSession) finish(m *kafkaMessage, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.acked, m.lost = true, lost
	for len(s.pending) > 0 && s.pending[0].acked {
		m := s.pending[0]
		s.last = m.end
		if m.lost > 0 {
			s.q.Stats.Dropped.Add(int64(m.lost))
			s.log.Warn("lines dropped: the topic refuses them", "sink", s.q.Name, "lines", m.lost, "bytes", m.size, "limit", s.maxBytes)
		}
		s.pending[0] = nil
		s.pending = s.pending[1:]
		s.progress = time.Now()
	}
	s.ack(s.last)
}

// watch warns when nothing has been acknowledged for kafkaSilence, and logs the
// recovery.
func (s *kafkaSession) watch() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var silent retry.Alarm
	log := s.log.With("sink", s.q.Name)
	for {
		select {
		case <-t.C:
		case <-s.sending.Done():
			return
		}
		s.mu.Lock()
		late := len(s.pending) > 0 && time.Since(s.progress) > kafkaSilence
		s.mu.Unlock()
		var err error
		if late {
			err = s.inner.Failure()
		}
		if silent.Set(err, log, "sink acknowledges nothing, retrying", "sink acknowledges again") {
			s.q.Trouble(err)
		}
	}
}

func (s *kafkaSession) end(context.Context) {}

func (s *kafkaSession) abort() {
	s.fail(errAborted)
	s.cancel()
}

// close ends the session and waits until the Kafka library has dropped all messages,
// because the library reads their text until then. It returns the number of acked bytes.
func (s *kafkaSession) close() int64 {
	s.abort()
	s.client.Close()
	s.wait.Wait()
	return s.last
}
