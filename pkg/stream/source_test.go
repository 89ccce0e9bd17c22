package stream

import (
	"strings"
	"testing"
)

// brokers are the ways between two streams: a URL to write to and read from,
// and what lets the broker be away.
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

// TestRoundTrip: probe, broker, repository: the lines arrive as they would
// without the broker, in order for each probe and log, also when the
// repository starts again. When the broker is away for a while, lines may come
// again.
func TestRoundTrip(t *testing.T) {
	for format, cut := range map[Format]bool{Raw: false, Line: true} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			brokers(t, func(t *testing.T, url string, away func(func())) {
				root := t.TempDir()
				w := newTstat(t, root, "log_tcp_complete", "log_udp_complete")
				sender := startStream(t, Options{Follow: []Root{{"turin", root}}, To: []string{url}, Format: format, Start: StartBegin})
				state := t.TempDir()
				receive := func() *started { return startStream(t, Options{From: []string{url}, Format: Line, StateDir: state}) }
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
			})
		})
	}
}
