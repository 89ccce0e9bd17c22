package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"
)

// brokers runs a test with each kind of broker. url is the topic or stream. away
// stops the broker, calls during, and restarts the broker.
func brokers(t *testing.T, run func(t *testing.T, url string, away func(during func()))) {
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		k := startKafka(t)
		run(t, "kafka://"+k.addr+"/tstat", k.restart)
	})
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		server := startNATS(t)
		run(t, "nats://"+server.addr+"/TSTAT", func(during func()) {
			server.kill()
			during()
			server.start()
		})
	})
}

// TestRoundTrip sends lines from a probe through a broker to a repository. Lines
// arrive in order for each probe and log, even if the repository restarts. After an
// outage of the broker, lines may be repeated.
func TestRoundTrip(t *testing.T) {
	for format, cut := range map[Format]bool{Raw: false, Line: true} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			brokers(t, func(t *testing.T, url string, away func(func())) { testRoundTrip(t, url, format, cut, away) })
		})
	}
}

// testRoundTrip is TestRoundTrip with one broker. If cut is set, it stops the
// broker for a while.
func testRoundTrip(t *testing.T, url string, format Format, cut bool, away func(during func())) {
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete", "log_udp_complete")
	sender := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{url}, Format: format, Start: StartBegin})
	state := t.TempDir()
	receive := func() *started {
		return startStream(t, Options{From: []string{url}, Format: Line, StateDir: state})
	}
	receiver := receive()
	var got strings.Builder
	for i := range 10 {
		w.rollOver()
		w.lines(w.logs[0], 300)
		w.lines(w.logs[1], 100)
		switch i {
		case 3:
			await(t, "some lines", func() bool { return receiver.out.Len() > 0 })
			if cut {
				away(func() { w.lines(w.logs[0], 100) })
			}
		case 6:
			await(t, "some lines", func() bool { return receiver.out.Len() > 0 })
			if receiver.stop(); receiver.err != nil {
				t.Error(receiver.err)
			}
			got.WriteString(receiver.out.String())
			receiver = receive()
		}
	}
	w.end()
	await(t, "all lines", func() bool { return strings.Count(got.String()+receiver.out.String(), "\n") >= w.count() })
	sender.stop()
	sum := receiver.stop()
	if sender.err != nil || receiver.err != nil {
		t.Error(sender.err, receiver.err)
	}
	got.WriteString(receiver.out.String())
	n := w.checkRepeated(got.String())
	t.Logf("%d lines of %d came again", n, w.count())
	if n > 0 && !cut {
		t.Errorf("%d lines came again without a reason", n)
	}
	if len(sum.Sources) != 1 || sum.Sources[0].Probe != "turin" || sum.Sources[0].From != url || sum.Rejects != 0 {
		t.Errorf("%+v", sum)
	}
}

// published is a message as another program could send it. probe is the key of a
// Kafka message or a token of a NATS subject.
type published struct {
	probe, value string
	headers      map[string]string
}

// publish sends messages to a broker.
func publish(t *testing.T, url string, messages []published) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, rest, _ := strings.Cut(url, "://")
	host, name, _ := strings.Cut(rest, "/")
	if kind == "kafka" {
		client, err := kgo.NewClient(kgo.SeedBrokers(host), kgo.DefaultProduceTopic(name))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for _, m := range messages {
			r := &kgo.Record{Key: []byte(m.probe), Value: []byte(m.value), Partition: 0}
			for k, v := range m.headers {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
			}
			if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	nc, err := nats.Connect("nats://" + host)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name, name + ".>"}}); err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		msg := &nats.Msg{Subject: name, Data: []byte(m.value), Header: nats.Header{}}
		if m.probe != "" && !strings.ContainsAny(m.probe, " \x00") {
			msg.Subject += "." + m.probe + ".x"
		}
		for k, v := range m.headers {
			msg.Header.Set(k, v)
		}
		if _, err := js.PublishMsg(ctx, msg); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHostileMessages checks that malformed messages are counted and skipped,
