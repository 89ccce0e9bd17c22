package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// patience is how long a test waits for an event.
const patience = time.Minute

// await polls until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// output is a writer whose content can be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Len()
}

// started is a running stream.
type started struct {
	*Stream
	t     testing.TB
	addr  string // of the first endpoint
	out   *output
	log   *output
	end   context.CancelFunc
	done  chan struct{}
	err   error
	ended bool
}

// startStream runs a stream until stop is called or the test ends.
func startStream(t testing.TB, opt Options) *started {
	t.Helper()
	s := newStream(t, opt)
	s.start()
	return s
}

// newStream returns a stream that listens but is not started yet.
func newStream(t testing.TB, opt Options) *started {
	t.Helper()
	s := &started{t: t, out: &output{}, log: &output{}, done: make(chan struct{})}
	if opt.StateDir == "" {
		opt.StateDir = t.TempDir()
	}
	if opt.Stdout == nil {
		opt.Stdout = s.out
	}
	if opt.To == nil {
		opt.To = []string{"-"}
	}
	opt.Location = time.UTC
	opt.Poll = 20 * time.Millisecond
	opt.RetryMin, opt.RetryMax = time.Millisecond, 20*time.Millisecond
	opt.Log = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if s.Stream, err = New(opt); err != nil {
		t.Fatalf("stream did not start: %v", err)
	}
	s.addr = strings.Join(s.Addrs(), " ")
	return s
}

// start runs the stream.
func (s *started) start() {
	var ctx context.Context
	ctx, s.end = context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		s.err = s.Run(ctx)
	}()
	s.t.Cleanup(func() {
		if !s.ended {
			s.stop()
		}
		if s.t.Failed() {
			s.t.Logf("log:\n%s", s.log)
		}
	})
}

// stop stops the stream and returns its statistics.
func (s *started) stop() *Stats {
	s.t.Helper()
	s.ended = true
	s.end()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("stream does not stop")
	}
	return s.Stats()
}

func loopback() []peer.Options { return []peer.Options{{Addr: ":0"}} }

