package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// kafkaBroker is a broker in this process. It keeps its data on disk, so that
// it can restart.
type kafkaBroker struct {
	t    testing.TB
	addr string
	dir  string
	opts []kfake.Opt
	*kfake.Cluster
	client []kgo.Opt // options of readers
}

// startKafka starts a broker with the topic "tstat", which has four partitions.
func startKafka(t testing.TB, opts ...kfake.Opt) *kafkaBroker {
	t.Helper()
	k := &kafkaBroker{t: t, dir: t.TempDir(), opts: opts}
	k.start(append(opts, kfake.SeedTopics(4, "tstat"))...)
	t.Cleanup(func() { k.Close() })
	return k
}

func (k *kafkaBroker) start(opts ...kfake.Opt) {
	k.t.Helper()
	if k.addr != "" {
		_, port, _ := strings.Cut(k.addr, ":")
		n, err := strconv.Atoi(port)
		if err != nil {
			k.t.Fatal(err)
		}
		opts = append(opts, kfake.Ports(n))
	}
	var err error
	if k.Cluster, err = kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.DataDir(k.dir))...); err != nil {
		k.t.Fatal(err)
	}
	k.addr = k.ListenAddrs()[0]
}

// restart stops the broker, calls away and starts the broker.
func (k *kafkaBroker) restart(away func()) {
	k.t.Helper()
	k.Close()
	away()
	k.start(k.opts...)
}

// records returns all records of a topic, sorted by partition and offset.
func (k *kafkaBroker) records(topic string) (list []*kgo.Record) {
	k.t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.addr), kgo.ConsumeTopics(topic)}, k.client...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	defer client.Close()
	left := 0
	for _, p := range k.PartitionInfos(topic) {
		left += int(p.HighWatermark - p.LogStartOffset)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for left > 0 {
		f := client.PollFetches(ctx)
		if err := f.Err(); err != nil {
			k.t.Fatal(err)
		}
		left -= f.NumRecords()
		list = append(list, f.Records()...)
	}
	return list
}

// text returns the content of a topic.
func (k *kafkaBroker) text(topic string) string {
	var b strings.Builder
	for _, r := range k.records(topic) {
		b.Write(r.Value)
	}
	return b.String()
}

// TestKafka restarts the broker, cuts connections and returns errors. Every
// line is in the topic once, in order.
func TestKafka(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete")
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{"kafka://" + k.addr + "/tstat"}, Format: Line, Start: StartBegin})
	half := func() { await(t, "half of the lines", func() bool { return s.acked(0) > int64(w.count()/2) }) }
	for i := range 20 {
		w.rollOver()
		w.lines(w.logs[0], 500)
		switch i {
		case 5:
			half()
			k.restart(func() { w.lines(w.logs[0], 500) })
		case 10: // accepted or not, without a response
			half()
			k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("cut"), true })
		case 12:
			k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicasAfterAppend, Count: 2},
				kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: 2})
		}
	}
	w.end()
	await(t, "all lines", func() bool { return s.acked(0) >= int64(w.count()+20) }) // with headers
	if s.stop(); s.err != nil {
		t.Error(s.err)
	}
	w.check(k.text("tstat"))
	for _, r := range k.records("tstat") {
		h := map[string]string{}
		for _, header := range r.Headers {
			h[header.Key] = string(header.Value)
		}
		if string(r.Key) != "turin" || h["Tstat-Probe"] != "turin" || h["Tstat-Log"] != "log_tcp_complete" || h["Tstat-Format"] != "line" ||
			!strings.HasPrefix(h["Tstat-Path"], root) || h["Tstat-Id"] == "" {
			t.Fatalf("%s: %v", r.Key, h)
		}
	}
}

// TestKafkaRefused checks that a new producer resends a message that the broker
// has rejected. Messages in flight may be repeated.
func TestKafkaRefused(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete")
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{"kafka://" + k.addr + "/tstat"}, Format: Line, Start: StartBegin})
	for i := range 10 {
		w.rollOver()
		w.lines(w.logs[0], 500)
		await(t, "half of the lines", func() bool { return s.acked(0) > int64(w.count()/2) })
		if i%3 == 2 {
			k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: 2})
		}
	}
	w.end()
	await(t, "all lines", func() bool { return s.acked(0) >= int64(w.count()+10) })
	if s.stop(); s.err != nil || !strings.Contains(s.log.String(), "sink disconnected") {
		t.Error(s.err)
	}
	t.Logf("%d lines of %d came again", w.checkRepeated(k.text("tstat")), w.count())
}

