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
	// kafkaMost is the size of record batches that brokers accept by
	// default. kafkaLeast is the smallest size that is tried if they do
	// not. Both are in bytes.
	kafkaMost  = 1000012
	kafkaLeast = 1 << 10
	// kafkaSilence is how long messages may stay unacknowledged before a
	// warning. The library continues to retry.
	kafkaSilence = 5 * time.Second
)

// compressions are the values of compress=.
var compressions = map[string]kgo.CompressionCodec{
	"":       kgo.ZstdCompression(),
	"zstd":   kgo.ZstdCompression(),
	"lz4":    kgo.Lz4Compression(),
	"snappy": kgo.SnappyCompression(),
	"gzip":   kgo.GzipCompression(),
	"none":   kgo.NoCompression(),
}

// kafkaSession is a producer. It reconnects and resends by itself, in order and
// without duplicates, until the broker rejects a message.
type kafkaSession struct {
	client *kgo.Client
	topic  string
	format string
	most   int // bytes of a record batch
	q      *batch.Queue
	log    *slog.Logger
	inner  *broker.KafkaLog

	ending
	sending  context.Context // ends with the session
	cancel   context.CancelFunc
	hopeless sync.Once
	wait     sync.WaitGroup // for messages in flight, and watch

	mu      sync.Mutex
	pending []*kafkaMessage // not acknowledged, or behind such a message, in order
	sent    int64
	last    int64     // position up to which everything is acknowledged
	moved   time.Time // when last has changed, or the first of pending was sent
	ack     func(int64)
}

// kafkaMessage is a message waiting for its acknowledgement, and the position
// where it ends.
type kafkaMessage struct {
	end   int64
	size  int
	acked bool
	lost  int // lines that the topic rejects
}

func openKafka(b *broker.Broker, opt *Options, q *batch.Queue, files *peer.TLS) opener {
	most := kafkaMost
	var former *kafkaSession
	return func(ctx context.Context, ack func(int64)) (session, error) {
		if former != nil && errors.Is(former.err(), kerr.MessageTooLarge) && most > kafkaLeast {
			most = max(most/2, kafkaLeast)
			q.Log.Warn("topic accepts smaller messages only", "sink", q.Name, "limit", most)
		}
		former = nil
		inner := &broker.KafkaLog{Logger: q.Log}
		s := &kafkaSession{
			topic: b.Name, format: string(opt.Format), most: most, q: q, log: q.Log, inner: inner,
			ending: newEnding(), ack: ack,
		}
		var err error
		s.client, err = kgo.NewClient(append(broker.KafkaOptions(b, files, opt.Peers, inner),
			kgo.DefaultProduceTopic(b.Name), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchMaxBytes(int32(most)),
			kgo.ProducerBatchCompression(compressions[b.Options["compress"]]),
			// A recreated topic must be found; checkTopic has
			// checked that the topic exists.
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

// write produces text in messages of whole lines. The key is the probe: its
// lines are in one partition, in their order.
func (s *kafkaSession) write(b *batch.Batch, text []byte) error {
	return messages(b, text, s.most, func(id string, text []byte) error {
		m := s.expect(len(text))
		s.wait.Add(1)
		s.client.Produce(s.sending, &kgo.Record{Key: []byte(b.Probe), Value: text, Headers: []kgo.RecordHeader{
			{Key: broker.HeaderProbe, Value: []byte(b.Probe)}, {Key: broker.HeaderLog, Value: []byte(b.Type)}, {Key: broker.HeaderPath, Value: []byte(b.Path)},
			{Key: broker.HeaderFormat, Value: []byte(s.format)}, {Key: broker.HeaderID, Value: []byte(id)},
		}}, func(_ *kgo.Record, err error) {
			defer s.wait.Done()
			s.answered(m, text, err)
		})
		return s.err()
	}, func(n int) error {
		s.finish(s.expect(n), 1)
		return nil
	})
}

// expect adds a message of n bytes in flight.
func (s *kafkaSession) expect(n int) *kafkaMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent += int64(n)
	m := &kafkaMessage{end: s.sent, size: n}
	if len(s.pending) == 0 {
		s.moved = time.Now()
	}
	s.pending = append(s.pending, m)
	return m
}

// answered handles the response to a message. Messages of several probes are
// acknowledged in any order.
func (s *kafkaSession) answered(m *kafkaMessage, text []byte, err error) {
	if err != nil {
		if errors.Is(err, kerr.MessageTooLarge) && s.most == kafkaLeast && s.sending.Err() == nil {
			// It cannot be made smaller. The messages behind it
			// have failed with it.
			s.hopeless.Do(func() { s.finish(m, bytes.Count(text, []byte{'\n'})) })
		}
		s.fail(fmt.Errorf("message not taken: %w", err))
		return
	}
	s.finish(m, 0)
}

// finish acks the messages up to the first one that is neither acknowledged nor
// lost.
func (s *kafkaSession) finish(m *kafkaMessage, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.acked, m.lost = true, lost
	for len(s.pending) > 0 && s.pending[0].acked {
		m := s.pending[0]
		s.last = m.end
		if m.lost > 0 {
			s.q.Stats.Dropped.Add(int64(m.lost))
			s.log.Warn("lines dropped: the topic refuses them", "sink", s.q.Name, "lines", m.lost, "bytes", m.size, "limit", s.most)
		}
		s.pending[0] = nil
		s.pending = s.pending[1:]
		s.moved = time.Now()
	}
	s.ack(s.last)
}

// watch warns when nothing has been acknowledged for long, and logs when that
// ends.
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
		late := len(s.pending) > 0 && time.Since(s.moved) > kafkaSilence
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

// close waits until the library has dropped all messages: it reads their text
// until then.
func (s *kafkaSession) close() int64 {
	s.abort()
	s.client.Close()
	s.wait.Wait()
	return s.last
}
