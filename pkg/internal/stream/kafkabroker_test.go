//go:build matrix

package stream

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/kafkatest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// TestKafkaBroker repeats tests with a real broker: a round trip while the broker
// is killed, a group member that dies, and topics that only accept small messages.
func TestKafkaBroker(t *testing.T) {
	t.Run("round trip", func(t *testing.T) {
		b := kafkatest.Start(t, kafkatest.Options{})
		testRoundTrip(t, "kafka://"+b.Addr+"/tstat", Line, true, b.WhileDown)
	})
	t.Run("take over", func(t *testing.T) {
		testTakeOver(t, kafkatest.Start(t, kafkatest.Options{}).Addr)
	})
	t.Run("too large", func(t *testing.T) {
		b := kafkatest.Start(t, kafkatest.Options{})
		testTooLarge(t, b.Addr, func(topic string, settings map[string]string) { b.CreateTopic(topic, 1, settings) }, b.Text)
	})
}

// TestKafkaBrokerSASL checks a correct and a wrong password over TLS.
func TestKafkaBrokerSASL(t *testing.T) {
	ca := peertest.NewAuthority(t)
	b := kafkatest.Start(t, kafkatest.Options{PEM: keyStore(t, issue(ca, "kafka")), Users: map[string]string{"tstat": "secret-1"}})
	to := "kafka+tls://tstat@" + b.Auth + "/tstat?sasl=plain"
	t.Setenv("TSTATREPO_KAFKA_PASSWORD", "secret-1")
	files := peer.TLS{CA: issue(ca, "tstat-turin").CA}
	s := startStream(t, Options{Listen: loopback(), To: []string{to}, TLS: files})
	text := numbered(logPath, 0, 100)
	c := connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "the lines", func() bool { return s.acked(0) == 100 })
	if s.stop(); s.err != nil || b.Text("tstat") != text {
		t.Errorf("lines differ, %v", s.err)
	}
	t.Setenv("TSTATREPO_KAFKA_PASSWORD", "secret-2")
	s = startStream(t, Options{Listen: loopback(), To: []string{to}, TLS: files, Drain: time.Millisecond})
	await(t, "the refusal", func() bool { return strings.Contains(s.log.String(), "sink cannot be opened") })
	if s.stop(); strings.Contains(s.log.String(), "secret") {
		t.Error("the log has a secret")
	}
}

// keyStore returns a file with key and certificate in the broker's format.
func keyStore(t *testing.T, files peer.TLS) string {
	t.Helper()
	cert, err := os.ReadFile(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(files.Key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "broker.pem")
	if err := os.WriteFile(file, slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), cert), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
