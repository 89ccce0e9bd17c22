package stream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	saslplain "github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

const (
	// kafkaMost is the size of record batches that brokers take by default,
	// and kafkaLeast the smallest that is tried where they do not, in bytes.
	kafkaMost  = 1000012
	kafkaLeast = 1 << 10
	// kafkaSilence is how long messages may be without an acknowledgement
	// until a warning says so. The library goes on trying.
	kafkaSilence = 5 * time.Second
	// headerID names a message: the same when it is sent again.
	headerID = "Tstat-Id"
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

// saslMechanisms are the values of sasl=.
const saslMechanisms = "plain, scram-sha-256, scram-sha-512"

func (b *broker) checkSASL() error {
	mechanism := b.options["sasl"]
	_, secret := b.user.Password()
	switch {
	case mechanism != "" && !strings.Contains(", "+saslMechanisms+",", ", "+mechanism+","):
		return hint.Usage(fmt.Sprintf("unknown mechanism %q", mechanism), "known: "+saslMechanisms)
	case secret:
		return hint.Usage("a password does not belong into a URL", "keep it in a file (?password-file=FILE) or in "+passwordVariable)
	case mechanism != "" && b.user.Username() == "":
		return hint.Usage("it names no user for sasl="+mechanism, "for example kafka+tls://tstat@localhost:9093/tstat?sasl="+mechanism)
	case mechanism == "" && (b.user != nil || b.options["password-file"] != ""):
		return hint.Usage("it names a user or password without a mechanism", "add sasl=, one of: "+saslMechanisms)
	}
	return nil
}

// checkVersion checks the newest version of Kafka whose requests are sent. Some
// servers answer those of later versions so that no client can read it.
func (b *broker) checkVersion() error {
	if text, ok := b.options["version"]; ok && kversion.FromString(text) == nil {
		known := kversion.VersionStrings()
		return hint.Usage(fmt.Sprintf("unknown version %q of Kafka", text), "known: "+known[0]+" to "+known[len(known)-1])
	}
	return nil
}

// kafkaOptions are the options of a client that producers and consumers share.
func kafkaOptions(b *broker, files *peer.TLS, peers peer.Networks, log *kafkaLog) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ClientID("tstatrepo"), kgo.SeedBrokers(b.hosts...), kgo.WithLogger(log),
		// How soon another broker is found that leads a partition.
		kgo.MetadataMinAge(time.Second),
		// Certificates may have been renewed since the last connection.
		kgo.Dialer(func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr, files, 0, peers) }),
	}
	if text, ok := b.options["version"]; ok {
		opts = append(opts, kgo.MaxVersions(kversion.FromString(text)))
	}
	user := b.user.Username()
	switch mechanism := b.options["sasl"]; mechanism {
	case "plain":
		opts = append(opts, kgo.SASL(saslplain.Plain(func(context.Context) (saslplain.Auth, error) {
			pass, err := b.options.Password(passwordVariable)
			return saslplain.Auth{User: user, Pass: pass}, err
		})))
	case "scram-sha-256", "scram-sha-512":
		with := scram.Sha256
		if mechanism == "scram-sha-512" {
			with = scram.Sha512
		}
		opts = append(opts, kgo.SASL(with(func(context.Context) (scram.Auth, error) {
			pass, err := b.options.Password(passwordVariable)
			return scram.Auth{User: user, Pass: pass}, err
		})))
	}
	return opts
}

// checkTopic reports an error if no broker answers or the topic is not there.
func checkTopic(ctx context.Context, client *kgo.Client, b *broker) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		return err
	}
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(b.name)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("topic %s does not exist; create it, for example: kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions 12 --replication-factor 3", b.name, b.hosts[0], b.name)
		case err != nil:
			return fmt.Errorf("topic %s: %w", b.name, err)
		}
	}
	return nil
}

// kafkaLog keeps what the library says last about a failure, and passes on
// what it says for debugging.
type kafkaLog struct {
	*slog.Logger
	mu   sync.Mutex
	last error
}

// Level implements kgo.Logger.
func (l *kafkaLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l *kafkaLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.Debug("kafka: "+msg, keyvals...)
	for i := 0; i+1 < len(keyvals); i += 2 {
		if err, ok := keyvals[i+1].(error); ok && err != nil && keyvals[i] == "err" {
			l.mu.Lock()
			l.last = err
			l.mu.Unlock()
		}
	}
}

// failure returns the last failure, or an error that says less.
func (l *kafkaLog) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.last, errors.New("the broker does not answer"))
}

