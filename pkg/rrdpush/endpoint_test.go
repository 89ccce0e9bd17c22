//go:build linux

package rrdpush

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/graphite/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/peer/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile/rrdtest"
)

func endpointOptions(t testing.TB, dest string) EndpointOptions {
	t.Helper()
	opt := options(t, "", dest)
	opt.SpoolSize = 1 << 20
	return EndpointOptions{Target: opt.Target}
}

// post sends a body to an endpoint and returns the answer.
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
		{"application/json", `[["tcp_rtt_avg_in.prc50.rrd", 300, -1], ["../../x", 300, 1]]`, 200, "", "tstat.p._._x 1 300\n"},
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
		{"application/json", `[[` + file + `, 300, 1e999], ["a], NaN]\"\\", 300, 2]]`, 200, "", "tstat.p.a___NaN___ 2 300\n"},
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
	if sum := e.Stats(); sum.Posts != 6 || sum.Points != 6 || sum.Negative != 1 || sum.NotFinite != 4 || sum.Refused != 21 {
		t.Errorf("%+v", sum)
	}

	// Nobody without a name.
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

// TestEndpointAway: what the destination does not take is kept; when there is
// no room left the peer is told.
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

// python finds the values that Python writes and JSON does not have.
var python = regexp.MustCompile(`(,\s*)(NaN|-?Infinity)(\s*\])`)

func FuzzEndpoint(f *testing.F) {
	f.Add([]byte(`[["a", 1, NaN], ["b]", 2, -Infinity]]`))
	f.Add([]byte(`[["tcp_rtt_avg_in.avg.rrd", 1458855900.0, 7.125]]`))
	f.Add([]byte(`[["a", 1, 1], ["b", 2e3, -0.5]]`))
	naming, _ := rrdfile.NamingOf("default", nil)
	e := &Endpoint{opt: EndpointOptions{Target: Target{Naming: naming, Prefix: "t"}}}
	f.Fuzz(func(t *testing.T, body []byte) {
		var c EndpointStats
		metrics, err := e.metrics(bytes.NewReader(body), "p", &c)
		if err == nil && !json.Valid(python.ReplaceAll(body, []byte("${1}0${3}"))) {
			t.Errorf("%q taken", body)
		}
		if _, err := graphite.ParseText(graphite.AppendText(nil, metrics)); err != nil {
			t.Error(err)
		}
	})
}

// certificates makes those of a repository and of a probe.
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

// TestExport: a probe's push over TLS to an endpoint is in the repository's
// Whisper files what rrdtool fetch prints, under the name of the certificate.
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

// TestExportForm: the body is what the old exporter sends, in bounded
// requests, and each is sent until the answer is 200.
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