// TestKafkaAway checks that a stream waits for a missing broker and a missing
// topic, and warns if a broker stops responding.
func TestKafkaAway(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	k.Close()
	s := startStream(t, Options{Listen: loopback(), To: []string{"kafka://" + k.addr + "/other?compress=none"}})
	text := numbered(logPath, 0, 1000)
	c := connect(t, s.addr)
	write(t, c, text[:len(text)/2])
	await(t, "the warning", func() bool { return strings.Contains(s.log.String(), "sink cannot be opened") })
	k.start()
	trouble := func() string { return s.Stats().Sinks[0].Trouble }
	await(t, "how to create the topic", func() bool { return strings.Contains(trouble(), "create it") })
	if err := k.CreateTopic("other", 1, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the first lines", func() bool { return s.acked(0) > 400 })
	k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	write(t, c, text[len(text)/2:])
	c.Close()
	await(t, "the trouble", func() bool { return trouble() != "" })
	if !strings.Contains(s.log.String(), "acknowledges nothing") {
		t.Error("no warning")
	}
	k.restart(func() {})
	await(t, "all lines", func() bool { return s.acked(0) == 1000 && trouble() == "" })
	if s.stop(); s.err != nil || k.text("other") != text {
		t.Errorf("lines differ, %v", s.err)
	}
}

// TestKafkaVersion checks that a client with the option version sends only
// requests that an old Kafka knows.
func TestKafkaVersion(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	newest := kversion.V2_3_0()
	k.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if most, _ := newest.LookupMaxKeyVersion(r.Key()); r.GetVersion() > most {
			t.Errorf("produce request of version %d", r.GetVersion())
		}
		return nil, nil, false
	})
	url := "kafka://" + k.addr + "/tstat?version=2.3"
	s := startStream(t, Options{Listen: loopback(), To: []string{url}})
	text := numbered(logPath, 0, 100)
	c := connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "the lines", func() bool { return s.acked(0) == 100 })
	s.stop()
	r := startStream(t, Options{From: []string{url}})
	await(t, "the lines again", func() bool { return strings.Count(r.out.String(), "\n") == 100 })
	if r.stop(); r.err != nil || r.out.String() != text {
		t.Errorf("lines differ, %v", r.err)
	}
}

// TestKafkaTooLarge checks that a topic with a low size limit gets smaller
// messages. A line longer than the limit is dropped and counted, and delays
// nothing.
func TestKafkaTooLarge(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	testTooLarge(t, k.addr, func(topic string, settings map[string]string) {
		if err := k.CreateTopic(topic, 1, settings); err != nil {
			t.Fatal(err)
		}
	}, k.text)
}

func testTooLarge(t *testing.T, addr string, create func(topic string, settings map[string]string), read func(topic string) string) {
	for limit, dropped := range map[int]int64{3000: 1, 100: 500} {
		topic := fmt.Sprint("small-", limit)
		create(topic, map[string]string{"max.message.bytes": strconv.Itoa(limit)})
		s := startStream(t, Options{Listen: loopback(), To: []string{"kafka://" + addr + "/" + topic + "?compress=none"}})
		long := logPath + " " + strings.Repeat("y", 8000) + "\n"
		before, after := numbered(logPath, 0, 250), numbered(logPath, 250, 499)
		c := connect(t, s.addr)
		write(t, c, before+long+after)
		c.Close()
		await(t, "the lines", func() bool { return s.acked(0) == 500 })
		sum := s.stop()
		got := read(topic)
		if limit == 3000 && got != before+after || sum.Sinks[0].Dropped != dropped || s.err != nil {
			t.Errorf("limit %d: %d bytes of %d, %+v, %v", limit, len(got), len(before+after), sum.Sinks[0], s.err)
		}
	}
}

