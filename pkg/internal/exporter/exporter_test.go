package exporter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// logs is a buffer for log messages. It is safe for concurrent use.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// bench is a probe with temporary folders, and a client that sends it specifications.
type bench struct {
	*Exporter
	t    *testing.T
	reg  *mplane.Registries
	jobs *component.Jobs
	logs *logs
	runs int
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, logs: new(logs)}
	dir := t.TempDir()
	opt := Options{
		Name: "turin", LogFolder: filepath.Join(dir, "tstat"), RRDFolder: filepath.Join(dir, "rrd"),
		Listen:   []peer.Options{{Addr: "127.0.0.1:0"}, {Addr: "127.0.0.1:0"}},
		Location: time.UTC, Every: 50 * time.Millisecond, StateDir: filepath.Join(dir, "state"),
		Log: slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, d := range []string{opt.LogFolder, opt.RRDFolder} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&opt)
	}
	b.start(opt)
	t.Cleanup(func() {
		b.stop()
		if t.Failed() {
			t.Log(b.logs)
		}
	})
	return b
}

func (b *bench) start(opt Options) {
	b.t.Helper()
	var err error
	if b.Exporter, err = New(opt); err != nil {
		b.t.Fatal(err)
	}
	if b.reg, err = mplane.NewRegistries(); err != nil {
		b.t.Fatal(err)
	}
	b.jobs = component.NewJobs(b.Services(), b.reg, nil, component.Limits{}, opt.Log)
}

func (b *bench) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b.jobs.Stop(ctx)
	if ctx.Err() != nil {
		b.t.Error("the exports do not stop")
	}
}

// submit sends a specification and returns its token. Parameters have the form
// NAME=VALUE.
func (b *bench) submit(label, when string, parameters ...string) (token string) {
	b.t.Helper()
	for _, s := range b.Services() {
		if s.Capability.Label != label {
			continue
		}
		spec := s.Capability.Specification()
		b.runs++
		spec.Label = fmt.Sprintf("%s-%d", label, b.runs)
		var err error
		if spec.When, err = mplane.ParseScope(when); err != nil {
			b.t.Fatal(err)
		}
		for _, p := range parameters {
			name, value, _ := strings.Cut(p, "=")
			if err := spec.SetParameter(name, value); err != nil {
				b.t.Fatal(err)
			}
		}
		spec.SetUniqueToken()
		if e, refused := b.jobs.Submit(spec, "ann", nil, nil).(*mplane.Exception); refused {
			b.t.Fatal(e.Message)
		}
		return spec.Token
	}
	b.t.Fatalf("no capability %s", label)
	return ""
}

// result waits for the result of a specification.
func (b *bench) result(token string) mplane.Message {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	b.jobs.Wait(ctx, token)
	return b.jobs.State(token, "ann")
}

// interrupt ends a specification and returns its result.
func (b *bench) interrupt(token string) *mplane.Statement {
	b.t.Helper()
	b.jobs.Interrupt(token, "ann")
	m := b.result(token)
	s, ok := m.(*mplane.Statement)
	if !ok || s.Kind != mplane.Result {
		b.t.Fatalf("no result:\n%s", m.Show())
	}
	return s
}

// refusal returns the reason why a specification was refused or failed.
func (b *bench) refusal(token string) string {
	b.t.Helper()
	e, ok := b.result(token).(*mplane.Exception)
	if !ok {
		b.t.Fatal("it was not refused")
	}
	return e.Message
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come: %s", what)
		}
	}
}

