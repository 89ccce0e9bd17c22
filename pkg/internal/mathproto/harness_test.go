package mathproto

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

var soak = flag.Bool("soak", false, "the whole numbers of folders, cuts and crashes, not a tenth")

// scale returns n in a soak test, otherwise a tenth of n.
func scale(n int) int {
	if *soak {
		return n
	}
	return n / 10
}

// quick is a short timing for tests.
var quick = timing{dial: 5 * time.Second, stall: 20 * time.Second, resume: 3, pause: time.Millisecond}

// patience is how long to wait for an event before the test fails.
const patience = 60 * time.Second

// logs collects log lines.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits until f returns true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// udp returns a log_udp_complete with n rows of 2016-03-24 21:37 UTC.
func udp(n int, fqdn string) string {
	return udpAt(time.UnixMilli(1458855462170), n, fqdn)
}

func udpAt(at time.Time, n int, fqdn string) string {
	var b strings.Builder
	b.WriteString("#c_ip:1 c_port:2 c_first_abs:3 fqdn:4\n")
	for i := range n {
		fmt.Fprintf(&b, "10.0.0.1 %d %d.000 %s\n", i, at.UnixMilli()+int64(i), fqdn)
	}
	return b.String()
}

func gz(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

func zst(text string) string {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return string(z.EncodeAll([]byte(text), nil))
}

// longAgo is a modification time at which files no longer grow.
var longAgo = time.Date(2016, 3, 25, 12, 0, 0, 0, time.UTC)

// oldProbe imitates math_probe. A test sets its files, list and faults. By
// default the list contains the files in the order of their creation.
type oldProbe struct {
	*httptest.Server
	t testing.TB

	mu    sync.Mutex
	order []string
	files map[string]oldFile
	list  func() (int, string)                              // replaces the list
	fault func(w http.ResponseWriter, r *http.Request) bool // answers a request for a file instead, if it returns true
	gets  map[string]int                                    // number of GET requests per file, including ranges
}

type oldFile struct {
	text  string
	mtime time.Time
}

func newOldProbe(t testing.TB) *oldProbe {
	p := &oldProbe{t: t, files: map[string]oldFile{}, gets: map[string]int{}}
	p.Server = httptest.NewServer(p)
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(p.Close)
	return p
}

func (p *oldProbe) addr() string { return p.Listener.Addr().String() }

func (p *oldProbe) put(name, text string) { p.putAt(name, text, longAgo) }

func (p *oldProbe) putAt(name, text string, mtime time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.files[name]; !ok {
		p.order = append(p.order, name)
	}
	p.files[name] = oldFile{text, mtime}
}

func (p *oldProbe) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// requestCount returns the number of GET requests for a file.
func (p *oldProbe) requestCount(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gets[name]
}

func (p *oldProbe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	list, fault := p.list, p.fault
	order := slices.Clone(p.order)
	f, ok := p.files[strings.TrimPrefix(r.URL.Path, "/")]
	if r.Method == http.MethodGet {
		p.gets[strings.TrimPrefix(r.URL.Path, "/")]++
	}
	p.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/ListDir/") {
		if list != nil {
			code, text := list()
			answer(w, code, text)
			return
		}
		answerJSON(w, textPlain, order)
		return
	}
	if fault != nil && fault(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, r.URL.Path, f.mtime, strings.NewReader(f.text))
}

// repo runs a Repository with a copy and a parquet store.
type repo struct {
	t    *testing.T
	dir  string
	opt  RepositoryOptions
	dest []string
	logs logs

	running *Repository
	addr    string
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
}

func newRepo(t *testing.T, change func(*repo)) *repo {
	r := &repo{t: t, dir: t.TempDir()}
	r.dest = []string{"copy:" + filepath.Join(r.dir, "copy"), "parquet:" + filepath.Join(r.dir, "parquet")}
	r.opt = RepositoryOptions{
		Listen: []peer.Options{{Addr: "127.0.0.1:0"}},
		Import: bulk.Options{
			Location: time.UTC, Jobs: 4, MaxRejects: bulk.DefaultMaxRejects, Poll: 20 * time.Millisecond,
			RetryTimeout: math.MaxInt64, StateDir: filepath.Join(r.dir, "state"),
		},
		Stores: r, State: filepath.Join(r.dir, "state", "math.json"), timing: quick,
	}
	r.opt.Log = r.logs.logger()
	if change != nil {
		change(r)
	}
	r.start()
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Log(r.logs.String())
		}
	})
	return r
}

// Check accepts every stream.
func (r *repo) Check(Stream) error { return nil }

// Open opens the stores of the test for a stream.
func (r *repo) Open(s Stream) (list []bulk.Destination, release func() error, err error) {
	var opened []*stores.Destination
	release = func() error {
		var errs []error
		for _, d := range opened {
			errs = append(errs, d.Close())
		}
		return errors.Join(errs...)
	}
	for _, to := range r.dest {
		d, err := stores.NewDestination(to, stores.Options{Log: r.opt.Log, Stream: s.Name, StreamType: s.Type})
		if err != nil {
			return nil, nil, err
		}
		list, opened = append(list, d), append(opened, d)
	}
	return list, release, nil
}