// kafkaSession is a producer. It connects again and sends again by itself, in
// order and without duplicates, until the broker says that it will not take a
// message.
type kafkaSession struct {
	client *kgo.Client
	topic  string
	format string
	most   int // bytes of a record batch
	q      *queue
	log    *slog.Logger
	inner  *kafkaLog

	ending
	sending  context.Context // ends with the session
	cancel   context.CancelFunc
	hopeless sync.Once
	wait     sync.WaitGroup // for messages on their way, and watch

	mu      sync.Mutex
	pending []*kafkaMessage // not acknowledged, or behind one that is not, in order
	sent    int64
	last    int64     // acknowledged without a gap
	moved   time.Time // when last has changed, or the first of pending was sent
	confirm func(int64)
}

// kafkaMessage is a message to be acknowledged, that ends at a position.
type kafkaMessage struct {
	end   int64
	size  int
	taken bool
	lost  int // lines that the topic does not take
}

func openKafka(b *broker, h *hub, q *queue, files *peer.TLS) opener {
	most := kafkaMost
	var former *kafkaSession
	return func(ctx context.Context, confirm func(int64)) (session, error) {
		if former != nil && errors.Is(former.err(), kerr.MessageTooLarge) && most > kafkaLeast {
			most = max(most/2, kafkaLeast)
			q.log.Warn("the topic takes only smaller messages", "consumer", q.name, "bytes", most)
		}
		former = nil
		inner := &kafkaLog{Logger: q.log}
		s := &kafkaSession{
			topic: b.name, format: string(h.opt.Format), most: most, q: q, log: q.log, inner: inner,
			ending: newEnding(), confirm: confirm,
		}
		var err error
		s.client, err = kgo.NewClient(append(kafkaOptions(b, files, h.opt.Peers, inner),
			kgo.DefaultProduceTopic(b.name), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchMaxBytes(int32(most)),
			kgo.ProducerBatchCompression(compressions[b.options["compress"]]),
			// A topic that is made anew is to be found again; checkTopic has seen it.
			kgo.UnknownTopicRetries(-1))...)
		if err != nil {
			return nil, err
		}
		if err := checkTopic(ctx, s.client, b); err != nil {
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
func (s *kafkaSession) write(b *batch, text []byte) error {
	return messages(b, text, s.most, func(id string, text []byte) error {
		m := s.expect(len(text))
		s.wait.Add(1)
		s.client.Produce(s.sending, &kgo.Record{Key: []byte(b.probe), Value: text, Headers: []kgo.RecordHeader{
			{Key: headerProbe, Value: []byte(b.probe)}, {Key: headerLog, Value: []byte(b.typ)}, {Key: headerPath, Value: []byte(b.path)},
			{Key: headerFormat, Value: []byte(s.format)}, {Key: headerID, Value: []byte(id)},
		}}, func(_ *kgo.Record, err error) {
			defer s.wait.Done()
			s.acknowledged(m, text, err)
		})
		return s.err()
	}, func(n int) error {
		s.take(s.expect(n), 1)
		return nil
	})
}

// expect says that n bytes go on their way.
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

// acknowledged takes the answer to a message. Messages of several probes are
// acknowledged in any order.
func (s *kafkaSession) acknowledged(m *kafkaMessage, text []byte, err error) {
	if err != nil {
		if errors.Is(err, kerr.MessageTooLarge) && s.most == kafkaLeast && s.sending.Err() == nil {
			// It cannot be made smaller. With it those behind it have failed.
			s.hopeless.Do(func() { s.take(m, bytes.Count(text, []byte{'\n'})) })
		}
		s.fail(fmt.Errorf("message not taken: %w", err))
		return
	}
	s.take(m, 0)
}

// take confirms what is acknowledged, or lost, without a gap.
func (s *kafkaSession) take(m *kafkaMessage, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.taken, m.lost = true, lost
	for len(s.pending) > 0 && s.pending[0].taken {
		m := s.pending[0]
		s.last = m.end
		if m.lost > 0 {
			s.q.stats.dropped.Add(int64(m.lost))
			s.log.Warn("lines dropped: the topic does not take them", "consumer", s.q.name, "lines", m.lost, "bytes", m.size, "limit", s.most)
		}
		s.pending[0] = nil
		s.pending = s.pending[1:]
		s.moved = time.Now()
	}
	s.confirm(s.last)
}

// watch tells when nothing is acknowledged for long, and when that is over.
func (s *kafkaSession) watch() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var silent retry.Alarm
	log := s.log.With("consumer", s.q.name)
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
			err = s.inner.failure()
		}
		if silent.Set(err, log, "consumer acknowledges nothing, retrying", "consumer acknowledges again") {
			s.q.trouble(err)
		}
	}
}

func (s *kafkaSession) end(context.Context) {}

func (s *kafkaSession) abort() {
	s.fail(errAborted)
	s.cancel()
}

// close waits until the library has given up all messages: it reads their
// text until then.
func (s *kafkaSession) close() int64 {
	s.abort()
	s.client.Close()
	s.wait.Wait()
	return s.last
}