// write appends to a file in a log folder.
func (b *bench) write(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.LogFolder, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// nobody is the address of a repository that does not listen.
const nobody = "repository.url=127.0.0.1:1"

// TestCapabilitiesEqualThoseOfTstatPy compares labels, parameters, metadata, columns and
// tokens: with System_ID as in the last version of tstat.py, and without as in its README.
func TestCapabilitiesEqualThoseOfTstatPy(t *testing.T) {
	f, err := os.Open("testdata/capabilities.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := newBench(t, func(o *Options) { o.SystemID = "01" })
	lines := bufio.NewScanner(f)
	for _, s := range b.Services() {
		var want struct{ Canonical, Token string }
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &want) != nil {
			t.Fatal("the golden data ends early")
		}
		c := *s.Capability
		if c.ID() != want.Token {
			t.Errorf("token %s of %s, want %s", c.ID(), c.Label, want.Token)
		}
		c.Token = c.ID()
		if got, err := mplane.Marshal(&c); err != nil || string(got) != want.Canonical {
			t.Errorf("%v:\n%s\nwant:\n%s", err, got, want.Canonical)
		}
	}
	if lines.Scan() {
		t.Error("a capability is missing")
	}
	for _, s := range newBench(t, nil).Services() {
		want := map[string]string{RRD: "58d1109f591c69dba93193bc88688131", Log: "eb1e0c4f3b91673a52733948ef0a9c98"}[s.Capability.Label]
		if want != "" && s.Capability.ID() != want {
			t.Errorf("token %s of %s, want %s", s.Capability.ID(), s.Capability.Label, want)
		}
	}
	only := newBench(t, func(o *Options) { o.LogFolder = "" })
	if list := only.Services(); len(list) != 1 || list[0].Capability.Label != RRD {
		t.Errorf("%d capabilities without logs", len(list))
	}
}

func TestNewReportsInvalidOptions(t *testing.T) {
	good := Options{Name: "turin", LogFolder: "/var/lib/tstat"}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Name = "a b" }, "invalid probe name"},
		{func(o *Options) { o.LogFolder = "" }, "needs a folder"},
		{func(o *Options) { o.RRDFolder = "rrd" }, `"rrd" is not an absolute path`},
		{func(o *Options) { o.Folders = []string{"logs"} }, `"logs" is not an absolute path`},
		{func(o *Options) { o.SystemID = "1,2" }, "not a single value"},
		{func(o *Options) { o.SystemID = "*" }, "not a single value"},
		{func(o *Options) { o.Types = []string{"["} }, "not a glob"},
		{func(o *Options) { o.Advertise = "here" }, "not host:port"},
		{func(o *Options) { o.Stream = "a b" }, "not the name of a stream"},
	} {
		opt := good
		c.change(&opt)
		if _, err := New(opt); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestInvalidSpecificationsAreRefused(t *testing.T) {
	outside := t.TempDir()
	b := newBench(t, func(o *Options) { o.Folders = []string{o.LogFolder, filepath.Join(o.RRDFolder, "more")} })
	b.drain = time.Millisecond
	b.lookup = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		switch host {
		case "both": // one address is not in Peers
			return []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.7")}, nil
		case "unknown":
			return nil, errors.New("no such host")
		}
		a, err := netip.ParseAddr(host)
		return []netip.Addr{a}, err
	}
	b.write("2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\n")
	b.write("sub/2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\n")
	for name, target := range map[string]string{"link": outside, "inner": filepath.Join(b.LogFolder, "sub")} {
		if err := os.Symlink(target, filepath.Join(b.LogFolder, name)); err != nil {
			t.Fatal(err)
		}
	}
	streaming := func(folder, typ, minutes string) []string {
		return []string{nobody, "log.folder=" + folder, "log.type=" + typ, "log.time=" + minutes}
	}
	in := func(name string) string { return b.LogFolder + "/" + name }
	for _, c := range []struct {
		label      string
		parameters []string
		want       string // of the refusal; "": the export runs
	}{
		{RRD, []string{"repository.url=repository"}, "repository.url: .* is not like"},
		{RRD, []string{"repository.url=:9000"}, "is not like"},
		{RRD, []string{"repository.url=http://127.0.0.1:9000"}, "is not like"},
		{RRD, []string{"repository.url=u:p@127.0.0.1:9000"}, "is not like"},
		{RRD, []string{"repository.url=127.0.0.1:0"}, "no such port"},
		{RRD, []string{"repository.url=127.0.0.1:65536"}, "no such port"},
		{RRD, []string{"repository.url=192.0.2.7:9000"}, "192.0.2.7, which is in no network"},
		{RRD, []string{"repository.url=[::ffff:192.0.2.7]:9000"}, "192.0.2.7, which is in no network"},
		{RRD, []string{"repository.url=both:9000"}, "192.0.2.7, which is in no network"},
		{Log, []string{"repository.url=unknown:9000"}, "no such host"},
		{Streaming, streaming("tstat", "log_tcp_complete", "60"), "not an absolute path"},
		{Streaming, streaming(outside, "log_tcp_complete", "60"), "not in the folders"},
		{Streaming, streaming("/nothing/here", "log_tcp_complete", "60"), "not in the folders"},
		{Streaming, streaming(in("../.."), "log_tcp_complete", "60"), "not in the folders"},
		{Streaming, streaming(in("sub/../../rrd"), "log_tcp_complete", "60"), "not in the folders"},
		{Streaming, streaming(in("link"), "log_tcp_complete", "60"), "not in the folders"},
		{Streaming, streaming(in("nothing"), "log_tcp_complete", "60"), "no such file"},
		{Streaming, streaming(in("2026_11_22_06_39.out"), "log_tcp_complete", "60"), "a log folder itself"},
		{Streaming, streaming(in("2026_11_22_06_39.out/log_tcp_complete"), "log_tcp_complete", "60"), "is not a folder"},
		{Streaming, streaming(in(""), "log_*", "60"), "not a log of Tstat"},
		{Streaming, streaming(in(""), "../log_tcp_complete", "60"), "not a log of Tstat"},
		{Streaming, streaming(in(""), "log_tcp_complete", "0"), "log.time"},
		{Streaming, streaming(in(""), "log_tcp_complete", "10081"), "log.time"},
		{Streaming, streaming(in(""), "log_tcp_complete", "1e30"), "log.time"},
		{Streaming, streaming(in(""), "log_tcp_complete", "60"), ""},
		{Streaming, streaming(in("inner/"), "log_tcp_complete", "60"), ""},
	} {
		token := b.submit(c.label, "now ... future", c.parameters...)
		if c.want == "" {
			eventually(t, "export", func() bool { return len(b.Stats()) == 1 })
			b.interrupt(token)
			continue
		}
		if got := b.refusal(token); !matches(got, c.want) {
			t.Errorf("%v: %s, want %s", c.parameters, got, c.want)
		}
	}
	log := b.logs.String()
	for label, want := range map[string]int{RRD: 9, Streaming: 14, Log: 1} {
		if n := strings.Count(log, "export failed\" specification="+label); n != want {
			t.Errorf("%s: %d refused, want %d: %s", label, n, want, log)
		}
	}
	if n := strings.Count(log, "export ended"); n != 2 {
		t.Errorf("%d ended: %s", n, log)
	}
}

