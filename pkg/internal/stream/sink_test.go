package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/durabletest"
)

// natsServer is a JetStream server, installed on this machine.
type natsServer struct {
	t    testing.TB
	addr string
	dir  string
	args []string
	opts []nats.Option // of clients
	cmd  *exec.Cmd
}

func startNATS(t testing.TB, args ...string) *natsServer {
	t.Helper()
	if _, err := exec.LookPath("nats-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no nats-server installed")
		}
		t.Skip("no nats-server installed (apt-get install nats-server)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &natsServer{t: t, addr: l.Addr().String(), dir: t.TempDir(), args: args}
	l.Close()
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command("nats-server", "-a", host, "-p", port, "-js", "-sd", s.dir)
	s.cmd.Args = append(s.cmd.Args, s.args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, "nats-server", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// kill kills the server without a clean shutdown.
func (s *natsServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// text returns the content of a stream, message by message.
func (s *natsServer) text(stream string) string {
	s.t.Helper()
	nc, err := nats.Connect("nats://"+s.addr, s.opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := js.Stream(ctx, stream)
	if err != nil {
		s.t.Fatal(err)
	}
	info, err := st.Info(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		m, err := st.GetMsg(ctx, seq)
		if err != nil {
			s.t.Fatal(err)
		}
		b.Write(m.Data)
	}
	return b.String()
}

// TestNATS kills and restarts the server while lines are sent. Every line is in
// the stream once, in order.
func TestNATS(t *testing.T) {
	server := startNATS(t)
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete")
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{"nats://" + server.addr + "/TSTAT"}, Format: Line, Start: StartBegin})
	taken := func() int64 { return s.acked(0) }
	for i := range 20 {
		w.rollOver()
		w.lines(w.logs[0], 500)
		if i == 7 || i == 14 {
			await(t, "half of the lines", func() bool { return taken() > int64(w.count()/2) })
			server.kill()
			w.lines(w.logs[0], 500)
			server.start()
		}
	}
	w.end()
	await(t, "all lines", func() bool { return taken() >= int64(w.count()+20) }) // with headers
	if s.stop(); s.err != nil {
		t.Error(s.err)
	}
	w.check(server.text("TSTAT"))
	if !strings.Contains(s.log.String(), "sink disconnected") {
		t.Error("no warning")
	}
}

// acked returns how many lines a sink has acked.
func (s *started) acked(i int) int64 { return s.Stats().Sinks[i].Lines }

// TestExec checks a command that exits repeatedly: the next one continues with
// the first unread line.
func TestExec(t *testing.T) {
	dir := t.TempDir()
	// A loop of read instead of head, which reads whole blocks: read
	// consumes byte by byte.
	command := fmt.Sprintf(`i=0; while [ $i -lt 400 ] && IFS= read -r line; do echo "$line" >>%s/out; i=$((i+1)); done`, dir)
	s := startStream(t, Options{Listen: loopback(), To: []string{"exec:" + command}})
	c := connect(t, s.addr)
	text := numbered(logPath, 0, 2000)
	write(t, c, text)
	c.Close()
	got := func() string { b, _ := os.ReadFile(filepath.Join(dir, "out")); return string(b) }
	await(t, "all lines", func() bool { return len(got()) >= len(text) })
	sum := s.stop()
	if s.err != nil || got() != text || sum.Sinks[0].Restarts < 4 {
		t.Errorf("%d bytes of %d, %+v, %v", len(got()), len(text), sum, s.err)
	}
	if !strings.Contains(s.log.String(), "command has ended") {
		t.Error("no warning")
	}
}

// TestStalledPeer checks that a TCP peer that stops reading blocks the source. If
// the sink is optional, its lines are dropped and counted instead.
func TestStalledPeer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			peer <- c
		}
	}()
	text := numbered(logPath, 0, 200_000)
	url := "tcp://" + l.Addr().String()

	s := startStream(t, Options{Listen: loopback(), To: []string{url}, Queue: 1 << 20})
	c := connect(t, s.addr)
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		c.Close()
		sent <- err
	}()
	p := <-peer
	await(t, "a full queue", func() bool {
		sink := s.Stats().Sinks[0]
		return sink.Limit-sink.Queued < 256<<10
	})
	select {
	case <-sent:
		t.Error("the sender was not held up")
	default:
	}
	got := make(chan string, 1)
	go func() { b, _ := io.ReadAll(p); got <- string(b) }()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	await(t, "all lines", func() bool { return s.acked(0) == 200_000 })
	if s.stop(); s.err != nil || <-got != text {
		t.Errorf("lines differ, %v", s.err)
	}

	s = startStream(t, Options{Listen: loopback(), To: []string{"-"}, ToOptional: []string{url}, Queue: 1 << 20, Drain: 100 * time.Millisecond})
	c = connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "all lines at the required one", func() bool { return s.out.Len() == len(text) })
	sum := s.stop()
	if sum.Sinks[1].Dropped == 0 || sum.Sinks[0].Dropped != 0 || !strings.Contains(s.log.String(), "lines dropped") {
		t.Errorf("%+v", sum)
	}
	if s.out.String() != text {
		t.Error("lines differ")
	}
}