func (r *repo) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	repository, err := NewRepository(r.opt)
	if err != nil {
		r.t.Fatal(err)
	}
	r.running, r.addr = repository, repository.Addrs()[0]
	go func() {
		defer close(r.done)
		r.err = repository.Run(ctx)
	}()
}

func (r *repo) stop() {
	r.cancel()
	<-r.done
	if r.err != nil {
		r.t.Errorf("the repository ended with %v", r.err)
	}
}

// post sends a registration and returns the response.
func (r *repo) post(reg Registration) (int, string) {
	r.t.Helper()
	body, err := json.Marshal(reg)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.Post("http://"+r.addr+"/DBSImport", "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// register registers a stream of log_udp_complete. The test fails if the
// repository refuses it.
func (r *repo) register(stream, addr string) {
	r.t.Helper()
	if code, text := r.post(Registration{CallBackUrl: addr, StreamName: stream, StreamType: "log_udp_complete"}); code != 200 || text != "new entry created" {
		r.t.Fatalf("registration: %d %s", code, text)
	}
}

func (r *repo) get(path string) string {
	r.t.Helper()
	resp, err := http.Get("http://" + r.addr + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

func (r *repo) status(id int) (s StreamStats) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.get(fmt.Sprintf("/DBSImport/%d?status=1", id))), &s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// waitForPass waits until a pass that started after the call is complete.
func (r *repo) waitForPass(id int) {
	r.t.Helper()
	for range 2 { // the first may have started before the call
		last := r.status(id).LastPoll
		eventually(r.t, "a further poll", func() bool { return r.status(id).LastPoll.After(last) })
	}
}

// records returns the records of a key in one of the stores.
func (r *repo) records(dest string, key store.Key) []store.Record {
	r.t.Helper()
	ctx := context.Background()
	st, err := stores.Open(ctx, dest, stores.Options{ReadOnly: true, Stream: key.Probe, StreamType: "log_udp_complete"})
	if err != nil {
		r.t.Fatal(err)
	}
	defer st.Close()
	rs, err := st.Lookup(ctx, []store.Key{key})
	if err != nil {
		r.t.Fatal(err)
	}
	return rs
}

// waitStored waits until every store has the rows of a file exactly once. If
// text is not "", the copy must consist of text.
func (r *repo) waitStored(stream, listed, text string, rows int64) {
	r.t.Helper()
	folder := filepath.Base(filepath.Dir(listed))
	file, _ := compression.CutSuffix(filepath.Base(listed))
	key := store.Key{Probe: stream, Folder: folder, File: file}
	for _, d := range r.dest {
		var rs []store.Record
		eventually(r.t, fmt.Sprintf("%s in %s with %d rows", key, d, rows), func() bool {
			rs = r.records(d, key)
			return len(rs) == 1 && (rs[0].Rows == rows || strings.HasPrefix(d, "copy:"))
		})
	}
	if text != "" {
		path := filepath.Join(r.dir, "copy", stream, listed)
		eventually(r.t, "copy of "+path, func() bool {
			data, err := os.ReadFile(path)
			return err == nil && string(data) == text
		})
	}
}

// assertNotStored checks that no store has anything of a file.
func (r *repo) assertNotStored(stream, folder, file string) {
	r.t.Helper()
	for _, d := range r.dest {
		if rs := r.records(d, store.Key{Probe: stream, Folder: folder, File: file}); len(rs) > 0 {
			r.t.Errorf("%s has %v", d, rs)
		}
	}
}

// waitLogged waits until the log contains text.
func (r *repo) waitLogged(text string) {
	r.t.Helper()
	eventually(r.t, "log of "+text, func() bool { return strings.Contains(r.logs.String(), text) })
}

// runExporter runs an Exporter until the test ends or stop is called.
func runExporter(t *testing.T, change func(*ExporterOptions)) (addr string, l *logs, stop func()) {
	t.Helper()
	l = &logs{}
	opt := ExporterOptions{
		Listen: []peer.Options{{Addr: "127.0.0.1:0"}}, Stream: "{probe}_{type}", Probe: "p1", Location: time.UTC,
		Poll: 20 * time.Millisecond, Log: l.logger(), timing: quick,
	}
	change(&opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	p, err := NewExporter(opt)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the probe ended with %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return p.Addrs()[0], l, stop
}

// write creates a file below dir.
func write(t testing.TB, dir, name, text string) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// certificate creates a certificate of org.Probes.Probe-turin for the loopback
// address. Both sides use it.
func certificate(t testing.TB) peer.TLS {
	t.Helper()
	cert, key, ca := peertest.NewAuthority(t).Issue("own",
		pkix.Name{Organization: []string{"org"}, OrganizationalUnit: []string{"Probes"}, CommonName: "Probe-turin"})
	return peer.TLS{Cert: cert, Key: key, CA: ca}
}