// matches reports whether text contains the parts of want, which are separated by ".*",
// in this order.
func matches(text, want string) bool {
	for part := range strings.SplitSeq(want, ".*") {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}

// TestDuplicateExportIsRefused checks that a repository receives the same data only once
// at a time, under any host name. Other data and other repositories are accepted, as long
// as an address for fetching logs is free.
func TestDuplicateExportIsRefused(t *testing.T) {
	b := newBench(t, nil)
	b.drain = time.Millisecond
	const refused = "exports the same to 127.0.0.1:1 already"
	lines := func(url, typ string) []string {
		return []string{"repository.url=" + url, "log.folder=" + b.LogFolder, "log.type=" + typ, "log.time=60"}
	}
	b.submit(RRD, "now + inf", nobody)
	b.submit(Log, "now + inf", nobody)
	b.submit(Streaming, "now + inf", lines("127.0.0.1:1", "log_tcp_complete")...)
	b.submit(Streaming, "now + inf", lines("127.0.0.1:1", "log_udp_complete")...)
	first := b.submit(Log, "now + inf", "repository.url=127.0.0.1:2")
	eventually(t, "exports", func() bool { return len(b.Stats()) == 5 })
	for _, token := range []string{
		b.submit(RRD, "now + inf", nobody), b.submit(Log, "now + inf", "repository.url=localhost:1"),
		b.submit(Streaming, "now + inf", lines("127.0.0.1:1", "log_tcp_complete")...),
	} {
		if got := b.refusal(token); !strings.Contains(got, refused) {
			t.Error(got)
		}
	}
	if got := b.refusal(b.submit(Log, "now + inf", "repository.url=127.0.0.1:3")); !strings.Contains(got, "no free address") {
		t.Error(got)
	}
	b.interrupt(first)
	b.submit(Log, "now + inf", "repository.url=127.0.0.1:3")
	eventually(t, "exports", func() bool { return strings.Count(b.logs.String(), "export ended") == 1 && b.running(Log) == 2 })
}

// running returns the number of running exports of a capability.
func (b *bench) running(label string) (n int) {
	for _, e := range b.Stats() {
		if e.Capability == label {
			n++
		}
	}
	return n
}

// TestDNSRebindingIsRefused checks that no export connects to an address outside Peers if
// a host name resolves to another address after the check.
func TestDNSRebindingIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBench(t, func(o *Options) { o.Peers = peer.Networks{netip.MustParsePrefix("192.0.2.0/24")} })
	b.drain = time.Millisecond
	b.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
	}
	b.write("2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\none\n")
	b.write("2026_11_22_07_39.out/log_tcp_complete", "#c_ip:1\n")
	_, port, _ := net.SplitHostPort(l.Addr().String())
	url := "repository.url=localhost:" + port
	b.submit(Log, "now + inf", url)
	b.submit(Streaming, "now + inf", url, "log.folder="+b.LogFolder, "log.type=log_tcp_complete", "log.time=60")
	eventually(t, "refusals", func() bool {
		return strings.Count(b.logs.String(), "127.0.0.1 is not in the networks") >= 2 && len(b.Stats()) == 2
	})
	for _, e := range b.Stats() {
		if e.Capability == Log && !strings.Contains(e.LastError, "127.0.0.1 is not in the networks") {
			t.Error(e.LastError)
		}
	}
}

