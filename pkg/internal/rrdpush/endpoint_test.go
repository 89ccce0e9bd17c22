//go:build linux

package rrdpush

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

func endpointOptions(t testing.TB, dest string) EndpointOptions {
	t.Helper()
	opt := options(t, "", dest)
	opt.SpoolSize = 1 << 20
	return EndpointOptions{Target: opt.Target}
}

// post sends a body to an endpoint and returns the response.
func post(e *Endpoint, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, exportPath, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

func TestEndpointAnswers(t *testing.T) {
	var out bytes.Buffer
	opt := endpointOptions(t, "-")
	opt.Stdout = &out
	e, err := NewEndpoint(opt)
	if err != nil {
		t.Fatal(err)
	}
	const file = `"tcp_rtt_avg_in.avg.rrd"`
	for _, c := range []struct {
		contentType, body string
		code              int
		text, line        string
	}{
		{"application/json", `[[` + file + `, 1458855900.0, 7.125]]`, 200, "", "tstat.p.tcp.rtt.in.Average 7.125 1458855900\n"},
		{"application/json", ` [ [` + file + `, 1458856200, 1e-7] , [` + file + `, 1458855900, 5] ] `, 200, "", "tstat.p.tcp.rtt.in.Average 5 1458855900\ntstat.p.tcp.rtt.in.Average 1e-07 1458856200\n"},
		{"application/json", `[]`, 200, "", ""},
		{"application/json", `[["tcp_rtt_avg_in.prc50.rrd", 300, -1], ["../../x", 300, 1], ["x.avg.rrd", 300, 1]]`, 200, "", ""},
		{"application/json; charset=utf-8", `[]`, 400, "Invalid format", ""},
		{"text/plain", `[]`, 400, "Invalid format", ""},
		{"", `[]`, 400, "Invalid format", ""},
		{"application/json", `{}`, 400, "Not a result (or exception)", ""},
		{"application/json", ``, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, 1]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, 1]] x`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, null]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, -1, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 1e300, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, NaN], [` + file + `, 600.0, 1], [` + file + `, 900, -Infinity ],[` + file + `,1200,Infinity]]`, 200, "", "tstat.p.tcp.rtt.in.Average 1 600\n"},
		{"application/json", `[[` + file + `, 300, 1e999], ["a], NaN]\"\\", 300, 2], [` + file + `, 600, 2]]`, 200, "", "tstat.p.tcp.rtt.in.Average 2 600\n"},
		{"application/json", `[[` + file + `, NaN, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, nan]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, "NaN"]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, 1],]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[[` + file + `, 300, 1] [` + file + `, 300, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[["` + strings.Repeat(`]\"`, maxItem) + `", 300, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[["", 300, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", `[["` + strings.Repeat("x", 256) + `", 300, 1]]`, 400, "Not a result (or exception)", ""},
		{"application/json", strings.Repeat("[", 100000), 400, "Not a result (or exception)", ""},
	} {
		out.Reset()
		w := post(e, c.contentType, c.body)
		if w.Code != c.code || w.Body.String() != c.text || out.String() != c.line {
			t.Errorf("%.100s: %d %q %q, want %d %q %q", c.body, w.Code, w.Body, &out, c.code, c.text, c.line)
		}
	}
	r := httptest.NewRequest(http.MethodGet, exportPath, nil)
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	if sum := e.Stats(); sum.Posts != 6 || sum.Points != 5 || sum.Negative != 1 || sum.NotFinite != 4 || sum.NotTstat != 3 || sum.Refused != 21 {
		t.Errorf("%+v", sum)
	}

	// Peers without a name are refused.
	e.close()
	opt.Probe = ""
	if e, err = NewEndpoint(opt); err != nil {
		t.Fatal(err)
	}
	defer e.close()
	if w := post(e, "application/json", `[]`); w.Code != http.StatusForbidden {
		t.Errorf("without a probe: %d", w.Code)
	}
}

// TestEndpointAway checks that points are spooled while the destination is down, and
// that the endpoint responds with 503 when the spool is full.
func TestEndpointAway(t *testing.T) {
	opt := endpointOptions(t, "graphite://127.0.0.1:1")
	opt.SpoolSize = 300
	e, err := NewEndpoint(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	codes := map[int]int{}
	for range 10 {
		codes[post(e, "application/json", `[["tcp_rtt_avg_in.avg.rrd", 300, 1]]`).Code]++
	}
	if codes[200] == 0 || codes[503] == 0 || codes[200]+codes[503] != 10 {
		t.Errorf("%v", codes)
	}
}

// python matches values that Python writes but JSON lacks.
var python = regexp.MustCompile(`(,\s*)(NaN|-?Infinity)(\s*\])`)

func FuzzEndpoint(f *testing.F) {
	f.Add([]byte(`[["tcp_a.avg.rrd", 1, NaN], ["b]", 2, -Infinity]]`))
	f.Add([]byte(`[["tcp_rtt_avg_in.avg.rrd", 1458855900.0, 7.125]]`))
	f.Add([]byte(`[["tcp_a.avg.rrd", 1, 1], ["tcp_a.prc50.rrd", 2e3, -0.5]]`))
	naming, _ := rrdfile.NamingOf("default", nil)
	e := &Endpoint{opt: EndpointOptions{Target: Target{Naming: naming, Prefix: "t"}, MaxMetrics: 10}, seed: maphash.MakeSeed()}
	f.Fuzz(func(t *testing.T, body []byte) {
		var c EndpointStats
		var metrics []graphite.Metric
		from := &sender{metrics: map[uint64]struct{}{}}
		err := e.read(bytes.NewReader(body), "p", from, &c, func(m []graphite.Metric) error {
			metrics = append(metrics, m...)
			return nil
		})
		if err == nil && !json.Valid(python.ReplaceAll(body, []byte("${1}0${3}"))) {
			t.Errorf("%q taken", body)
		}
		if _, err := graphite.ParseText(graphite.AppendText(nil, metrics)); err != nil {
			t.Error(err)
		}
	})
}

// certificates creates certificates of a repository and of a probe.
func certificates(t *testing.T) (repository, probe peer.TLS) {
	t.Helper()
	a := peertest.NewAuthority(t)
	files := func(name string, subject pkix.Name) peer.TLS {
		cert, key, ca := a.Issue(name, subject)
		return peer.TLS{Cert: cert, Key: key, CA: ca}
	}
	return files("repository", pkix.Name{CommonName: "repository"}),
		files("probe", pkix.Name{Organization: []string{"org.mplane.polito"}, CommonName: "tstat-turin"})
}

// TestExport checks a push over TLS to an endpoint. The repository's Whisper files
// must have the points that rrdtool fetch prints, under the name in the certificate.
func TestExport(t *testing.T) {
	dir := rrdtest.Samples(t)
	out := t.TempDir()
	schemas := filepath.Join(out, "storage-schemas.conf")
	if err := os.WriteFile(schemas, []byte(carbontest.YearsOf300), 0o644); err != nil {
		t.Fatal(err)
	}
	server, client := certificates(t)
	ctx, stop := context.WithCancelCause(t.Context())
	done := make(chan error)
	opt := endpointOptions(t, "whisper:"+filepath.Join(out, "w")+"?schemas="+schemas)
	opt.Probe = ""
	opt.Listen = []peer.Options{{Addr: ":0", TLS: server}}
	e, err := NewEndpoint(opt)
	if err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	go func() { done <- e.Run(ctx) }()
	push1 := options(t, dir, "https://"+e.Addrs()[0])
	push1.TLS = client
	want := expected(t, dir, false)
	if got := push(t, push1); got.Points != int64(want.Count()) {
		t.Errorf("%+v, want %d points", got, want.Count())
	}
	if again := push(t, push1); again.Points != 0 {
		t.Errorf("again: %+v", again)
	}
	stop(stopped)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if sum := e.Stats(); sum.Points != int64(want.Count()) || sum.Posts < 2 {
		t.Errorf("%+v", sum)
	}
	renamed := carbontest.Points{}
	for path, points := range want {
		renamed["tstat.turin."+strings.TrimPrefix(path, "tstat.p.")] = points
	}
	compare(t, carbontest.Read(t, filepath.Join(out, "w"), begin, end), renamed)
}

// TestExportForm checks that requests have limited size and the form of the old
// exporter, and that each is retried until the response is 200.
func TestExportForm(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		n++
		if n%2 == 1 {
			http.Error(w, "busy", http.StatusInternalServerError)
			return
		}
		if r.URL.Path != "/register/result/indirect_export" || r.Header.Get("Content-Type") != "application/json" || r.Method != http.MethodPost {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		bodies = append(bodies, string(body))
	}))
	defer server.Close()
	e, err := newExporter(server.URL, peer.TLS{}, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	points := []graphite.Point{{Time: 1458855900, Value: 5}, {Time: 1458856200, Value: 1.0 / 3}, {Time: 1458856500, Value: 1e-9}, {Time: 1458856800, Value: 1e20},
		{Time: 1458857100, Value: math.Inf(1)}, {Time: 1458857100, Value: math.Inf(-1)}, {Time: 1458857100, Value: math.NaN()}}
	if err := e.Send(t.Context(), []graphite.Metric{{Path: "a.avg.rrd", Points: points}}); err != nil {
		t.Fatal(err)
	}
	want := `[["a.avg.rrd", 1458855900.0, 5.0], ["a.avg.rrd", 1458856200.0, 0.3333333333333333], ["a.avg.rrd", 1458856500.0, 1e-09], ["a.avg.rrd", 1458856800.0, 1e+20]]`
	if len(bodies) != 1 || bodies[0] != want {
		t.Errorf("%q, want %q", bodies, want)
	}
	bodies = nil
	if err := e.Send(t.Context(), []graphite.Metric{{Path: "x", Points: make([]graphite.Point, exportPoints*2+1)}}); err != nil {
		t.Fatal(err)
	}
	if len(bodies) != 3 || strings.Count(bodies[2], `"x"`) != 1 {
		t.Errorf("%d requests", len(bodies))
	}
	e.retry = 0
	n = 0
	if err := e.Send(t.Context(), []graphite.Metric{{Path: "x", Points: points}}); !errors.Is(err, graphite.ErrUnavailable) || !strings.Contains(err.Error(), "500") {
		t.Error(err)
	}
}

// postFrom sends a body from an address and returns the response.
func postFrom(e *Endpoint, addr string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, exportPath, body)
	r.RemoteAddr = addr
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

// newEndpoint opens an endpoint that prints the points it stores and names probes
// after their addresses.
func newEndpoint(t *testing.T, out, log io.Writer, maxMetrics int) *Endpoint {
	t.Helper()
	opt := endpointOptions(t, "-")
	opt.Stdout, opt.Log, opt.Probes, opt.MaxMetrics = out, slog.New(slog.NewTextHandler(log, nil)), &peer.Probes{}, maxMetrics
	e, err := NewEndpoint(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.close() })
	return e
}

// TestEndpointLeavesOut checks that points of unknown files, of metrics beyond the
// limit and of the future are left out, counted and logged once. Other points of the
// same POST are stored.
func TestEndpointLeavesOut(t *testing.T) {
	var out, log bytes.Buffer
	e := newEndpoint(t, &out, &log, 2)
	now := time.Now().Unix()
	body := fmt.Sprintf(`[["evil_1.rrd", 300, 1], ["tcp_cl_p_in.avg.rrd", 300, 1], ["tcp_cl_p_in.avg.rrd", %d, 2], ["tcp_cl_p_in.avg.rrd", %d, 3],
		["udp_cl_p_in.avg.rrd", 300, 4], ["ip_len_in.avg.rrd", 300, 5], ["evil_2.rrd", 300, 1]]`, now+86300, now+86500)
	for range 2 { // known metrics do not count again
		if w := postFrom(e, "10.0.0.1:1", strings.NewReader(body)); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	want := fmt.Sprintf("tstat.10_0_0_1.tcp.cl_p.in.Average 1 300\ntstat.10_0_0_1.tcp.cl_p.in.Average 2 %d\ntstat.10_0_0_1.udp.in.flow_length.Average 4 300\n", now+86300)
	if out.String() != want+want {
		t.Errorf("stored %q, want twice %q", &out, want)
	}
	out.Reset()
	postFrom(e, "10.0.0.2:1", strings.NewReader(`[["ip_len_in.avg.rrd", 300, 6]]`))
	if out.String() != "tstat.10_0_0_2.ip.packet_length.in.Average 6 300\n" {
		t.Errorf("another probe: %q", &out)
	}
	if s := e.Stats(); s.NotTstat != 4 || s.OverLimit != 2 || s.Ahead != 2 || s.Points != 7 || s.Posts != 3 {
		t.Errorf("%+v", s)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 ||
		!strings.Contains(text, "peer=10.0.0.1:1 probe=10_0_0_1 not_tstat=2 over_limit=1 limit=2 ahead=1") {
		t.Errorf("log: %s", text)
	}
}

// countedBody counts the bytes read from a body.
type countedBody struct {
	io.Reader
	n atomic.Int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// TestEndpointReadsOnePostOfAProbe checks that only one POST of a probe is read at a
// time. Waiting POSTs must not occupy the places of other probes.
func TestEndpointReadsOnePostOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const body = `[["tcp_cl_p_in.avg.rrd", 300, 1]]`
		e := newEndpoint(t, io.Discard, io.Discard, 0)
		slow, finish := io.Pipe()
		var codes atomic.Int64
		go func() { codes.Add(int64(postFrom(e, "10.0.0.1:1", slow).Code)) }()
		synctest.Wait()
		waiting := make([]countedBody, 2*maxPosts)
		for i := range waiting {
			waiting[i].Reader = strings.NewReader(body)
			go func() { codes.Add(int64(postFrom(e, "10.0.0.1:2", &waiting[i]).Code)) }()
		}
		synctest.Wait()
		for i := range waiting {
			if n := waiting[i].n.Load(); n > 0 {
				t.Errorf("%d bytes of a POST were read while another of its probe was", n)
			}
		}
		if w := postFrom(e, "10.0.0.2:1", strings.NewReader(body)); w.Code != 200 {
			t.Errorf("another probe: %d", w.Code)
		}
		io.WriteString(finish, body)
		finish.Close()
		synctest.Wait()
		if want := int64(200 * (len(waiting) + 1)); codes.Load() != want {
			t.Errorf("codes add up to %d, want %d", codes.Load(), want)
		}
	})
}

// sends is a slow sink that records how many metrics it was sent at once.
type sends struct {
	metrics, points []int
	each            time.Duration // per metric
}

func (s *sends) Send(_ context.Context, metrics []graphite.Metric) error {
	s.metrics = append(s.metrics, len(metrics))
	s.points = append(s.points, graphite.Count(metrics))
	time.Sleep(s.each * time.Duration(len(metrics)))
	return nil
}

func (s *sends) Close() error { return nil }

// TestEndpointStoresLongListsInParts checks that memory and the waiting time of other
// probes do not grow with the length of a list, even if the destination is slow.
func TestEndpointStoresLongListsInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t, io.Discard, io.Discard, 0)
		var body strings.Builder
		for i := range batchOf + 1 {
			fmt.Fprintf(&body, `%c["tcp_port_dst_in.idx%d.rrd", %d, 1]`, "[,"[min(i, 1)], i%(3*mostMetrics), 300*i)
		}
		for _, c := range []struct {
			each time.Duration
			most int // maximum metrics at once
		}{{0, mostMetrics}, {time.Millisecond, 200}, {20 * time.Millisecond, 20}, {time.Second, fewestMetrics}} {
			sink := &sends{each: c.each}
			e.sink = sink
			if w := postFrom(e, "10.0.0.1:1", strings.NewReader(body.String()+"]")); w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			sum := 0
			for _, n := range sink.metrics {
				sum += n
			}
			if most := slices.Max(sink.metrics); most > c.most || most < c.most/2 || sum != 3*mostMetrics+1 || slices.Max(sink.points) > batchOf {
				t.Errorf("%v a metric: %d metrics sent, at most %d at once with %d points, want %d metrics", c.each, sum, most, slices.Max(sink.points), c.most)
			}
			sink.metrics = nil
			if w := postFrom(e, "10.0.0.1:1", strings.NewReader(body.String())); w.Code != 400 || len(sink.metrics) == 0 {
				t.Errorf("without its end: %d, sent %v", w.Code, sink.metrics)
			}
		}
	})
}

// TestEndpointBoundsProbes checks that the number of probes with metrics is limited,
// and that probes without metrics are forgotten.
func TestEndpointBoundsProbes(t *testing.T) {
	e := newEndpoint(t, io.Discard, io.Discard, 0)
	from := func(i int, body string) int {
		return postFrom(e, fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), strings.NewReader(body)).Code
	}
	const metric = `[["tcp_cl_p_in.avg.rrd", 300, 1]]`
	for i := range maxProbes + 1 {
		if code := from(i, `[["x", 300, 1]]`); code != 200 {
			t.Fatalf("probe %d without a metric: %d", i, code)
		}
	}
	for i := range maxProbes {
		if code := from(i, metric); code != 200 {
			t.Fatalf("probe %d: %d", i, code)
		}
	}
	if code := from(maxProbes, metric); code != 503 {
		t.Errorf("a probe too many: %d", code)
	}
	if code := from(0, metric); code != 200 {
		t.Errorf("a known probe: %d", code)
	}
}

// TestEndpointSlowPostsHoldNoPlace checks that stalled POSTs do not delay POSTs of
// other probes, or of other hosts with the same probe name.
func TestEndpointSlowPostsHoldNoPlace(t *testing.T) {
	for _, shared := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const body = `[["tcp_cl_p_in.avg.rrd", 300, 1]]`
			e := newEndpoint(t, io.Discard, io.Discard, 0)
			if shared {
				e.opt.Probes, e.opt.Probe = nil, "all"
			}
			var codes atomic.Int64
			var finish []*io.PipeWriter
			for i := range 2 * maxPosts {
				slow, w := io.Pipe()
				finish = append(finish, w)
				go func() { codes.Add(int64(postFrom(e, fmt.Sprintf("10.0.1.%d:1", i), slow).Code)) }()
				io.WriteString(w, body[:10])
			}
			time.Sleep(time.Second)
			answered := make(chan int, 1)
			go func() { answered <- postFrom(e, "10.0.0.2:1", strings.NewReader(body)).Code }()
			select {
			case code := <-answered:
				if code != 200 {
					t.Errorf("another host: %d", code)
				}
			case <-time.After(time.Minute):
				t.Error("another host waits for them")
			}
			for _, w := range finish {
				io.WriteString(w, body[10:])
				w.Close()
			}
			synctest.Wait()
			if want := int64(200 * len(finish)); codes.Load() != want {
				t.Errorf("codes add up to %d, want %d", codes.Load(), want)
			}
		})
	}
}

// TestExportErrorIsOneLine checks that a repository cannot add lines to the messages of a
// probe.
func TestExportErrorIsOneLine(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "busy\r\ntstatrepo: all points sent\x1b[1m", http.StatusServiceUnavailable)
	}))
	defer s.Close()
	e, err := newExporter(s.URL, peer.TLS{}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	err = e.Send(t.Context(), []graphite.Metric{{Path: "x.rrd", Points: []graphite.Point{{Time: 300, Value: 1}}}})
	if !errors.Is(err, graphite.ErrUnavailable) || strings.ContainsAny(err.Error(), "\r\n\x1b") || !strings.Contains(err.Error(), `answers 503 Service Unavailable "busy`) {
		t.Errorf("got %v", err)
	}
}

