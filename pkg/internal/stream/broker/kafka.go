package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	saslplain "github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// saslMechanisms lists the valid values of the "sasl" option.
const saslMechanisms = "plain, scram-sha-256, scram-sha-512"

func (b *Broker) checkSASL() error {
	mechanism := b.Options["sasl"]
	_, secret := b.user.Password()
	switch {
	case mechanism != "" && !strings.Contains(", "+saslMechanisms+",", ", "+mechanism+","):
		return hint.Usage(fmt.Sprintf("unknown mechanism %q", mechanism), "known: "+saslMechanisms)
	case secret:
		return hint.Usage("a URL must not contain a password", "keep it in a file (?password-file=FILE) or in "+passwordVariable)
	case mechanism != "" && b.user.Username() == "":
		return hint.Usage("it names no user for sasl="+mechanism, "for example kafka+tls://tstat@localhost:9093/tstat?sasl="+mechanism)
	case mechanism == "" && (b.user != nil || b.Options["password-file"] != ""):
		return hint.Usage("it names a user or password without a mechanism", "add sasl=, one of: "+saslMechanisms)
	}
	return nil
}

// checkVersion checks the "version" option, which restricts the client to requests that
// this version of Kafka supports. Some servers send unreadable responses to newer
// requests.
func (b *Broker) checkVersion() error {
	if text, ok := b.Options["version"]; ok && kversion.FromString(text) == nil {
		known := kversion.VersionStrings()
		return hint.Usage(fmt.Sprintf("unknown version %q of Kafka", text), "known: "+known[0]+" to "+known[len(known)-1])
	}
	return nil
}

// KafkaOptions returns the client options that producers and consumers share.
func KafkaOptions(b *Broker, files *peer.TLS, peers peer.Networks, log *KafkaLog) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ClientID("tstatrepo"), kgo.SeedBrokers(b.hosts...), kgo.WithLogger(log),
		// Look for a partition's new leader after a second.
		kgo.MetadataMinAge(time.Second),
		// Reload the certificates for each connection, since they may have been
		// renewed.
		kgo.Dialer(func(ctx context.Context, _, addr string) (net.Conn, error) {
			return protocol.Dial(ctx, addr, files, 0, peers)
		}),
	}
	if text, ok := b.Options["version"]; ok {
		opts = append(opts, kgo.MaxVersions(kversion.FromString(text)))
	}
	user := b.user.Username()
	switch mechanism := b.Options["sasl"]; mechanism {
	case "plain":
		opts = append(opts, kgo.SASL(saslplain.Plain(func(context.Context) (saslplain.Auth, error) {
			pass, err := b.Options.Password(passwordVariable)
			return saslplain.Auth{User: user, Pass: pass}, err
		})))
	case "scram-sha-256", "scram-sha-512":
		with := scram.Sha256
		if mechanism == "scram-sha-512" {
			with = scram.Sha512
		}
		opts = append(opts, kgo.SASL(with(func(context.Context) (scram.Auth, error) {
			pass, err := b.Options.Password(passwordVariable)
			return scram.Auth{User: user, Pass: pass}, err
		})))
	}
	return opts
}

// CheckTopic returns an error if none of the servers of b responds within
// protocol.DialTimeout, or if the topic of b does not exist.
func CheckTopic(ctx context.Context, client *kgo.Client, b *Broker) error {
	ctx, cancel := context.WithTimeout(ctx, protocol.DialTimeout)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		return err
	}
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(b.Name)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("topic %s does not exist; create it, for example: kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions 12 --replication-factor 3", b.Name, b.hosts[0], b.Name)
		case err != nil:
			return fmt.Errorf("topic %s: %w", b.Name, err)
		}
	}
	return nil
}

// KafkaLog logs the Kafka library's messages at debug level, and keeps the last
// error among them.
type KafkaLog struct {
	*slog.Logger
	mu   sync.Mutex
	last error
}

// Level implements kgo.Logger.
func (l *KafkaLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l *KafkaLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.Debug("Kafka client reported", append([]any{"text", msg}, keyvals...)...)
	for i := 0; i+1 < len(keyvals); i += 2 {
		if err, ok := keyvals[i+1].(error); ok && err != nil && keyvals[i] == "err" {
			l.mu.Lock()
			l.last = err
			l.mu.Unlock()
		}
	}
}

// Failure returns the last error that the library logged, or a generic error if it has
// not logged any.
func (l *KafkaLog) Failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.last, errors.New("the broker does not answer"))
}