func connect(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func write(t testing.TB, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

const logPath = "/var/tstat/2016_03_24_21_37.out/log_tcp_complete"

// numbered returns lines with numbers from..to of a log, in wire format.
func numbered(path string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%s line %d %s\n", path, i, strings.Repeat("x", i%97))
	}
	return b.String()
}

// linesOf returns the lines of text that begin with the path of a log.
func linesOf(text, path string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, path+" ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestCRLFFromAllSources checks that no JSON object contains the CR of a CR LF line
// end, for every kind of source.
func TestCRLFFromAllSources(t *testing.T) {
	const text = "#c_ip:1 c_port:2 fqdn:3\r\n10.0.0.1 53 a\r\n10.0.0.2 54 -\r\n"
	check := func(t *testing.T, s *started, source string) {
		t.Helper()
		object := func(values string) string {
			return fmt.Sprintf(`{"probe":%q,"type":"log_udp_complete","source":%q,%s}`+"\n", "turin", source, values)
		}
		want := object(`"c_ip":"10.0.0.1","c_port":53,"fqdn":"a"`) + object(`"c_ip":"10.0.0.2","c_port":54,"fqdn":null`)
		await(t, "both rows", func() bool { return s.out.Len() >= len(want) })
		if sum := s.stop(); s.out.String() != want || sum.Rejects != 0 {
			t.Errorf("got %s%d rejects, want %s", s.out, sum.Rejects, want)
		}
	}
	t.Run("follow", func(t *testing.T) {
		root := t.TempDir()
		log := filepath.Join(root, "2016_03_24_21_37.out", "log_udp_complete")
		if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(log, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		check(t, startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: JSON}), log)
	})
	const log = "/t/log_udp_complete"
	wire := strings.ReplaceAll(log+" "+text, "\r\n", "\r\n"+log+" ")
	wire = strings.TrimSuffix(wire, log+" ")
	t.Run("listen", func(t *testing.T) {
		probes := new(peer.Probes)
		probes.Replace([]peer.Probe{{Name: "turin", Networks: peer.Networks{netip.MustParsePrefix("127.0.0.0/8")}}})
		s := startStream(t, Options{Listen: loopback(), Format: JSON, Probes: probes})
		write(t, connect(t, s.addr), wire)
		check(t, s, log)
	})
	brokers(t, func(t *testing.T, url string, _ func(func())) {
		publish(t, url, []published{{"turin", wire[:len(wire)-1], nil}}) // kcat sends the last line in this form
		check(t, startStream(t, Options{From: []string{url}, Format: JSON}), log)
	})
}

// TestOldExporter checks several concurrent connections with writes that end
// within a line, an unfinished last line, and a new connection for the next log.
func TestOldExporter(t *testing.T) {
	s := startStream(t, Options{Listen: loopback()})
	const exporters = 8
	var want [exporters]string
	var wg sync.WaitGroup
	for i := range exporters {
		path := fmt.Sprintf("/probe%d/2016_03_24_21_37.out/log_tcp_complete", i)
		want[i] = numbered(path, 0, 500)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for part, rest := 0, want[i]; len(rest) > 0; part++ {
				c, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				// End the connection between two lines, or within
				// a line that the next connection repeats. The old
				// exporter never repeats a line.
				n := strings.LastIndexByte(rest[:min(len(rest), 9000)], '\n') + 1
				for sent := 0; sent < n; {
					k := min(n-sent, 1+rng.IntN(300))
					if _, err := io.WriteString(c, rest[sent:sent+k]); err != nil {
						t.Error(err)
						return
					}
					sent += k
				}
				rest = rest[n:]
				if part == 1 {
					io.WriteString(c, path+" a line that is cut")
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, w := range want {
		total += len(w)
	}
	await(t, "all lines", func() bool { return s.out.Len() >= total })
	sum := s.stop()
	if s.err != nil || sum.Lines != exporters*500 || sum.Cuts != exporters || sum.Rejects != 0 || sum.Unacked != 0 {
		t.Errorf("%+v, %v", sum, s.err)
	}
	got := s.out.String()
	if len(got) != total {
		t.Errorf("%d bytes, want %d", len(got), total)
	}
	for i, w := range want {
		// The connections of an exporter overlap, so that their lines may mix.
		// The lines of each connection are in order.
		path := fmt.Sprintf("/probe%d/2016_03_24_21_37.out/log_tcp_complete", i)
		lines := linesOf(got, path)
		if len(lines) != len(w) {
			t.Errorf("exporter %d: %d bytes, want %d", i, len(lines), len(w))
		}
		for line := range strings.Lines(w) {
			if !strings.Contains(lines, line) {
				t.Fatalf("exporter %d: lost %q", i, line)
			}
		}
	}
}

// TestOrder checks that the lines of one connection stay in order for writes of
// any size.
func TestOrder(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), MaxLine: 1 << 20})
	var want strings.Builder
	c := connect(t, s.addr)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		path := fmt.Sprintf("/p/2016_03_24_21_%02d.out/log_%s_complete", i/60, []string{"tcp", "udp"}[i%2])
		n := 20
		if i%50 == 0 {
			n = 2000
		}
		want.WriteString(numbered(path, 0, n))
		if i%100 == 0 {
			fmt.Fprintf(&want, "%s %s\n", path, strings.Repeat("y", 700_000)) // longer than any read
		}
	}
	for rest := want.String(); len(rest) > 0; {
		n := min(len(rest), 1+rng.IntN(1<<rng.IntN(20)))
		write(t, c, rest[:n])
		rest = rest[n:]
	}
	c.Close()
	await(t, "all lines", func() bool { return s.out.Len() >= want.Len() })
	if s.stop(); s.out.String() != want.String() {
		t.Error("lines differ")
	}
}