// TestPeerLost closes the peer's connection between lines. The rest goes to the
// next connection, from the start of a line. Lines in the peer's kernel may be
// lost, because the plain protocol has no acknowledgement.
func TestPeerLost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var parts output
	go func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if i == 0 {
				io.CopyN(&parts, c, 100_001)
				c.Close()
				continue
			}
			io.Copy(&parts, c)
			c.Close()
		}
	}()
	text := numbered(logPath, 0, 100_000)
	s := startStream(t, Options{Listen: loopback(), To: []string{"tcp://" + l.Addr().String()}})
	c := connect(t, s.addr)
	write(t, c, text)
	c.Close()
	await(t, "all lines", func() bool { return s.acked(0) == 100_000 })
	if s.stop(); s.err != nil {
		t.Error(s.err)
	}
	await(t, "the last line", func() bool { return strings.HasSuffix(parts.String(), text[len(text)-1000:]) })
	second := parts.String()[100_001:]
	if !strings.HasPrefix(second, logPath+" ") || !strings.Contains(text, second) {
		t.Errorf("the second connection does not begin with a line, or has gaps: %.80q", second)
	}
}

// TestFiles checks files by probe and log. A later run appends to them after it
// has cut off an unfinished last line; zstd has separate files.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	text := numbered(logPath, 0, 1000) + numbered("/x/2016_03_24_21_37.out/log_udp_complete", 0, 10)
	run := func(to string) {
		s := startStream(t, Options{Listen: loopback(), To: []string{to}})
		c := connect(t, s.addr)
		write(t, c, text)
		c.Close()
		await(t, "the lines", func() bool { return s.acked(0) == 1010 })
		if s.stop(); s.err != nil {
			t.Fatal(s.err)
		}
	}
	find := func(log, ext string) []string {
		m, err := filepath.Glob(filepath.Join(dir, "127_0_0_1", log, "????_??_??_??"+ext))
		if err != nil || len(m) == 0 {
			t.Fatalf("no files: %v", err)
		}
		return m
	}
	run("file:" + dir)
	tcp := find("log_tcp_complete", ".log")[0]
	f, err := os.OpenFile(tcp, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, "half a line")
	f.Close()
	run("file:" + dir)
	var got string
	for _, name := range find("log_tcp_complete", ".log") { // two if the hour has changed
		b, _ := os.ReadFile(name)
		got += string(b)
	}
	if want := linesOf(text, logPath); strings.ReplaceAll(got, "half a line", "") != want+want || len(find("log_tcp_complete", ".log")) == 1 && got != want+want {
		t.Errorf("%d bytes, want twice %d", len(got), len(want))
	}
	run("file:" + dir + "?compress=zstd")
	run("file:" + dir + "?compress=zstd")
	got = ""
	for _, name := range find("log_udp_complete", "*.log.zst") {
		b, _ := os.ReadFile(name)
		d, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(d)
		if err != nil {
			t.Fatal(err)
		}
		got += string(plain)
	}
	if want := linesOf(text, "/x/2016_03_24_21_37.out/log_udp_complete"); got != want+want {
		t.Errorf("zstd: %d bytes, want twice %d", len(got), len(want))
	}
}

