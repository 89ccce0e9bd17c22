package remotewrite

import (
	"context"
	"encoding/pem"
	"errors"
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
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

func TestParsePath(t *testing.T) {
	for path, want := range map[string]string{
		"tstat.turin.tcp_rtt_avg{direction=in,percentile=95}": `tstat_tcp_rtt_avg{direction="in",percentile="95",probe="turin"}`,
		"my-site.2.p_1.rrd{file=a.b-c}":                       `my_site_2_rrd{file="a.b-c",probe="p_1"}`,
		"9t.p.x{statistic=avg}":                               `_9t_x{probe="p",statistic="avg"}`,
		"tstat.p.x{statistic=avg}.ds\"1":                      `tstat_x{probe="p",source="ds_1",statistic="avg"}`,
	} {
		got, err := ParsePath(path)
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "a.b.c", "a.b{c=d}", "a.b.c{", "a.b.c{}", "a.b.c{d}", "a.b.c{d=}", "a.b.c{d=e,d=f}", "a.b.c{probe=x}", "a.b.c{__name__=x}",
		"a.b.c{d=e}f", "a.b.c{d=e}.", "a.b.c{1=2}", "a.b.{c=d}", "a.b.c{d={}", "...x{a=b}", "tstat.p.a:b c{d=e}x"} {
		if got, err := ParsePath(path); err == nil {
			t.Errorf("%q: %s", path, got)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("tstat.p.x{a=b,c=d}.s")
	f.Fuzz(func(t *testing.T, path string) {
		s, err := ParsePath(path)
		if err != nil {
			return
		}
		if s[0].Name != nameLabel || !metricForm.MatchString(s[0].Value) {
			t.Errorf("%q: %s", path, s)
		}
		for i, l := range s[1:] {
			if !labelForm.MatchString(l.Name) || l.Name <= s[i].Name || l.Value == "" {
				t.Errorf("%q: label %q", path, l)
			}
		}
	})
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]Server{
		"prometheus+http://h":           {URL: "http://h:9090/api/v1/write", Timeout: time.Minute},
		"prometheus+https://h/x/y%20z":  {URL: "https://h:443/x/y%20z", Timeout: time.Minute},
		"prometheus+http://[::1]:1/":    {URL: "http://[::1]:1/api/v1/write", Timeout: time.Minute},
		"prometheus+https://a%40b@h:1?": {},
		"prometheus+https://u@h:1?password-file=/p&timeout=2s&ca=/ca&header=X-Scope-OrgID:a,X-B:c": {URL: "https://h:1/api/v1/write", User: "u",
			PasswordFile: "/p", Timeout: 2 * time.Second, TLS: want("/ca"), Header: "X-Scope-OrgID:a,X-B:c"},
		"prometheus+http://h?bearer-token-file=/t&headers-file=/h":    {URL: "http://h:9090/api/v1/write", BearerFile: "/t", HeadersFile: "/h", Timeout: time.Minute},
		"prometheus+http://h?bearer_token_file=/t":                    {URL: "http://h:9090/api/v1/write", BearerFile: "/t", Timeout: time.Minute},
		"prometheus+http://u:secret@h?password-file=/p":               {},
		"prometheus+http://u@h":                                       {},
		"prometheus+http://h?password-file=/p":                        {},
		"prometheus+http://u@h?password-file=/p&bearer-token-file=/t": {},
		"prometheus+http://h?ca=/ca":                                  {},
		"prometheus+https://h?cert=/c":                                {},
		"prometheus+http://a,b":                                       {},
		"prometheus+http://":                                          {},
		"prometheus+http://h:x":                                       {},
		"prometheus+http://h?timeout=-1s":                             {},
		"prometheus+http://h?header=X":                                {},
		"prometheus+http://h?header=X-Api-Key:secret":                 {},
		"prometheus+http://h?header=Authorization:secret":             {},
		"prometheus+http://h?header=Content-Type:secret":              {},
		"prometheus+http://h?unknown=1":                               {},
	} {
		got, err := ParseURL(text)
		if want == (Server{}) {
			if !hint.IsUsage(err) || strings.Contains(err.Error(), "secret@") || strings.Contains(err.Error(), ":secret") {
				t.Errorf("%s: %+v, %v", text, got, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if strings.Contains(dest.Redact(text), "xxxxx") {
			t.Errorf("%s has a secret: %s", text, dest.Redact(text))
		}
	}
}

func want(ca string) (t struct{ Cert, Key, CA string }) {
	t.CA = ca
	return t
}

// decode returns the points in the body of a request.
func decode(t testing.TB, body []byte) (got carbontest.Points) {
	t.Helper()
	b, err := snappy.Decode(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	// fields calls f with each field of a message.
	fields := func(b []byte, f func(num protowire.Number, value []byte, n uint64)) {
		for len(b) > 0 {
			num, kind, n := protowire.ConsumeTag(b)
			b = b[max(n, 0):]
			var value []byte
			var number uint64
			switch kind {
			case protowire.BytesType:
				value, n = protowire.ConsumeBytes(b)
			case protowire.VarintType:
				number, n = protowire.ConsumeVarint(b)
			case protowire.Fixed64Type:
				number, n = protowire.ConsumeFixed64(b)
			}
			if n <= 0 {
				t.Fatal("damaged")
			}
			b = b[n:]
			f(num, value, number)
		}
	}
	got = carbontest.Points{}
	fields(b, func(_ protowire.Number, series []byte, _ uint64) {
		var s Series
		points := map[int64]float64{}
		fields(series, func(num protowire.Number, value []byte, _ uint64) {
			if num == 1 {
				var l Label
				fields(value, func(num protowire.Number, value []byte, _ uint64) {
					if num == 1 {
						l.Name = string(value)
					} else {
						l.Value = string(value)
					}
				})
				s = append(s, l)
				return
			}
			var p graphite.Point
			fields(value, func(num protowire.Number, _ []byte, n uint64) {
				if num == 1 {
					p.Value = math.Float64frombits(n)
				} else {
					p.Time = int64(n) / 1000
				}
			})
			points[p.Time] = p.Value
		})
		got[s.String()] = points
	})
	return got
}

// server is a remote write server whose responses a test chooses.
type server struct {
	*httptest.Server
	requests int
	got      carbontest.Points
	header   http.Header
	// answer returns the status and body of the response to a request. Status
	// 0 accepts the points.
	answer func(carbontest.Points) (int, string)
}

func serve(t testing.TB, answer func(carbontest.Points) (int, string)) *server {
	s := &server{got: carbontest.Points{}, answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/v1/write" {
		http.NotFound(w, r)
		return
	}
	s.requests++
	s.header = r.Header
	body, _ := io.ReadAll(r.Body)
	points := decode(errorless{}, body)
	if status, text := s.answer(points); status != 0 {
		http.Error(w, text, status)
		return
	}
	for series, p := range points {
		if s.got[series] == nil {
			s.got[series] = map[int64]float64{}
		}
		for at, v := range p {
			s.got[series][at] = v
		}
	}
}

// errorless is a testing.TB whose Fatal panics, which fails the request instead of
// the test.
type errorless struct{ testing.TB }

func (errorless) Helper()        {}
func (errorless) Fatal(a ...any) { panic(fmt.Sprint(a...)) }

// sink returns a sink for a server, and the counts of points that it leaves out.
func sink(t testing.TB, url string, change ...func(*Options)) (*Sink, *LeftOut) {
	t.Helper()
	server, err := ParseURL("prometheus+" + url)
	if err != nil {
		t.Fatal(err)
	}
	left := &LeftOut{}
	opt := Options{Server: server, LeftOut: left.Add}
	for _, c := range change {
		c(&opt)
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, left
}

// metrics returns n metrics with points at times. The value of a point is its time.
func metrics(n int, times ...int64) (list []graphite.Metric) {
	for i := range n {
		m := graphite.Metric{Path: fmt.Sprintf("tstat.p.x{index=%d}", i)}
		for _, at := range times {
			m.Points = append(m.Points, graphite.Point{Time: at, Value: float64(at)})
		}
		list = append(list, m)
	}
	return list
}

// steps returns n times at multiples of 300 s. The last one is the last multiple
// before end.
func steps(end time.Time, n int) (times []int64) {
	last := end.Unix() / 300 * 300
	for i := range n {
		times = append(times, last-int64(n-1-i)*300)
	}
	return times
}

func TestSend(t *testing.T) {
	s := serve(t, func(carbontest.Points) (int, string) { return 0, "" })
	dir := t.TempDir()
	for file, text := range map[string]string{"token": "abc\r\nrest", "headers": "# comment\n\nX-Api-Key: k e y\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, left := sink(t, s.URL+"?header=X-Scope-OrgID:tenant&headers-file="+dir+"/headers&bearer-token-file="+dir+"/token")
	times := steps(time.Now(), 3)
	m := metrics(2, times...)
	m[0].Points[1].Value = math.Inf(1)
	m = append(m, graphite.Metric{Path: "no.labels", Points: m[1].Points},
		graphite.Metric{Path: "tstat.p.y{index=1}", Points: []graphite.Point{{Time: time.Now().Add(time.Hour).Unix(), Value: 1}}})
	if err := k.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if n := s.got.Count(); n != 5 || s.got[`tstat_x{index="1",probe="p"}`][times[0]] != float64(times[0]) {
		t.Errorf("%d points: %v", n, s.got)
	}
	for name, want := range map[string]string{"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy",
		"X-Prometheus-Remote-Write-Version": "0.1.0", "X-Scope-Orgid": "tenant", "X-Api-Key": "k e y", "Authorization": "Bearer abc"} {
		if got := s.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if *left != (LeftOut{Refused: 3, Ahead: 1}) {
		t.Errorf("%+v", *left)
	}
}

func TestBasicAuthenticationFollowsItsFile(t *testing.T) {
	s := serve(t, func(carbontest.Points) (int, string) { return 0, "" })
	file := filepath.Join(t.TempDir(), "password")
	k, _ := sink(t, strings.Replace(s.URL, "://", "://us%20er@", 1)+"?password-file="+file, func(o *Options) {
		if _, err := New(*o); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("without the file: %v", err)
		}
		if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	for _, password := range []string{"old", "new"} {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := k.Send(t.Context(), metrics(1, 300)); err != nil {
			t.Fatal(err)
		}
		r := http.Request{Header: s.header}
		if user, got, ok := r.BasicAuth(); !ok || user != "us er" || got != password {
			t.Errorf("%s, %s, %v", user, got, ok)
		}
	}
}

func TestTLS(t *testing.T) {
	s := serve(t, func(carbontest.Points) (int, string) { return 0, "" })
	secure := httptest.NewTLSServer(s)
	defer secure.Close()
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	k, _ := sink(t, secure.URL+"?ca="+ca)
	if err := k.Send(t.Context(), metrics(1, 300)); err != nil || s.got.Count() != 1 {
		t.Errorf("%v, %v", err, s.got)
	}
	k, _ = sink(t, secure.URL)
	if err := k.Send(t.Context(), metrics(1, 300)); !errors.Is(err, graphite.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown CA: %v", err)
	}
}

// TestRefusedPointsAreLeftOut checks that all points arrive that the server does
// not refuse.
func TestRefusedPointsAreLeftOut(t *testing.T) {
	now := time.Now()
	bad := func(refuse func(series string, at int64) bool) func(carbontest.Points) bool {
		return func(p carbontest.Points) bool {
			for series, points := range p {
				for at := range points {
					if refuse(series, at) {
						return true
					}
				}
			}
			return false
		}
	}
	const poor = `tstat_x{index="7",probe="p"}`
	week := now.Add(-7 * 24 * time.Hour).Unix()
	for name, c := range map[string]struct {
		metrics  []graphite.Metric
		status   int
		text     string
		refuse   func(series string, at int64) bool
		want     LeftOut
		requests int // at most
	}{
		"a series":          {metrics(20, steps(now, 5)...), 400, "out of order sample", func(s string, _ int64) bool { return s == poor }, LeftOut{OutOfOrder: 5}, 80},
		"duplicates":        {metrics(20, steps(now, 5)...), 409, "duplicate sample for timestamp", func(s string, _ int64) bool { return s == poor }, LeftOut{Refused: 5}, 80},
		"a bug of 500":      {metrics(20, steps(now, 1)...), 500, "what is that", func(s string, _ int64) bool { return s == poor }, LeftOut{Refused: 1}, 20},
		"too large":         {metrics(20, steps(now, 1)...), 413, "", func(s string, _ int64) bool { return s == poor }, LeftOut{Refused: 1}, 20},
		"the first":         {metrics(20, steps(now, 1)...), 500, "", func(s string, _ int64) bool { return s == `tstat_x{index="0",probe="p"}` }, LeftOut{Refused: 1}, 20},
		"the last":          {metrics(20, steps(now, 1)...), 500, "", func(s string, _ int64) bool { return s == `tstat_x{index="19",probe="p"}` }, LeftOut{Refused: 1}, 20},
		"ten bugs":          {metrics(20, steps(now, 1)...), 500, "", func(s string, _ int64) bool { return strings.Contains(s, `"1`) && !strings.Contains(s, `"1"`) }, LeftOut{Refused: 10}, 60},
		"history":           {metrics(10, steps(now, 4000)...), 400, "out of bounds", func(_ string, at int64) bool { return at < week }, LeftOut{TooOld: 10 * count(steps(now, 4000), week)}, 60},
		"history of 2.42":   {metrics(10, steps(now, 4000)...), 500, "too old sample", func(_ string, at int64) bool { return at < week }, LeftOut{TooOld: 10 * count(steps(now, 4000), week)}, 60},
		"all too old":       {metrics(10, steps(now.Add(-time.Hour), 4000)...), 400, "out of bounds", func(string, int64) bool { return true }, LeftOut{TooOld: 40_000}, 160},
		"the last hours":    {metrics(10, steps(now, 30)...), 400, "out of bounds", func(_ string, at int64) bool { return at < now.Unix()-3600 }, LeftOut{TooOld: 10 * count(steps(now, 30), now.Unix()-3600)}, 120},
		"another's message": {metrics(3, steps(now, 1)...), 400, "err-mimir-sample-timestamp-too-old", func(string, int64) bool { return true }, LeftOut{TooOld: 3}, 10},
		"far in the future": {metrics(1, steps(now, 1)...), 400, "too far in the future", func(string, int64) bool { return true }, LeftOut{Ahead: 1}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			is := bad(c.refuse)
			s := serve(t, func(p carbontest.Points) (int, string) {
				if is(p) {
					return c.status, c.text
				}
				return 0, ""
			})
			k, left := sink(t, s.URL)
			if err := k.Send(t.Context(), c.metrics); err != nil {
				t.Fatal(err)
			}
			if *left != c.want {
				t.Errorf("%+v, want %+v", *left, c.want)
			}
			if got, want := int64(s.got.Count()), int64(graphite.Count(c.metrics))-c.want.Total(); got != want {
				t.Errorf("%d points arrived, want %d", got, want)
			}
			if s.requests > c.requests {
				t.Errorf("%d requests", s.requests)
			}
			t.Log(s.requests, "requests")
		})
	}
}

// count returns the number of times before end.
func count(times []int64, end int64) (n int64) {
	for _, at := range times {
		if at < end {
			n++
		}
	}
	return n
}

// TestHistoryOfOneMetricLosesNoOther checks that a Prometheus without an out-of-order
// window stores all points of an outage of 12 hours, although the same batch has older
// points of another metric. Such a server refuses points more than an hour older than its
// newest point, and points older than the last point of their series.
func TestHistoryOfOneMetricLosesNoOther(t *testing.T) {
	now := time.Now()
	newest := now.Add(-12 * time.Hour).Unix()
	last := map[string]int64{}
	s := serve(t, func(p carbontest.Points) (int, string) {
		for series, points := range p {
			for at := range points {
				switch {
				case at < newest-3600:
					return 400, "out of bounds"
				case at <= last[series]:
					return 400, "out of order sample"
				}
			}
		}
		for series, points := range p {
			for at := range points {
				newest, last[series] = max(newest, at), max(last[series], at)
			}
		}
		return 0, ""
	})
	k, left := sink(t, s.URL)
	outage := metrics(10, steps(now, 12*12)...)
	all := append(slices.Clone(outage), graphite.Metric{Path: "tstat.p.new{index=1}", Points: metrics(1, steps(now, 3000)...)[0].Points})
	if err := k.Send(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	lost := graphite.Count(all) - s.got.Count() - int(left.TooOld)
	if want := int64(3000 - 13*12); left.TooOld < want-1 || left.TooOld > want+1 || lost > 12 || int64(lost) != left.OutOfOrder {
		t.Errorf("%+v, %d other points lost; want %d too old", *left, lost, want)
	}
	t.Log(s.requests, "requests")
}

// TestRequestsAreBounded checks that the number of requests is limited if a server
// refuses very many points.
func TestRequestsAreBounded(t *testing.T) {
	s := serve(t, func(carbontest.Points) (int, string) { return 400, "out of order sample" })
	k, left := sink(t, s.URL)
	if err := k.Send(t.Context(), metrics(1000, steps(time.Now(), 20)...)); err != nil || left.OutOfOrder != 20_000 {
		t.Errorf("%v, %+v", err, *left)
	}
	if s.requests > maxPosts+100 {
		t.Errorf("%d requests", s.requests)
	}
}

// TestNewPointsArriveAfterManyRefused checks that the newest points arrive at a
// server that refuses more older points than Send searches for.
func TestNewPointsArriveAfterManyRefused(t *testing.T) {
	times := steps(time.Now(), 8)
	s := serve(t, func(p carbontest.Points) (int, string) {
		for _, points := range p {
			for at := range points {
				if at < times[7] {
					return 400, "out of order sample"
				}
			}
		}
		return 0, ""
	})
	k, left := sink(t, s.URL)
	if err := k.Send(t.Context(), metrics(2000, times...)); err != nil || left.OutOfOrder != 14_000 || s.got.Count() != 2000 {
		t.Errorf("%v, %+v, %d points", err, *left, s.got.Count())
	}
	if s.requests > maxPosts+100 {
		t.Errorf("%d requests", s.requests)
	}
}

// TestUnavailable checks that no point is left out if a server is down,
// misconfigured or full, and that the error has a hint.
func TestUnavailable(t *testing.T) {
	for status, advice := range map[int]string{401: "bearer-token-file", 403: "password-file", 404: "enable-remote-write-receiver", 302: "redirects",
		429: "", 500: "", 502: "", 503: "", 100 + 499: ""} {
		s := serve(t, func(carbontest.Points) (int, string) { return status, "some\ntext\x1b" })
		k, left := sink(t, s.URL)
		err := k.Send(t.Context(), metrics(100, steps(time.Now(), 3)...))
		if !errors.Is(err, graphite.ErrUnavailable) || *left != (LeftOut{}) || !strings.Contains(hint.Of(err), advice) {
			t.Errorf("%d: %v, %+v", status, err, *left)
		}
		if err != nil && (!strings.Contains(err.Error(), fmt.Sprint(status)) || strings.ContainsAny(err.Error(), "\n\x1b")) {
			t.Errorf("%q", err)
		}
		if s.requests > 20 {
			t.Errorf("%d: %d requests", status, s.requests)
		}
	}
}

// TestFullDiskLosesNothing checks that no point is left out if the server begins to
// fail during a Send.
func TestFullDiskLosesNothing(t *testing.T) {
	accepted := 2
	s := serve(t, func(carbontest.Points) (int, string) {
		if accepted--; accepted < 0 {
			return 500, "no space left on device"
		}
		return 0, ""
	})
	k, left := sink(t, s.URL)
	all := metrics(100, steps(time.Now(), 300)...)
	if err := k.Send(t.Context(), all); !errors.Is(err, graphite.ErrUnavailable) || *left != (LeftOut{}) {
		t.Errorf("%v, %+v", err, *left)
	}
	accepted = math.MaxInt
	if err := k.Send(t.Context(), all); err != nil || s.got.Count() != 30_000 {
		t.Errorf("%v, %d points", err, s.got.Count())
	}
}

// TestFailureAfterManyRefusedLosesNothing checks the same for a server that begins
// to fail after it has refused more than maxPosts points.
func TestFailureAfterManyRefusedLosesNothing(t *testing.T) {
	for refusals, all := range map[int][]graphite.Metric{
		maxPosts:     metrics(2000, steps(time.Now(), 8)...),
		2 * maxPosts: metrics(1, steps(time.Now(), 5000)...),
	} {
		requests, failed := 0, false
		s := serve(t, func(p carbontest.Points) (int, string) {
			if requests++; requests > refusals && p.Count() > 100 {
				failed = true
				return 500, "no space left on device"
			}
			return 400, "out of order sample"
		})
		k, left := sink(t, s.URL)
		if err := k.Send(t.Context(), all); !failed || !errors.Is(err, graphite.ErrUnavailable) || *left != (LeftOut{}) {
			t.Errorf("failed %v: %v, %+v", failed, err, *left)
		}
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRetries checks that a request is retried for RetryTimeout, and that only the
// first status 500 of a Send is retried.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := sink(t, "http://h", func(o *Options) { o.RetryTimeout = time.Minute })
		tries, status := 0, 500
		k.client.Transport = transport(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return nil, errors.New("no metrics")
			}
			if tries++; tries == 3 {
				status = 204
			}
			return &http.Response{StatusCode: status, Body: http.NoBody}, nil
		})
		if err := k.Send(t.Context(), metrics(100, 300)); err != nil || tries != 3 {
			t.Errorf("%v after %d tries", err, tries)
		}
		tries, status = 3, 500
		start := time.Now()
		if err := k.Send(t.Context(), metrics(100, 300)); !errors.Is(err, graphite.ErrUnavailable) {
			t.Error(err)
		}
		if d := time.Since(start); d < time.Minute || d > 2*time.Minute {
			t.Errorf("gave up after %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.Send(ctx, metrics(100, 300)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("interrupted: %v", err)
		}
	})
}

// TestStalledMetricsPage checks that a server that does not answer requests for its
// metrics, as behind some proxies, does not delay each Send.
func TestStalledMetricsPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := sink(t, "http://h")
		posts := 0
		k.client.Transport = transport(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			posts++
			return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
		})
		start := time.Now()
		for range 10 {
			if err := k.Send(t.Context(), metrics(1, 300)); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); posts != 10 || d > 10*time.Second {
			t.Errorf("%d requests in %v", posts, d)
		}
	})
}

// TestReport checks that left out points are logged with an example, and not for
// each batch.
func TestReport(t *testing.T) {
	s := serve(t, func(carbontest.Points) (int, string) { return 400, "out of bounds" })
	var log strings.Builder
	k, _ := sink(t, s.URL, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 5 {
		if err := k.Send(t.Context(), metrics(2, 300)); err != nil {
			t.Fatal(err)
		}
	}
	text := log.String()
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, "too_old=2") || !strings.Contains(text, "out_of_order_time_window") ||
		!strings.Contains(text, "1970-01-01T00:05:00Z: 400 Bad Request") {
		t.Error(text)
	}
	// A push that ends must not leave counts unreported.
	for range 2 {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	if text := log.String()[len(text):]; strings.Count(text, "\n") != 1 || !strings.Contains(text, "too_old=8") {
		t.Errorf("after Close: %s", text)
	}
}

// history returns times from 2016 to now, some of them in the last hour.
func history(now time.Time) []int64 {
	return slices.Concat(steps(time.Date(2016, 3, 24, 12, 0, 0, 0, time.UTC), 100), steps(now.Add(-24*time.Hour), 50), steps(now.Add(-5*time.Minute), 5))
}

// TestPrometheusWithWindow checks that Debian's Prometheus stores all history in any
// order, and points sent twice only once.
func TestPrometheusWithWindow(t *testing.T) {
	p := carbontest.StartPrometheus(t, "20y")
	k, left := sink(t, "http://"+p.Addr)
	m := metrics(50, history(time.Now())...)
	for _, batch := range [][]graphite.Metric{m[:25], m[25:], m[:10]} {
		if err := k.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	got := p.Points(`{probe="p"}`)
	if got.Count() != 50*155 || *left != (LeftOut{}) {
		t.Errorf("%d points, %+v", got.Count(), *left)
	}
	for series, points := range got {
		for at, v := range points {
			if v != float64(at) {
				t.Fatalf("%s at %d: %v", series, at, v)
			}
		}
	}
}

// TestPrometheusWithSmallWindow checks that points older than the window are left
// out. Prometheus 2.42 answers 500 to them.
func TestPrometheusWithSmallWindow(t *testing.T) {
	p := carbontest.StartPrometheus(t, "30d")
	k, left := sink(t, "http://"+p.Addr)
	if err := k.Send(t.Context(), metrics(1, steps(time.Now(), 1)...)); err != nil {
		t.Fatal(err)
	}
	if err := k.Send(t.Context(), metrics(50, history(time.Now())...)); err != nil {
		t.Fatal(err)
	}
	if got := p.Points(`{probe="p"}`); got.Count() < 50*55 || *left != (LeftOut{TooOld: 50 * 100}) {
		t.Errorf("%d points, %+v", got.Count(), *left)
	}
}

// TestPrometheusWithoutWindow checks that points that are too old or out of order
// are left out, and that all others arrive.
func TestPrometheusWithoutWindow(t *testing.T) {
	p := carbontest.StartPrometheus(t, "")
	k, left := sink(t, "http://"+p.Addr)
	now := time.Now()
	fresh := steps(now.Add(-5*time.Minute), 5)
	if err := k.Send(t.Context(), metrics(1, steps(now, 1)...)); err != nil {
		t.Fatal(err)
	}
	// Series 0 has a current point, so older points are out of order.
	if err := k.Send(t.Context(), metrics(50, history(now)...)); err != nil {
		t.Fatal(err)
	}
	if got := p.Points(`{probe="p"}`); got.Count() != 1+49*len(fresh) {
		t.Errorf("%d points", got.Count())
	}
	if *left != (LeftOut{TooOld: 50 * 150, OutOfOrder: 5}) {
		t.Errorf("%+v", *left)
	}
	// A second value for the same time.
	*left = LeftOut{}
	m := metrics(2, fresh[4], fresh[4]+300)
	m[1].Points[0].Value++
	if err := k.Send(t.Context(), m[1:]); err != nil || *left != (LeftOut{Refused: 1}) {
		t.Errorf("%v, %+v", err, *left)
	}
}

// TestVictoria checks that VictoriaMetrics stores all history.
func TestVictoria(t *testing.T) {
	v := carbontest.StartVictoria(t)
	k, left := sink(t, "http://"+v.Web)
	if err := k.Send(t.Context(), metrics(50, history(time.Now())...)); err != nil {
		t.Fatal(err)
	}
	if got := v.Points(`tstat_x`); got.Count() != 50*155 || *left != (LeftOut{}) {
		t.Errorf("%d points, %+v", got.Count(), *left)
	}
}

// TestVictoriaBeyondRetention checks that the sink reports points that
// VictoriaMetrics acknowledges and drops.
func TestVictoriaBeyondRetention(t *testing.T) {
	v := carbontest.StartVictoria(t, "-retentionPeriod=1")
	var log strings.Builder
	k, left := sink(t, "http://"+v.Web, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 2 {
		if err := k.Send(t.Context(), metrics(50, history(time.Now())...)); err != nil {
			t.Fatal(err)
		}
		if left.Ignored != 50*100 { // points of the second Send are counted later
			t.Errorf("%+v", *left)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if *left != (LeftOut{Ignored: 2 * 50 * 100}) || !strings.Contains(log.String(), "ignored=5000") {
		t.Errorf("%+v: %s", *left, &log)
	}
}