// TestRubbish checks that malformed lines are counted and do not affect the
// lines around them.
func TestRubbish(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), MaxLine: 4096})
	good := logPath + " good\n"
	for _, c := range []struct {
		text                  string
		lines, rejects, empty int64
	}{
		{good + "\n" + good, 2, 1, 0},
		{good + "rubbish\n" + good, 2, 1, 0},
		{"\x00\xff\xfe\n" + good, 1, 1, 0},
		{"/etc/passwd root\n/x/log_tcp_complete.gz a\n/../log_ a b\n" + good, 2, 2, 0},
		{good + logPath + " \n" + logPath + " \n" + good, 2, 0, 2},
		{good + strings.Repeat("z", 100_000) + "\n" + good, 2, 1, 0},
		{good + logPath + " " + strings.Repeat("z", 5000) + "\n" + good, 2, 1, 0},
		{"/" + strings.Repeat("d/", 2500) + "log_tcp_complete x\n" + good, 1, 1, 0},
		{"# a header without its log\n", 0, 0, 0}, // ends the connection
		{strings.Repeat("#", 1000), 0, 0, 0},
	} {
		before := s.out.Len()
		conn := connect(t, s.addr)
		io.WriteString(conn, c.text)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn) // until the endpoint closes
		want := int(c.lines) * len(good)
		if strings.Contains(c.text, "/../log_") {
			want += len("/../log_ a b\n") - len(good)
		}
		await(t, fmt.Sprintf("lines of %.40q", c.text), func() bool { return s.out.Len() == before+want })
	}
	sum := s.stop()
	if sum.Lines != 14 || sum.Rejects != 8 || sum.Empty != 2 || s.err != nil {
		t.Errorf("%+v, %v", sum, s.err)
	}
}

// TestManyConnections opens a thousand connections. Some send slowly, some send
// endless lines and some are silent. The other connections must be served, and all
// resources must be freed at the end.
func TestManyConnections(t *testing.T) {
	before := runtime.NumGoroutine()
	s := startStream(t, Options{Listen: loopback(), MaxConnections: 1000})
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = connect(t, s.addr)
	}
	var wg sync.WaitGroup
	for i, c := range conns[:200] {
		wg.Go(func() {
			if i < 100 {
				io.WriteString(c, "/"+strings.Repeat("\xff", 200_000)) // without a line end
			} else {
				io.WriteString(c, logPath) // the rest never arrives
			}
		})
	}
	wg.Wait()
	var want int
	for i, c := range conns[900:] {
		text := numbered(fmt.Sprintf("/p%d/2016_03_24_21_37.out/log_tcp_complete", i), 0, 1000)
		want += len(text)
		wg.Go(func() { io.WriteString(c, text) })
	}
	wg.Wait()
	await(t, "lines of the others", func() bool { return s.out.Len() == want })

	// At the limit the next connection is closed at once.
	more := connect(t, s.addr)
	more.SetReadDeadline(time.Now().Add(patience))
	if _, err := more.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connection 1001: %v", err)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapInuse > 100<<20 {
		t.Errorf("%d MiB in use", m.HeapInuse>>20)
	}
	for _, c := range conns {
		c.Close()
	}
	sum := s.stop()
	if sum.Refused != 1 || sum.Rejects != 100 || sum.Cuts != 200 {
		t.Errorf("%+v", sum)
	}
	await(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before+1 })
}

// TestIdle checks that a silent connection is closed.
func TestIdle(t *testing.T) {
	s := newStream(t, Options{Listen: loopback(), IdleTimeout: 300 * time.Millisecond})
	c := connect(t, s.addr)
	write(t, c, numbered(logPath, 0, 3))
	s.start() // starts accepting and the idle timeout
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end", err)
	}
	if s.stop(); s.out.String() != numbered(logPath, 0, 3) {
		t.Errorf("got %q", s.out)
	}
}

// TestProbeNames checks that a peer's probe name comes from the settings, or else
// from its address.
func TestProbeNames(t *testing.T) {
	known := new(peer.Probes)
	known.Replace([]peer.Probe{{Name: "turin", Networks: peer.Networks{netip.MustParsePrefix("127.0.0.0/8")}}})
	for want, probes := range map[string]*peer.Probes{"turin": known, "127_0_0_1": nil} {
		dir := t.TempDir()
		s := startStream(t, Options{Listen: loopback(), To: []string{"file:" + dir}, Probes: probes})
		c := connect(t, s.addr)
		write(t, c, numbered(logPath, 0, 3))
		c.Close()
		await(t, "the file", func() bool {
			m, _ := filepath.Glob(filepath.Join(dir, want, "log_tcp_complete", "*.log"))
			return len(m) == 1
		})
		s.stop()
	}
}

