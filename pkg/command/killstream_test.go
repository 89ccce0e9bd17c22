package command

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// streamWindow is the minimum of --window.
const streamWindow = 1 << 20

// TestKillStream kills the exporter or the endpoint of an acknowledged stream at random
// times, while a writer behaves like Tstat. No line may be lost, and each kill may
// repeat at most a window.
func TestKillStream(t *testing.T) {
	addr := freeAddr(t)
	k := newKillSides(t, 5)
	// The limit counts the text; killing both sides also repeats one window.
	k.run(1, func() *exec.Cmd {
		return k.start("receiver", "--listen", addr, "--to", "file:"+k.out, "--format", "line")
	},
		func() *exec.Cmd { return k.start("sender", "--follow", "p1="+k.root, "--to", "ack://"+addr) })
}

// TestKillKafka is like TestKillStream, with a Kafka broker between the sides.
func TestKillKafka(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "tstat"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	testKillBroker(t, 5, "kafka://"+cluster.ListenAddrs()[0]+"/tstat")
}

// TestKillNATS is like TestKillStream, with JetStream between the sides. After each
// kill of the receiver, the server waits before it redelivers the messages.
func TestKillNATS(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nats-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no nats-server installed")
		}
		t.Skip("no nats-server installed (apt-get install nats-server)")
	}
	addr := freeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	server := exec.Command("nats-server", "-a", host, "-p", port, "-js", "-sd", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	testKillBroker(t, 3, "nats://"+addr+"/TSTAT")
}

func testKillBroker(t *testing.T, rounds int, url string) {
	k := newKillSides(t, rounds)
	// Each side repeats up to a window and one message.
	k.run(2, func() *exec.Cmd { return k.start("receiver", "--from", url, "--to", "file:"+k.out, "--format", "line") },
		func() *exec.Cmd { return k.start("sender", "--follow", "p1="+k.root, "--to", url) })
}

// killSides is a receiver that writes files and a sender that follows a folder.
type killSides struct {
	t              *testing.T
	rounds         int
	broker         func() // kills and restarts the broker between the sides; may be nil
	exe            string
	root, out, dir string
}