// receiver starts a streaming endpoint. got returns the text that it has received.
func receiver(t *testing.T) (addr string, got func() string) {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	out, err := os.Create(filepath.Join(dir, "lines"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := stream.New(stream.Options{
		Listen: []peer.Options{{Addr: "127.0.0.1:0"}}, To: []string{"-"}, Stdout: out, StateDir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		out.Close()
	})
	return s.Addrs()[0], func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
}

// TestStreamingResumesAfterRestart checks, for both protocols, that lines of the requested
// log arrive with the path of their file, and that a restarted probe sends no line twice.
func TestStreamingResumesAfterRestart(t *testing.T) {
	for _, ack := range []bool{false, true} {
		addr, got := receiver(t)
		b := newBench(t, func(o *Options) { o.Ack = ack })
		b.write("2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\none\n")
		b.write("2026_11_22_06_39.out/log_udp_complete", "#c_ip:1\nother\n")
		parameters := []string{"repository.url=" + addr, "log.folder=" + b.LogFolder + "/", "log.type=log_tcp_complete", "log.time=60"}
		token := b.submit(Streaming, "now + 1d", parameters...)
		first := filepath.Join(b.LogFolder, "2026_11_22_06_39.out/log_tcp_complete") + " "
		second := filepath.Join(b.LogFolder, "2026_11_22_07_39.out/log_tcp_complete") + " "
		want := first + "#c_ip:1\n" + first + "one\n"
		eventually(t, "first lines", func() bool { return got() == want })
		eventually(t, "first lines accepted", func() bool {
			s := b.Stats()
			return len(s) == 1 && s[0].Lines == 2 && s[0].Waiting == 0 && !s[0].LastSuccess.IsZero()
		})
		begin := time.Now()
		result := b.interrupt(token)
		if _, end := result.When.Times(begin); end.Before(begin) || end.After(time.Now()) {
			t.Errorf("the result has the scope %s", result.When)
		}
		b.stop()
		b.write("2026_11_22_06_39.out/log_tcp_complete", "two\n")
		// A link that leads out of log.folder is not followed.
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		linked := filepath.Join(b.LogFolder, "2026_11_22_07_09.out")
		if err := errors.Join(os.Mkdir(linked, 0o755), os.Symlink(secret, filepath.Join(linked, "log_tcp_complete"))); err != nil {
			t.Fatal(err)
		}
		b.write("2026_11_22_07_39.out/log_tcp_complete", "#c_ip:1\nthree\n")
		b.start(b.Options)
		b.submit(Streaming, "now + 1d", parameters...)
		want += first + "two\n" + second + "#c_ip:1\n" + second + "three\n"
		eventually(t, "further lines", func() bool { return got() == want })
		eventually(t, "the link", func() bool { return b.Stats()[0].Outside == 1 })
	}
}

// TestResumedExportWaitsForFolder checks that an export that resumes after a restart waits
// for its folder, which may not be mounted yet. It fails if its repository is no longer
// allowed.
func TestResumedExportWaitsForFolder(t *testing.T) {
	addr, got := receiver(t)
	b := newBench(t, nil)
	file := filepath.Join(b.StateDir, "component.state")
	restart := func(opt Options) {
		b.stop()
		b.start(opt)
		b.resumeDelay = time.Millisecond
		if err := b.jobs.Restore(file, nil); err != nil {
			t.Fatal(err)
		}
	}
	restart(b.Options)
	b.write("2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\none\n")
	token := b.submit(Streaming, "now + inf", "repository.url="+addr, "log.folder="+b.LogFolder, "log.type=log_tcp_complete", "log.time=60")
	eventually(t, "lines", func() bool { return strings.HasSuffix(got(), "one\n") })
	b.stop()
	if err := os.Rename(b.LogFolder, b.LogFolder+".away"); err != nil {
		t.Fatal(err)
	}
	restart(b.Options)
	eventually(t, "a retry", func() bool { return strings.Contains(b.logs.String(), "export cannot resume yet") })
	if err := os.Rename(b.LogFolder+".away", b.LogFolder); err != nil {
		t.Fatal(err)
	}
	b.write("2026_11_22_06_39.out/log_tcp_complete", "two\n")
	eventually(t, "further lines", func() bool { return strings.HasSuffix(got(), "two\n") })
	opt := b.Options
	opt.Peers = peer.Networks{netip.MustParsePrefix("192.0.2.0/24")}
	restart(opt)
	if got := b.refusal(token); !strings.Contains(got, "no network that this probe may send to") {
		t.Error(got)
	}
}

// TestSilenceIsLoggedOnce also checks that the first line after a silence is logged.
func TestSilenceIsLoggedOnce(t *testing.T) {
	addr, got := receiver(t)
	b := newBench(t, nil)
	b.minute = 20 * time.Millisecond
	b.submit(Streaming, "now + 1d", "repository.url="+addr, "log.folder="+b.LogFolder, "log.type=log_tcp_complete", "log.time=1")
	silent := func(want bool) func() bool {
		return func() bool { s := b.Stats(); return len(s) == 1 && s[0].Silent == want }
	}
	eventually(t, "silence", silent(true))
	b.write("2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\none\n")
	eventually(t, "lines", func() bool { return strings.HasSuffix(got(), "one\n") })
	eventually(t, "end of silence", func() bool { return strings.Contains(b.logs.String(), "lines arrive again") })
	if n := b.Stats()[0].Silences; n < 1 || n > int64(strings.Count(b.logs.String(), "no new line and no new log folder")) {
		t.Errorf("%d silences", n)
	}
}

// TestExportLogs checks that the repository receives all finished logs, and those of the
// newest folder once it is finished. The streams are removed when the specification ends,
// but not when the probe stops, because they resume after a restart.
func TestExportLogs(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Types = []string{"log_tcp_*", "log_udp_*"} })
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	pool, err := repository.OpenStores(ctx, repository.StoreOptions{To: []string{"copy:" + filepath.Join(dir, "copy")}, Jobs: 2, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	repo, err := mathproto.NewRepository(mathproto.RepositoryOptions{
		Listen: []peer.Options{{Addr: "127.0.0.1:0"}},
		Import: bulk.Options{
			Location: time.UTC, Jobs: 2, MaxRejects: bulk.DefaultMaxRejects, Poll: 20 * time.Millisecond,
			RetryTimeout: math.MaxInt64, StateDir: dir,
		},
		State: filepath.Join(dir, "math.json"), Stores: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	addr, done := repo.Addrs()[0], make(chan error, 1)
	go func() { done <- repo.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	row := "#c_ip:1 c_port:2\n10.0.0.1 1\n"
	for _, name := range []string{"2026_11_22_06_39.out", "2026_11_22_07_39.out"} {
		b.write(name+"/log_tcp_complete", row)
		b.write(name+"/log_udp_complete", row)
		b.write(name+"/log_http_complete", row)
	}
	// tstat returns the current contents of the folders. They are known without an
	// export, but Waiting is unknown until a running export has delivered a log.
	tstat := func() Tstat {
		b.watch.mu.Lock()
		b.watch.found.Looked = time.Time{}
		b.watch.mu.Unlock()
		return b.Tstat()
	}
	newest := time.Date(2026, 11, 22, 7, 39, 0, 0, time.UTC)
	if f := tstat(); !f.Newest.Equal(newest) || time.Since(f.Changed) > time.Hour || f.Finished != 2 || f.Bytes != int64(2*len(row)) || f.Waiting != 2 || f.LogErr+f.RRDErr != "" {
		t.Errorf("without an export: %+v", f)
	}
	token := b.submit(Log, "now + inf", "repository.url="+addr)
	file := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, "copy", "turin_"+filepath.Base(name), name)) // the file may not exist yet
		return string(text)
	}
	for _, name := range []string{"2026_11_22_06_39.out/log_tcp_complete", "2026_11_22_06_39.out/log_udp_complete"} {
		eventually(t, name, func() bool { return file(name) == row })
	}
	eventually(t, "status", func() bool {
		s := b.Stats()
		return s[0].Streams == 2 && s[0].Files == 2 && s[0].Bytes == int64(2*len(row))
	})
	if f := tstat(); f.Finished != 2 || f.Waiting != 0 {
		t.Errorf("after the export: %+v", f)
	}
	if file("2026_11_22_07_39.out/log_tcp_complete") != "" {
		t.Error("the newest folder is not finished")
	}
	b.write("2026_11_22_08_39.out/log_tcp_complete", row)
	eventually(t, "the next folder", func() bool { return file("2026_11_22_07_39.out/log_tcp_complete") == row })
	if result := b.interrupt(token); len(result.Rows) != 0 {
		t.Errorf("%v", result.Rows)
	}
	if _, err := os.Stat(filepath.Join(dir, "copy", "turin_log_http_complete")); err == nil {
		t.Error("a log that is not wanted was exported")
	}
	if list := repo.Stats(); len(list) != 0 {
		t.Errorf("streams after the end: %+v", list)
	}
	b.submit(Log, "now + inf", "repository.url="+addr)
	eventually(t, "the new streams", func() bool { return len(repo.Stats()) == 2 && b.Stats()[0].Streams == 2 })
	b.stop()
	if list := repo.Stats(); len(list) != 2 {
		t.Errorf("streams after a stop: %+v", list)
	}
}

// TestEndOfExportHidesNoError checks that an export that ends with its scope still reports
// errors other than the end of ctx.
func TestEndOfExportHidesNoError(t *testing.T) {
	b := newBench(t, nil)
	spec := b.Services()[0].Capability.Specification()
	if err := spec.SetParameter("repository.url", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	for want, lost := range map[string]error{"": nil, "points are lost": errors.New("points are lost")} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := b.run(RRD, func(ctx context.Context, _ *export) error {
			cancel(component.ErrScopeEnd)
			return errors.Join(fmt.Errorf("read: %w", context.Cause(ctx)), lost)
		})(ctx, spec)
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestTstatDescribesFolders checks counts of logs and RRDs, errors for missing folders,
// and that Waiting is -1 before a running export has delivered a log.
func TestTstatDescribesFolders(t *testing.T) {
	b := newBench(t, nil)
	for _, name := range []string{"a.rrd", "b.rrd", "rrd.conf"} {
		if err := os.WriteFile(filepath.Join(b.RRDFolder, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.write("2026_11_22_06_39.out/log_tcp_complete", "1\n")
	b.write("2026_11_22_07_39.out/log_tcp_complete", "1\n")
	b.Exporter.running = []*export{{label: Log, status: Export{Capability: Log}}}
	if f := b.Tstat(); f.RRDs != 2 || time.Since(f.NewestRRD) > time.Hour || f.Finished != 1 || f.Waiting != -1 || f.LogFolder != b.LogFolder || f.RRDFolder != b.RRDFolder {
		t.Errorf("%+v", f)
	}
	b.Exporter.running = nil
	gone := newBench(t, func(o *Options) { o.LogFolder, o.RRDFolder = o.LogFolder+"/gone", o.RRDFolder+"/gone" })
	if f := gone.Tstat(); !strings.Contains(f.LogErr, "gone") || !strings.Contains(f.RRDErr, "gone") || !f.Newest.IsZero() {
		t.Errorf("%+v", f)
	}
}

// TestRepeatedExportSendsAllLogs checks that the runs of a repeated specification export
// all logs that the repository lacks, as a specification that starts now does, and not
// only the logs since the start of the run.
func TestRepeatedExportSendsAllLogs(t *testing.T) {
	b := newBench(t, nil)
	b.drain = time.Millisecond
	for _, c := range []struct {
		when string
		all  bool
	}{
		{"now + inf", true},
		{"repeat now + inf / 1h { now + 10m }", true},
		{"2026-03-01 ... future", false},
	} {
		token := b.submit(Log, c.when, nobody)
		eventually(t, "the export", func() bool { return b.running(Log) == 1 })
		b.Exporter.mu.Lock()
		since := b.Exporter.running[0].since
		b.Exporter.mu.Unlock()
		if since.IsZero() != c.all {
			t.Errorf("%s: only logs since %v", c.when, since)
		}
		b.jobs.Interrupt(token, "ann")
		b.result(token)
	}
}