// TestStopDrains checks that lines received before a stop are not lost, and that
// lines that no sink accepts are reported.
func TestStopDrains(t *testing.T) {
	s := startStream(t, Options{Listen: loopback()})
	c := connect(t, s.addr)
	text := numbered(logPath, 0, 2000)
	write(t, c, text)
	await(t, "the connection", func() bool { return s.out.Len() > 0 })
	if s.stop(); s.out.String() != text || s.err != nil {
		t.Errorf("%d bytes of %d, %v", s.out.Len(), len(text), s.err)
	}

	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	s = startStream(t, Options{Listen: loopback(), To: []string{"tcp://" + dead.Addr().String()}, Drain: 100 * time.Millisecond})
	c = connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "the lines", func() bool { return strings.Contains(s.log.String(), "connection closed") })
	sum := s.stop()
	var unacked *UnackedError
	if !errors.As(s.err, &unacked) || unacked.Lines != 2000 || sum.Unacked != 2000 {
		t.Errorf("%+v, %v", sum, s.err)
	}
}

// TestStopAcceptsBacklog checks that connections in the backlog at a stop are
// accepted, and their lines delivered.
func TestStopAcceptsBacklog(t *testing.T) {
	const exporters = 100
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out, want := &output{}, 0
	s, err := New(Options{Listen: loopback(), To: []string{"-"}, StateDir: t.TempDir(), Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	for i := range exporters {
		text := numbered(fmt.Sprintf("/p%d/2016_03_24_21_37.out/log_tcp_complete", i), 0, 20)
		c := connect(t, s.Addrs()[0])
		write(t, c, text)
		if want += len(text); i%2 == 0 {
			c.Close()
		}
	}
	cancel()
	err = s.Run(ctx) // starts accepting
	sum := s.Stats()
	if err != nil || sum.Accepted != exporters || sum.Lines != exporters*20 || out.Len() != want {
		t.Errorf("%+v, %d bytes of %d, %v", sum, out.Len(), want, err)
	}
}

// TestDrainLogsSinks checks that an ending stream logs the sinks that have not
// acked everything.
func TestDrainLogsSinks(t *testing.T) {
	dir := t.TempDir()
	free, got := filepath.Join(dir, "free"), filepath.Join(dir, "got")
	s := startStream(t, Options{Listen: loopback(), To: []string{"-", "exec:until [ -e " + free + " ]; do sleep 0.02; done; cat >" + got}, Drain: patience})
	c := connect(t, s.addr)
	write(t, c, numbered(logPath, 0, 3))
	c.Close()
	await(t, "the lines", func() bool { return s.out.Len() > 0 })
	s.end()
	await(t, "the word", func() bool { return strings.Contains(s.log.String(), "waiting for sink to drain") })
	if err := os.WriteFile(free, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.stop()
	text, err := os.ReadFile(got)
	if err != nil || string(text) != s.out.String() || s.err != nil || strings.Count(s.log.String(), "waiting for sink to drain") != 1 {
		t.Errorf("%q, %v, %v", text, err, s.err)
	}
}

// TestStopWithUnreachableSink checks that a stream without lines ends although its
// sink is unreachable.
func TestStopWithUnreachableSink(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), To: []string{"tcp://127.0.0.1:1"}, Drain: time.Hour})
	await(t, "a try", func() bool { return strings.Contains(s.log.String(), "cannot be opened") })
	if sum := s.stop(); s.err != nil && !errors.Is(s.err, context.Canceled) {
		t.Error(sum, s.err)
	}
}

// TestNoHTTP checks that an HTTP request is refused before a line is accepted, so
// that a web page cannot post lines. The log and the counts show the refusal.
func TestNoHTTP(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), MaxLine: 4096})
	body := logPath + " 1 2 3\n"
	requests := []string{"POST / HTTP/1.1", "EVIL /" + strings.Repeat("x", 1000) + " HTTP/1.1", "EVIL /" + strings.Repeat("x", 10_000) + " HTTP/1.1", "#EVIL / HTTP/1.1"}
	for _, line := range requests {
		c := connect(t, s.addr)
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, line+"\r\nHost: evil.example\r\n\r\n"+body)
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.30s: the connection was not closed", line)
		}
	}
	c := connect(t, s.addr)
	write(t, c, "not a line\n"+body) // the rest of a line, as from an exporter that reconnected
	c.Close()
	await(t, "the line", func() bool { return s.Stats().Lines == 1 })
	sum := s.stop()
	if sum.Refused != 4 || sum.Lines != 1 {
		t.Errorf("refused %d and took %d lines, want 4 and 1", sum.Refused, sum.Lines)
	}
	if n := strings.Count(s.log.String(), `reason="HTTP on a listener for lines`); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}