// TestKafkaSecrets checks TLS with a client certificate, and passwords from a file
// or the environment. No output may contain a password.
func TestKafkaSecrets(t *testing.T) {
	ca := peertest.NewAuthority(t)
	files, client := issue(ca, "kafka"), issue(ca, "tstat-turin")
	config, err := files.Server(nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err = config.GetConfigForClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	k := startKafka(t, kfake.TLS(config), kfake.EnableSASL(), kfake.Superuser("PLAIN", "plain", "secret-1"),
		kfake.Superuser("SCRAM-SHA-256", "scram", "secret-2"), kfake.Superuser("SCRAM-SHA-512", "scram", "secret-3"))
	file := filepath.Join(t.TempDir(), "password")
	for user, password := range map[string]string{
		"plain@:?sasl=plain": "secret-1", "scram@:?sasl=scram-sha-256": "secret-2", "scram@:?sasl=scram-sha-512&password-file=" + file: "secret-3",
	} {
		user, query, _ := strings.Cut(user, ":")
		to := "kafka+tls://" + user + k.addr + "/tstat" + query
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TSTATREPO_KAFKA_PASSWORD", password)
		s := startStream(t, Options{Listen: loopback(), To: []string{to}, TLS: client})
		c := connect(t, s.addr)
		write(t, c, numbered(logPath, 0, 100))
		c.Close()
		await(t, "the lines", func() bool { return s.acked(0) == 100 })
		if s.stop(); s.err != nil {
			t.Error(s.err)
		}
		// First a wrong password, then no certificate.
		t.Setenv("TSTATREPO_KAFKA_PASSWORD", "secret-4")
		if err := os.WriteFile(file, []byte("secret-4"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, files := range []peer.TLS{client, {CA: client.CA}} {
			s = startStream(t, Options{Listen: loopback(), To: []string{to}, TLS: files, Drain: time.Millisecond})
			await(t, "the refusal", func() bool { return strings.Contains(s.log.String(), "sink cannot be opened") })
			if s.stop(); strings.Contains(s.log.String(), "secret") {
				t.Error("the log has a secret")
			}
		}
	}
}

// kcat runs kcat, the command of librdkafka, and returns its output.
func kcat(t testing.TB, in string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no kcat installed")
		}
		t.Skip("no kcat installed (apt-get install kcat)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kcat", args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("kcat %v: %v: %s", args, err, &errs)
	}
	return out.String()
}

// TestKafkaWithKcat checks that librdkafka reads the same lines in every
// compression.
func TestKafkaWithKcat(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	opt := Options{Listen: loopback()}
	var topics []string
	for _, name := range []string{"", "zstd", "lz4", "snappy", "gzip", "none"} {
		topic := "as-" + name
		if err := k.CreateTopic(topic, 2, nil); err != nil {
			t.Fatal(err)
		}
		topics = append(topics, topic)
		opt.To = append(opt.To, "kafka://"+k.addr+"/"+topic+"?compress="+name)
	}
	s := startStream(t, opt)
	text := numbered(logPath, 0, 5000)
	c := connect(t, s.addr)
	write(t, c, text)
	c.Close()
	for i := range topics {
		await(t, "all lines", func() bool { return s.acked(i) == 5000 })
	}
	s.stop()
	for _, topic := range topics {
		if got := kcat(t, "", "-b", k.addr, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-D", ""); got != text {
			t.Errorf("%s: %d bytes, want %d", topic, len(got), len(text))
		}
	}
	head := kcat(t, "", "-b", k.addr, "-C", "-t", "as-zstd", "-o", "beginning", "-e", "-q", "-f", `%k %h\n`)
	if want := "127_0_0_1 Tstat-Probe=127_0_0_1,Tstat-Log=log_tcp_complete,Tstat-Path=" + logPath + ",Tstat-Format=raw,Tstat-Id="; !strings.HasPrefix(head, want) {
		t.Errorf("%.300s", head)
	}
}

// TestTakeOver kills a member of the group between its reads and commits.
// Another member gets all uncommitted messages, once.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	testTakeOver(t, startKafka(t).addr)
}

func testTakeOver(t *testing.T, addr string) {
	url := "kafka://" + addr + "/tstat"
	const probes, each = 12, 10
	var messages []published
	for i := range probes * each {
		probe := fmt.Sprint("p", i%probes)
		messages = append(messages, published{probe, numbered("/"+probe+"/log_tcp_complete", i/probes*100, (i/probes+1)*100), nil})
	}
	publish(t, url, messages)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const session = 6 * time.Second // the broker's minimum
	// A member with a fixed name does not leave the group.
	dead, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumerGroup("g"), kgo.InstanceID("dead"), kgo.ConsumeTopics("tstat"),
		kgo.DisableAutoCommit(), kgo.SessionTimeout(session), kgo.HeartbeatInterval(session/6))
	if err != nil {
		t.Fatal(err)
	}
	var taken []*kgo.Record
	committed := map[string]int{} // lines by probe
	for len(taken) < probes*each/2 {
		fetches := dead.PollRecords(ctx, probes*each/2-len(taken))
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		taken = append(taken, fetches.Records()...)
	}
	for _, r := range taken {
		committed[string(r.Key)] += 100
	}
	if err := dead.CommitRecords(ctx, taken...); err != nil {
		t.Fatal(err)
	}
	if fetches := dead.PollRecords(ctx, 5); len(fetches.Records()) == 0 { // it dies with these
		t.Fatal(fetches.Err())
	}
	dead.Close()
	s := startStream(t, Options{From: []string{url + "?group=g"}})
	want := 0
	for i := range probes {
		want += each*100 - committed[fmt.Sprint("p", i)]
	}
	await(t, "all lines", func() bool { return strings.Count(s.out.String(), "\n") >= want })
	if s.stop(); s.err != nil {
		t.Error(s.err)
	}
	for i := range probes {
		probe := fmt.Sprint("p", i)
		path := "/" + probe + "/log_tcp_complete"
		if got := linesOf(s.out.String(), path); got != numbered(path, committed[probe], each*100) {
			t.Errorf("%s: %d lines from %d on are not those that were left", probe, strings.Count(got, "\n"), committed[probe])
		}
	}
}