// delay nothing, and are not delivered again.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, url string, _ func(func())) {
		line := func(n int) string { return fmt.Sprintf("%s line %d\n", logPath, n) }
		header := func(kv ...string) map[string]string {
			m := map[string]string{}
			for i := 0; i < len(kv); i += 2 {
				m[kv[i]] = kv[i+1]
			}
			return m
		}
		messages := []published{
			{"turin", line(0) + line(1), nil},
			{"", line(2), nil},                                 // 1 without a probe
			{strings.Repeat("x", 100), line(2) + line(3), nil}, // 2 with a name that is too long
			{"turin", "", nil},                                 // empty
			{"turin", "\n", nil},                               // 1
			{"turin", `{"probe":"turin"}` + "\n", header("Tstat-Format", "json")},                                                                    // 1
			{"turin", line(4), header("Tstat-Format", "rar")},                                                                                        // 1
			{"turin", "no path\n" + line(2) + "/etc/passwd x\n/a/../log_tcp_complete\n", nil},                                                        // 3
			{"turin", "bare line\n", header("Tstat-Format", "line")},                                                                                 // 1 without a path
			{"turin", "bare line\n", header("Tstat-Format", "line", "Tstat-Path", "../log_tcp_complete")},                                            // 1
			{"turin", "bare line\n", header("Tstat-Format", "line", "Tstat-Path", "/a b/log_tcp_complete")},                                          // 1
			{"turin", "bare line\n", header("Tstat-Format", "line", "Tstat-Path", "/tmp/passwd")},                                                    // 1
			{"turin", "line 3", header("Tstat-Format", "line", "Tstat-Path", logPath)},                                                               // the form that kcat sends
			{"turin", logPath + " " + strings.Repeat("y", 40_000) + "\n" + strings.TrimSuffix(line(4), "\n"), nil},                                   // 1 too long
			{"turin", strings.Repeat("\x00\xff\n", 100), nil},                                                                                        // 100
			{"turin", strings.Repeat("\n", 20_000), header("Tstat-Format", "line", "Tstat-Path", "/"+strings.Repeat("x", 4000)+"/log_tcp_complete")}, // 20,000, as 77 MiB
		}
		for i := range probeNames + 10 { // at least 11 names beyond the limit, as turin is one
			messages = append(messages, published{fmt.Sprint("p", i), "x\n", nil}) // a malformed line, but the name counts
		}
		messages = append(messages, published{"turin", line(5), nil})
		publish(t, url, messages)
		state := t.TempDir()
		s := startStream(t, Options{From: []string{url}, StateDir: state})
		want := line(0) + line(1) + line(2) + line(3) + line(4) + line(5)
		rejects := int64(1 + 2 + 1 + 1 + 1 + 3 + 1 + 1 + 1 + 1 + 1 + 100 + 20_000 + probeNames + 10)
		await(t, "the last line", func() bool { return s.out.Len() >= len(want) })
		// Kafka delivers partitions in any order.
		await(t, "all rejects", func() bool { return s.Stats().Rejects >= rejects })
		sum := s.stop()
		if got := s.out.String(); got != want || s.err != nil {
			t.Errorf("%s, %v", got, s.err)
		}
		if sum.Rejects != rejects {
			t.Errorf("%d rejects, want %d", sum.Rejects, rejects)
		}
		if !strings.Contains(s.log.String(), "lines rejected") {
			t.Error("no warning")
		}
		publish(t, url, []published{{"turin", line(6), nil}})
		s = startStream(t, Options{From: []string{url}, StateDir: state})
		await(t, "the next line", func() bool { return s.out.Len() >= len(line(6)) })
		if sum := s.stop(); s.out.String() != line(6) || sum.Rejects != 0 || s.err != nil {
			t.Errorf("%s, %+v, %v", s.out, sum, s.err)
		}
	})
}