// stuck is a sink whose Send waits until its context is done.
type stuck struct{ begun, ended chan struct{} }

func (s *stuck) Send(ctx context.Context, _ []graphite.Metric) error {
	close(s.begun)
	<-ctx.Done()
	time.Sleep(time.Millisecond)
	close(s.ended)
	return context.Cause(ctx)
}

func (s *stuck) Close() error { return nil }

// TestEndpointEndsStores checks that an endpoint that ends aborts what it stores, and
// releases its destination only afterwards. The next endpoint may use the same spool.
func TestEndpointEndsStores(t *testing.T) {
	e, err := NewEndpoint(endpointOptions(t, "graphite://127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	s := &stuck{make(chan struct{}), make(chan struct{})}
	e.sink = s
	const body = `[["tcp_rtt_avg_in.avg.rrd", 300, 1]]`
	code := make(chan int, 1)
	go func() { code <- post(e, "application/json", body).Code }()
	<-s.begun
	if err := e.close(); err != nil {
		t.Error(err)
	}
	select {
	case <-s.ended:
	default:
		t.Fatal("closed while points were stored")
	}
	if c := <-code; c != http.StatusServiceUnavailable {
		t.Errorf("answer %d", c)
	}
	if c := post(e, "application/json", body).Code; c != http.StatusServiceUnavailable {
		t.Errorf("answer %d after the end", c)
	}
}

// TestEndpointLogsWaitingPoints checks that an endpoint that ends logs the points that
// wait for its destination. An endpoint with another destination does not send them.
func TestEndpointLogsWaitingPoints(t *testing.T) {
	for _, posts := range []int{0, 1} {
		var log bytes.Buffer
		opt := endpointOptions(t, "graphite://127.0.0.1:1")
		opt.Log = slog.New(slog.NewTextHandler(&log, nil))
		e, err := NewEndpoint(opt)
		if err != nil {
			t.Fatal(err)
		}
		for range posts {
			if w := post(e, "application/json", `[["tcp_rtt_avg_in.avg.rrd", 1458855900, 1]]`); w.Code != 200 {
				t.Fatal(w.Code, w.Body)
			}
		}
		if err := e.close(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), `msg="points wait in the spool" url=graphite://127.0.0.1:1 bytes=`); n != posts {
			t.Errorf("%d posts, log: %s", posts, &log)
		}
	}
}

// TestEndpointCountsLeftOutOnce checks that points left out of a POST that is not accepted
// are not counted: the probe sends it again.
func TestEndpointCountsLeftOutOnce(t *testing.T) {
	opt := endpointOptions(t, "graphite://127.0.0.1:1")
	opt.SpoolSize = 1
	e, err := NewEndpoint(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	const body = `[["tcp_rtt_avg_in.avg.rrd", 300, 1], ["x.rrd", 300, 1], ["tcp_rtt_avg_in.prc50.rrd", 300, -1], ["tcp_rtt_avg_in.avg.rrd", 600, NaN]]`
	for range 3 {
		if w := post(e, "application/json", body); w.Code != http.StatusServiceUnavailable {
			t.Fatal(w.Code, w.Body)
		}
	}
	if s := e.Stats(); s.Refused != 3 || s.NotTstat+s.Negative+s.NotFinite > 0 {
		t.Errorf("refused: %+v", s)
	}
	e.sink = &sends{}
	if w := post(e, "application/json", body); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if s := e.Stats(); s.Points != 1 || s.NotTstat != 1 || s.Negative != 1 || s.NotFinite != 1 {
		t.Errorf("accepted: %+v", s)
	}
}

// TestEndpointCountsTooOld checks that an endpoint counts the points that are older than
// the retention of their Whisper files.
func TestEndpointCountsTooOld(t *testing.T) {
	e, err := NewEndpoint(endpointOptions(t, "whisper:"+t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	now := time.Now().Unix() / 300 * 300
	for _, at := range []int64{now, now - 3*365*86400} { // the file keeps 797 days
		if w := post(e, "application/json", fmt.Sprintf(`[["tcp_rtt_avg_in.avg.rrd", %d, 1]]`, at)); w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
	}
	if s := e.Stats(); s.Points != 2 || s.TooOld != 1 || s.NotStored() != 1 {
		t.Errorf("%+v", s)
	}
}