// TestFilesPowerCut checks that lines are durable when they are acked, both in new
// files and in files of a killed process.
func TestFilesPowerCut(t *testing.T) {
	for _, to := range []string{"new/files", "new/files?compress=zstd"} {
		t.Run(to, func(t *testing.T) {
			dir := t.TempDir()
			disk := durabletest.Record(t, dir)
			text := numbered(logPath, 0, 1000)
			s := startStream(t, Options{Listen: loopback(), To: []string{"file:" + filepath.Join(dir, to)}, StateDir: filepath.Join(dir, "state")})
			run := func(times int) {
				t.Helper()
				c := connect(t, s.addr)
				write(t, c, text)
				c.Close()
				await(t, "the lines", func() bool { return s.acked(0) == int64(times)*1000 })
				var got string
				names, err := filepath.Glob(filepath.Join(disk.Cut(t), "new/files/127_0_0_1/log_tcp_complete/*"))
				for _, name := range names {
					b, readErr := os.ReadFile(name)
					if strings.HasSuffix(name, ".zst") {
						d, _ := zstd.NewReader(nil)
						b, readErr = d.DecodeAll(b, nil)
					}
					got += string(b)
					err = errors.Join(err, readErr)
				}
				if want := strings.Repeat(linesOf(text, logPath), times); got != want || err != nil {
					t.Errorf("%d bytes after the cut, want %d: %v", len(got), len(want), err)
				}
			}
			run(1)
			run(2)
			if s.stop(); s.err != nil {
				t.Fatal(s.err)
			}
			if names, _ := filepath.Glob(filepath.Join(disk.Cut(t), "state/stream/*.checkpoint")); len(names) != 1 {
				t.Errorf("checkpoints after the cut: %v", names)
			}
		})
	}
}

// TestFullDisk checks that the stream pauses while the disk is full, reports
// it, and continues without lost or duplicate lines.
func TestFullDisk(t *testing.T) {
	dir, fill, release := durabletest.SmallDisk(t, "2m")
	fill(1 << 20)
	text := numbered(logPath, 0, 10_000) // 1.2 MB
	s := startStream(t, Options{Listen: loopback(), To: []string{"file:" + dir}, Queue: 1 << 20})
	c := connect(t, s.addr)
	go func() {
		io.WriteString(c, text)
		c.Close()
	}()
	await(t, "the pause", func() bool { return strings.Contains(s.log.String(), "the stream pauses") })
	release()
	await(t, "all lines", func() bool { return s.acked(0) == 10_000 })
	if s.stop(); s.err != nil || !strings.Contains(s.log.String(), "writable again") {
		t.Error(s.err)
	}
	var got string
	m, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*.log"))
	for _, name := range m {
		b, _ := os.ReadFile(name)
		got += string(b)
	}
	if got != text {
		t.Errorf("%d bytes, want %d", len(got), len(text))
	}
}

// TestFullDiskBehindStdout checks the same as TestFullDisk, with standard output
// redirected to a file.
func TestFullDiskBehindStdout(t *testing.T) {
	dir, fill, release := durabletest.SmallDisk(t, "2m")
	fill(100_000)
	file, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	text := numbered(logPath, 0, 10_000)
	s := startStream(t, Options{Listen: loopback(), Stdout: file, Queue: 1 << 20})
	c := connect(t, s.addr)
	go func() {
		io.WriteString(c, text)
		c.Close()
	}()
	await(t, "the pause", func() bool { return strings.Contains(s.log.String(), "the stream pauses") })
	release()
	await(t, "all lines", func() bool { return s.acked(0) == 10_000 })
	if s.stop(); s.err != nil || !strings.Contains(s.log.String(), "writable again") {
		t.Error(s.err)
	}
	if got, err := os.ReadFile(file.Name()); err != nil || string(got) != text {
		t.Errorf("%d bytes, want %d, %v", len(got), len(text), err)
	}
}