func newKillSides(t *testing.T, rounds int) *killSides {
	if *soak {
		rounds = 50
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &killSides{t: t, rounds: rounds, exe: exe, root: t.TempDir(), out: t.TempDir(), dir: t.TempDir()}
}

// start starts a stream with the given name for its state and log.
func (k *killSides) start(name string, args ...string) *exec.Cmd {
	cmd := &exec.Cmd{Path: k.exe, Args: append([]string{"tstatrepo", "stream", "--state-dir", filepath.Join(k.dir, name),
		"--timezone", "UTC", "--retry-max", "500ms", "--log-format", "json", "--window", "1MiB", "--start", "checkpoint"}, args...)}
	log, err := os.OpenFile(filepath.Join(k.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { cmd.Process.Kill() }) // in case the test fails
	return cmd
}

// logs prints the ends of the logs.
func (k *killSides) logs() {
	for _, name := range []string{"receiver", "sender"} {
		text, _ := os.ReadFile(filepath.Join(k.dir, name+".log"))
		k.t.Logf("%s:\n%s", name, text[max(0, len(text)-3000):])
	}
}

// run kills one side or both in each round. Each kill may repeat at most the given
// number of windows.
func (k *killSides) run(windows int, sides ...func() *exec.Cmd) {
	t := k.t
	// The first folder exists before the start, so it has no predecessor.
	w := &killWriter{t: t, root: k.root, now: time.Date(2016, 3, 24, 21, 0, 0, 0, time.UTC)}
	w.rollOver()
	running := []*exec.Cmd{sides[0](), sides[1]()}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if text, _ := os.ReadFile(filepath.Join(k.dir, "sender.log")); bytes.Contains(text, []byte("following")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the sender does not begin")
		}
	}
	stop := make(chan struct{})
	written := make(chan struct{})
	pace := 10 * time.Millisecond
	if k.broker != nil { // a broker starts slowly, and the sides must catch up with the writer
		pace *= 10
	}
	go func() {
		defer close(written)
		for {
			select {
			case <-stop:
				return
			default:
				w.lines(1 + rand.IntN(500))
				if rand.IntN(5) == 0 {
					w.rollOver()
				}
				time.Sleep(pace) // the pace of the writer
			}
		}
	}()
	kill := func(i int) {
		running[i].Process.Kill()
		running[i].Wait()
	}
	for round := range k.rounds {
		time.Sleep(time.Duration(50+rand.IntN(400)) * time.Millisecond) // kill at a random time
		choices := 3
		if k.broker != nil {
			choices = 6
		}
		switch i := rand.IntN(choices); i {
		case 3, 4, 5:
			k.broker()
		case 2: // both
			kill(0)
			kill(1)
			running[0], running[1] = sides[0](), sides[1]()
		default:
			kill(i)
			running[i] = sides[i]()
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	close(stop)
	<-written
	w.close()
	var got streamed
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if got = readStreamed(t, k.out); got.next == w.n {
			break
		}
		if time.Now().After(deadline) {
			k.logs()
			t.Fatalf("%d lines of %d arrived", got.next, w.n)
		}
	}
	for _, cmd := range slices.Backward(running) { // stop the sender first, because it would wait for the receiver
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	if testing.Verbose() {
		k.logs()
	}
	t.Logf("%d rounds, %d lines (%d MiB), %d came again, at most %d KiB at once", k.rounds, w.n, w.bytes>>20, got.repeated, got.most>>10)
	if got.most > windows*streamWindow {
		t.Errorf("%d bytes came again at once, the window is %d", got.most, streamWindow)
	}
}

// killWriter writes a log in blocks of 4096 bytes, like Tstat.
type killWriter struct {
	t     *testing.T
	root  string
	now   time.Time
	f     *os.File
	buf   bytes.Buffer
	n     int
	bytes int
}

func (w *killWriter) must(err error) {
	if err != nil {
		w.t.Error(err)
	}
}

func (w *killWriter) close() {
	if w.f != nil {
		_, err := w.buf.WriteTo(w.f)
		w.must(err)
		w.must(w.f.Close())
	}
}

func (w *killWriter) rollOver() {
	w.now = w.now.Add(time.Minute)
	dir := filepath.Join(w.root, tstat.FolderName(w.now))
	w.must(os.Mkdir(dir, 0o755))
	w.close()
	f, err := os.Create(filepath.Join(dir, "log_tcp_complete"))
	w.must(err)
	w.f = f
}

func (w *killWriter) lines(n int) {
	for range n {
		k, _ := fmt.Fprintf(&w.buf, "line %d %s\n", w.n, strings.Repeat("x", 200+w.n%200))
		w.n++
		w.bytes += k
	}
	_, err := w.f.Write(w.buf.Next(w.buf.Len() / 4096 * 4096))
	w.must(err)
}

// streamed counts the received lines.
type streamed struct {
	next     int // number of lines before the first gap
	repeated int
	most     int // maximum number of bytes repeated after one kill
}

// readStreamed reads the files of the endpoint. A gap between lines fails the test.
func readStreamed(t *testing.T, dir string) (s streamed) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "p1", "log_tcp_complete", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	run, last := 0, -1
	for _, p := range paths { // sorted by hour
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasSuffix(line, "\n") {
				break // the line is still being written
			}
			var n int
			if _, err := fmt.Sscanf(line, "line %d ", &n); err != nil || len(line) != len(fmt.Sprintf("line %d ", n))+200+n%200+1 {
				t.Fatalf("half a line: %q", line)
			}
			if n != last+1 { // after another kill
				run = 0
			}
			last = n
			switch {
			case n > s.next:
				t.Fatalf("line %d where %d was next", n, s.next)
			case n == s.next:
				s.next++
			default:
				s.repeated++
				run += len(line)
				s.most = max(s.most, run)
			}
		}
	}
	return s
}
