// Package kafkatest runs a Kafka broker for tests: one process in KRaft mode that is both
// broker and controller. The environment variable KAFKA_JARS names the folder with
// Kafka's JAR files; make matrix sets the variable.
package kafkatest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Folder is the name of the environment variable that holds the path of the folder with
// the JAR files.
const Folder = "KAFKA_JARS"

// patience is the timeout for waiting for a broker.
const patience = time.Minute

// Broker is a running broker. It stops with its test.
type Broker struct {
	Addr string // without TLS and authentication
	Auth string // TLS and SASL PLAIN; "" without Options.PEM

	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// Options configures Start.
type Options struct {
	// PEM is a file with the broker's private key (PKCS #8) and certificate. If it is
	// set, the broker also accepts TLS connections from Users.
	PEM   string
	Users map[string]string // passwords by name
}

// Start starts a broker and creates the topic "tstat" with four partitions.
func Start(t testing.TB, opt Options) *Broker {
	t.Helper()
	if os.Getenv(Folder) == "" {
		t.Fatalf("%s is not set: these tests run by make matrix", Folder)
	}
	b := &Broker{t: t, dir: t.TempDir()}
	ports := freePorts(t, 3)
	b.Addr = ports[0]
	settings := map[string]string{
		"process.roles": "broker,controller", "node.id": "1", "controller.quorum.bootstrap.servers": ports[1],
		"listeners": "PLAINTEXT://" + ports[0] + ",CONTROLLER://" + ports[1], "controller.listener.names": "CONTROLLER",
		"listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
		"log.dirs":                       filepath.Join(b.dir, "data"), "offsets.topic.replication.factor": "1", "offsets.topic.num.partitions": "4",
		"transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1", "transaction.state.log.num.partitions": "4",
		"group.initial.rebalance.delay.ms": "0", "auto.create.topics.enable": "false",
	}
	if opt.PEM != "" {
		b.Auth = ports[2]
		settings["listeners"] += ",SASL_SSL://" + ports[2]
		settings["sasl.enabled.mechanisms"] = "PLAIN"
		settings["ssl.keystore.type"], settings["ssl.keystore.location"] = "PEM", opt.PEM
		jaas := "org.apache.kafka.common.security.plain.PlainLoginModule required"
		for _, user := range slices.Sorted(maps.Keys(opt.Users)) {
			jaas += fmt.Sprintf(" user_%s=\"%s\"", user, opt.Users[user])
		}
		settings["listener.name.sasl_ssl.plain.sasl.jaas.config"] = jaas + ";"
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s=%s\n", key, settings[key])
	}
	if err := os.WriteFile(b.config(), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	rand.Read(id)
	id[0] &= 0x7f // an id that begins with '-' looks like an option
	if out, err := b.java("kafka.tools.StorageTool", "format", "--standalone", "-t", base64.RawURLEncoding.EncodeToString(id), "-c", b.config()).CombinedOutput(); err != nil {
		t.Fatalf("format: %v: %s", err, out)
	}
	t.Cleanup(b.Kill)
	b.Run()
	b.CreateTopic("tstat", 4, nil)
	return b
}

func (b *Broker) config() string { return filepath.Join(b.dir, "server.properties") }

func (b *Broker) java(class string, args ...string) *exec.Cmd {
	jars := filepath.Join(os.Getenv(Folder), "*")
	return exec.Command("java", append([]string{"-Xmx400m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jars, class}, args...)...)
}

// Run starts the broker. After Kill, it restarts the broker with the same data.
func (b *Broker) Run() {
	b.t.Helper()
	b.cmd = b.java("kafka.Kafka", b.config())
	log, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	client := b.client()
	defer client.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := client.Ping(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			b.t.Fatalf("the broker does not answer: %v\n%s", err, text[max(0, len(text)-3000):])
		}
	}
}

// Kill kills the broker with SIGKILL.
func (b *Broker) Kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// WhileDown kills the broker, calls f and restarts the broker.
func (b *Broker) WhileDown(f func()) {
	b.t.Helper()
	b.Kill()
	f()
	b.Run()
}

// CreateTopic creates a topic with the given settings.
func (b *Broker) CreateTopic(name string, partitions int32, settings map[string]string) {
	b.t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
	for key, value := range settings {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = key, &value
		topic.Configs = append(topic.Configs, c)
	}
	req := kmsg.NewCreateTopicsRequest()
	req.Topics = append(req.Topics, topic)
	client := b.client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := req.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		b.t.Fatalf("create topic %s: %v", name, err)
	}
}

// Text returns the concatenated messages of a topic. Only messages of the same partition
// are in order.
func (b *Broker) Text(topic string) string {
	b.t.Helper()
	out, err := exec.Command("kcat", "-b", b.Addr, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-D", "").Output()
	if err != nil {
		b.t.Fatalf("kcat: %v", err)
	}
	return string(out)
}

func (b *Broker) client() *kgo.Client {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr))
	if err != nil {
		b.t.Fatal(err)
	}
	return client
}

func freePorts(t testing.TB, n int) (addrs []string) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}