// TestFullStateDisk checks that a stream that cannot save positions continues for
// one window, then pauses and reports the failure. It continues when there is
// room.
func TestFullStateDisk(t *testing.T) {
	dir, fill, release := durabletest.SmallDisk(t, "1m")
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete")
	w.rollOver()
	w.lines(w.logs[0], 100)
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, StateDir: dir, Window: 64 << 10, Start: StartBegin})
	await(t, "some lines", func() bool { return s.out.Len() > 0 })
	fill(0)
	w.lines(w.logs[0], 5000) // more than 10 windows
	w.end()
	await(t, "the warning", func() bool { return strings.Contains(s.log.String(), "position cannot be saved") })
	before, polls := 0, 0
	await(t, "the pause", func() bool {
		if n := s.out.Len(); n != before {
			before, polls = n, 0
		}
		polls++
		return polls == 200
	})
	if before >= 500_000 {
		t.Errorf("%d bytes went on, the window is %d", before, 64<<10)
	}
	release()
	await(t, "all lines", func() bool { return strings.Count(s.out.String(), "\n") >= w.count() })
	if s.stop(); s.err != nil || !strings.Contains(s.log.String(), "position saved again") {
		t.Error(s.err)
	}
	w.check(s.out.String())
}

// TestOptionalEnds checks that an optional sink that fails does not end the
// stream; its lines are counted as dropped, and the sink is not called slow.
func TestOptionalEnds(t *testing.T) {
	dir := t.TempDir()
	s := startStream(t, Options{Listen: loopback(), To: []string{"file:" + dir}, ToOptional: []string{"-"}, Stdout: failing{}})
	c := connect(t, s.addr)
	text := numbered(logPath, 0, 5000)
	write(t, c, text)
	await(t, "the first lines", func() bool { return strings.Contains(s.log.String(), "optional sink failed") })
	write(t, c, text)
	c.Close()
	await(t, "all lines", func() bool { return s.acked(0) == 10_000 })
	sum := s.stop()
	if o := sum.Sinks[1]; s.err != nil || o.Dropped != 10_000 || o.Lines != 0 || !o.Optional {
		t.Errorf("%+v, %v", sum, s.err)
	}
	if strings.Contains(s.log.String(), "too slow") {
		t.Error(s.log.String())
	}
}

// TestStdoutFails checks that a broken pipe ends the stream with an error.
func TestStdoutFails(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), Stdout: failing{}})
	write(t, connect(t, s.addr), numbered(logPath, 0, 1))
	<-s.done
	if !errors.Is(s.err, syscall.EPIPE) {
		t.Errorf("%v", s.err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// TestSinkNames lists valid and invalid URLs of sinks.
func TestSinkNames(t *testing.T) {
	for text, want := range map[string]string{
		"-": "", "file:/x": "", "file:/x?compress=zstd": "", "exec:cat": "", "tcp://h:1": "", "tls://[::1]:1": "",
		"ack://h:1": "", "ack+tls://h:1": "", "nats://h/S": "", "nats+tls://u:p@h:1/S?creds=f": "",
		"": "unknown kind", "x": "unknown kind", "/tmp": "unknown kind",
		"file:": "no folder", "file:/x?gzip": "unknown option", "exec: ": "no command", "tcp://h": "host or port is missing",
		"tcp://h:1/x": "nothing can follow", "ack://u@h:1": "nothing can", "nats://h:1": "no stream", "nats://h:1/a.b": "no stream",
		"nats://h:1/S?x=1": "unknown option", "nats://a,b:2,[::1]:3/S?replicas=3": "", "nats://a/S?replicas=9": "not a number", "nats://a,/S": "no host",
		"nats:x": "not a URL", "kafka://h/T.x-1": "", "kafka+tls://me@a:1,b:2/T?sasl=plain&password-file=/f&compress=none": "",
		"kafka://h:1": "no topic", "kafka://h/..": "no topic", "kafka://h/a/b": "no topic", "kafka://h/T?compress=rar": "unknown compression",
		"kafka://h/T?sasl=x": "unknown mechanism", "kafka://h/T?version=9.9": "unknown version", "kafka://h/T?version=": "unknown version", "kafka://h/T?sasl=plain": "no user", "kafka://me@h/T": "without a mechanism",
		"kafka://me:secret@h/T?sasl=plain": "must not contain a password", "kafka://h/T?replicas=1": "unknown option", "tcp://h:x": "not a URL",
		"nats://h/" + strings.Repeat("s", 255): "", "nats://h/" + strings.Repeat("s", 256): "no stream",
		"kafka://h/" + strings.Repeat("t", 249): "", "kafka://h/" + strings.Repeat("t", 250): "no topic",
	} {
		err := CheckSink(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