// TestGroup starts and stops processes of a group while lines of many probes
// arrive. Each process gets some of the lines, and together they get every line.
// The lines of a probe are in order, except for repetitions when a partition moves.
func TestGroup(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, url string, _ func(func())) {
		const probes = 12
		sender := Options{To: []string{url}, Start: StartBegin}
		var writers []*fakeTstat
		for i := range probes {
			w := newTstat(t, t.TempDir(), "log_new") // its lines are passed through to JSON
			writers = append(writers, w)
			sender.Follow = append(sender.Follow, Root{Probe: fmt.Sprint("p", i), Dir: w.root})
		}
		s := startStream(t, sender)
		receive := func() *started {
			return startStream(t, Options{From: []string{url + "?group=g"}, Format: JSON, Queue: 1 << 20})
		}
		lines := func(s *started) int { return strings.Count(s.out.String(), "\n") }
		write := func() {
			for _, w := range writers {
				w.rollOver()
				w.lines(w.logs[0], 100)
			}
		}
		write()
		all := []*started{receive()}
		await(t, "lines at the first", func() bool { return lines(all[0]) > 0 })
		for range 2 {
			r := receive()
			all = append(all, r)
			for end := time.Now().Add(patience); lines(r) == 0; time.Sleep(50 * time.Millisecond) { // the pace of the writer
				if time.Now().After(end) {
					t.Fatal("the new process gets nothing")
				}
				write()
			}
		}
		for i, r := range all[:2] {
			write()
			before := lines(all[2])
			if r.stop(); r.err != nil {
				t.Errorf("%d: %v", i, r.err)
			}
			write()
			await(t, "lines at those that are left", func() bool { return lines(all[2]) > before })
		}
		write()
		sum := 0
		for _, w := range writers {
			w.end()
			sum += w.count()
		}
		got := func() (texts []map[string]bool) { // lines of each probe
			texts = make([]map[string]bool, probes)
			for i := range texts {
				texts[i] = map[string]bool{}
			}
			for _, r := range all {
				for text := range strings.Lines(r.out.String()) {
					var row struct{ Probe, Line string }
					var n int
					if err := json.Unmarshal([]byte(text), &row); err != nil {
						t.Fatal(err)
					}
					if _, err := fmt.Sscanf(row.Probe, "p%d", &n); err != nil {
						t.Fatal(err)
					}
					texts[n][row.Line] = true
				}
			}
			return texts
		}
		await(t, "all lines", func() bool {
			n := 0
			for _, lines := range got() {
				n += len(lines)
			}
			return n >= sum
		})
		s.stop()
		all[2].stop()
		arrived := 0
		for _, r := range all {
			arrived += lines(r)
			t.Logf("%d lines", lines(r))
		}
		t.Logf("%d lines of %d came again", arrived-sum, sum)
		if s.err != nil || all[2].err != nil {
			t.Error(s.err, all[2].err)
		}
	})
}

// TestBlockedSink blocks a sink for longer than brokers wait for an
// acknowledgement. The source reads no more than the window and keeps its
// messages, and nothing is repeated.
func TestBlockedSink(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, url string, _ func(func())) {
		const size = 1 << 20
		var messages []published
		var want strings.Builder
		for i := range 100 {
			text := numbered(logPath, i*300, (i+1)*300)
			want.WriteString(text)
			messages = append(messages, published{"turin", text, nil})
		}
		publish(t, url, messages)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conns := make(chan net.Conn, 1)
		go func() {
			if c, err := l.Accept(); err == nil {
				conns <- c
			}
		}()
		s := startStream(t, Options{From: []string{url}, To: []string{"tcp://" + l.Addr().String()}, Queue: size, Window: size})
		c := <-conns
		defer c.Close()
		ahead := func() int64 { // lines read but not acked
			sum, acked := s.Stats(), 0
			lines := strings.SplitAfterN(want.String(), "\n", int(sum.Sinks[0].Lines)+1)
			for _, line := range lines[:len(lines)-1] {
				acked += len(line)
			}
			return sum.Bytes - int64(acked)
		}
		await(t, "a full window", func() bool { return ahead() > size/2 })
		time.Sleep(22 * time.Second) // longer than brokers wait for an acknowledgement
		if n := ahead(); n > size+64<<10 {
			t.Errorf("%d bytes are under way, the window is %d", n, size)
		}
		got := make(chan string, 1)
		go func() { b, _ := io.ReadAll(c); got <- string(b) }()
		await(t, "all lines", func() bool { return s.acked(0) >= 30_000 })
		if s.stop(); s.err != nil {
			t.Error(s.err)
		}
		if text := <-got; text != want.String() {
			t.Errorf("%d bytes arrived, want %d", len(text), want.Len())
		}
	})
}

// TestFromKcat reads messages written by librdkafka in all of its compressions.
// Each message is a line without line end.
func TestFromKcat(t *testing.T) {
	t.Parallel()
	k := startKafka(t)
	s := startStream(t, Options{From: []string{"kafka://" + k.addr + "/tstat"}})
	var want string
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		var in strings.Builder
		for i := range 500 {
			fmt.Fprintf(&in, "turin|line %d %s\n", i, codec)
			want += fmt.Sprintf("%s line %d %s\n", logPath, i, codec)
		}
		kcat(t, in.String(), "-b", k.addr, "-P", "-t", "tstat", "-K", "|", "-z", codec, "-H", "Tstat-Format=line", "-H", "Tstat-Path="+logPath)
		await(t, "all lines", func() bool { return s.out.Len() >= len(want) })
	}
	if sum := s.stop(); s.err != nil || s.out.String() != want || sum.Sources[0].Probe != "turin" {
		t.Errorf("%d bytes of %d, %+v, %v", s.out.Len(), len(want), sum, s.err)
	}
}
