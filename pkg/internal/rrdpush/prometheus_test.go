//go:build linux

package rrdpush

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/remotewrite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// expectedSeries is like expected, with names in the notation of Prometheus.
func expectedSeries(t testing.TB, dir string) carbontest.Points {
	t.Helper()
	byPath := expected(t, dir, false)
	files, _ := filepath.Glob(filepath.Join(dir, "*.rrd"))
	want := carbontest.Points{}
	for _, f := range files {
		table, file := &rrdfile.Table{}, filepath.Base(f)
		if points := byPath["tstat.p."+table.Name(file)]; points != nil {
			want[seriesOf(t, file)] = points
		}
	}
	return want
}

func seriesOf(t testing.TB, file string) string {
	t.Helper()
	s, err := remotewrite.ParsePath("tstat.p." + (&rrdfile.Table{}).LabelName(file))
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// TestSeriesAreUnique checks that each name of Tstat's RRDs maps to a valid and
// unique series.
func TestSeriesAreUnique(t *testing.T) {
	text, err := os.ReadFile("../../rrdfile/testdata/names.tsv")
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]string{}
	for line := range strings.Lines(string(text)) {
		file, _, _ := strings.Cut(line, "\t")
		if !strings.HasSuffix(file, ".rrd") {
			continue
		}
		s := seriesOf(t, file)
		if other := of[s]; other != "" {
			t.Errorf("%s is %s and %s", s, other, file)
		}
		of[s] = file
	}
	if len(of) < 5000 {
		t.Errorf("%d series", len(of))
	}
	if got := seriesOf(t, "tcp_rtt_avg_in.prc95.rrd"); got != `tstat_tcp_rtt_avg{direction="in",percentile="95",probe="p"}` {
		t.Error(got)
	}
}

// TestPrometheus checks that a real Prometheus returns all samples with exactly the
// times and values of rrdtool fetch.
func TestPrometheus(t *testing.T) {
	dir := rrdtest.Samples(t)
	want := expectedSeries(t, dir)
	server := carbontest.StartPrometheus(t, "20y")
	opt := options(t, dir, "prometheus+http://"+server.Addr)
	sum := push(t, opt)
	if sum.Points != int64(want.Count()) || sum.New != int64(len(want)) || sum.TooOld+sum.Disorder+sum.Ahead+sum.Refused+sum.Ignored > 0 {
		t.Errorf("%+v, want %d points of %d metrics", sum, want.Count(), len(want))
	}
	compare(t, server.Points(`{probe="p"}`), want)
	age(t, dir)
	push(t, opt)
	if sum := push(t, opt); sum.Points != 0 || sum.Unchanged != 198 {
		t.Errorf("again: %+v", sum)
	}
	opt.Since = time.Unix(1, 0)
	if sum := push(t, opt); sum.Points != int64(want.Count()) || sum.Refused > 0 {
		t.Errorf("all once more: %+v", sum)
	}
	compare(t, server.Points(`{probe="p"}`), want)
}

// TestPrometheusRefusesHistory checks that points refused by a Prometheus without an
// out-of-order window are counted and not retried forever.
func TestPrometheusRefusesHistory(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	fresh := filepath.Join(dir, "ip_len_in.avg.rrd")
	last := time.Now().Unix()/300*300 - 300
	tool.Do("create %s --start %d --step 300 DS:x:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600", fresh, last-300)
	tool.Do("update %s %d:7", fresh, last)
	server := carbontest.StartPrometheus(t, "")
	opt := options(t, dir, "prometheus+http://"+server.Addr+"/api/v1/write")
	if sum := push(t, opt); sum.Points != 1 || sum.TooOld > 0 {
		t.Errorf("%+v", sum)
	}
	c := newCounter(t, tool, filepath.Join(dir, "ip_len_out.avg.rrd"))
	c.update()
	c.update()
	if sum := push(t, opt); sum.Points != 2 || sum.TooOld != 2 || sum.Spooled > 0 {
		t.Errorf("%+v", sum)
	}
	if sum := push(t, opt); sum.Points != 0 || sum.TooOld > 0 {
		t.Errorf("again: %+v", sum)
	}
	if got := server.Points(`{probe="p"}`); got.Count() != 1 {
		t.Errorf("%v", got)
	}
}

// TestPrometheusAway checks that spooled points keep their labels.
func TestPrometheusAway(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	c := newCounter(t, tool, filepath.Join(dir, "tcp_rtt_avg_in.prc95.rrd"))
	c.update()
	v := carbontest.StartVictoria(t)
	away := true
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		forward, err := http.NewRequest(r.Method, "http://"+v.Web+r.URL.Path, r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		forward.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(forward)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
	}))
	defer proxy.Close()
	opt := options(t, dir, "prometheus+"+proxy.URL)
	sum, err := run(t, opt)
	if !errors.Is(err, graphite.ErrUnavailable) || sum.Points != 1 || sum.Spooled == 0 || !strings.Contains(err.Error(), "503") {
		t.Errorf("%+v, %v", sum, err)
	}
	away = false
	if sum := push(t, opt); sum.Points != 0 || sum.Spooled > 0 {
		t.Errorf("%+v", sum)
	}
	got := v.Points("tstat_.*")
	if points := got[`tstat_tcp_rtt_avg{direction="in",percentile="95",probe="p"}`]; len(got) != 1 || points[epoch+300] != 1 {
		t.Errorf("%v", got)
	}
}

// TestEndpointToPrometheus checks that an endpoint names the points of probes, and
// counts the points that the server refuses.
func TestEndpointToPrometheus(t *testing.T) {
	server := carbontest.StartPrometheus(t, "1d")
	e, err := NewEndpoint(endpointOptions(t, "prometheus+http://"+server.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	now := time.Now().Unix()
	for range 2 {
		body := fmt.Sprintf(`[["tcp_rtt_avg_in.prc95.rrd", 1458855900.0, 7.125], ["tcp_rtt_avg_in.prc95.rrd", %d, 3], ["tcp_rtt_avg_in.avg.rrd", %d, 3]]`, now, now+3600)
		if w := post(e, "application/json", body); w.Code != http.StatusOK {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if s := e.Stats(); s.Posts != 2 || s.TooOld == 0 || s.DestRefused != 2 || s.Down != nil {
		t.Errorf("%+v", s)
	}
	got := server.Points(`{probe="p"}`)
	if points := got[`tstat_tcp_rtt_avg{direction="in",percentile="95",probe="p"}`]; points[now] != 3 {
		t.Errorf("%v", got)
	}
}

// TestLabelsAreShown checks that dry runs and lists show series in the notation of
// Prometheus.
func TestLabelsAreShown(t *testing.T) {
	tool := rrdtest.Start(t)
	dir := t.TempDir()
	newCounter(t, tool, filepath.Join(dir, "tcp_rtt_avg_in.prc95.rrd")).update()
	tool.Do("create %s --start %d --step 300 DS:one:GAUGE:600:U:U DS:two:GAUGE:600:U:U RRA:AVERAGE:0.5:1:600", filepath.Join(dir, "own+file.rrd"), epoch)
	tool.Do("update %s %d:1:2", filepath.Join(dir, "own+file.rrd"), epoch+300)
	opt := options(t, dir, "prometheus+http://127.0.0.1:1")
	out := &bytes.Buffer{}
	opt.Stdout, opt.DryRun = out, true
	push(t, opt)
	const first, second, third = `tstat_rrd{file="own_file",probe="p"}`, `tstat_rrd{file="own_file",probe="p",source="two"}`, `tstat_tcp_rtt_avg{direction="in",percentile="95",probe="p"}`
	if want := fmt.Sprintf("%[2]s 1 %[1]d\n%[3]s 2 %[1]d\n%[4]s 1 %[1]d\n", epoch+300, first, second, third); out.String() != want {
		t.Errorf("%s, want %s", out, want)
	}
	list, err := List(opt)
	if err != nil || len(list) != 3 || list[0].Series() != first || list[1].Series() != second || list[2].Series() != third ||
		list[2].Metric != "tstat_tcp_rtt_avg" || list[2].Labels["percentile"] != "95" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestPrometheusDest(t *testing.T) {
	const base = "prometheus+https://h/api/v1/push"
	keys := map[string]bool{}
	for _, text := range []string{base, base + "?header=X-Scope-OrgID:a", base + "?header=X-Scope-OrgID:b", base + "?headers-file=/x",
		"prometheus+https://u@h/api/v1/push?password-file=/p", "prometheus+http://h:443/api/v1/push"} {
		d, err := ParseDest(text)
		if err != nil || !d.remote() || d.exports() || d.Prints() {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if keys[d.key()] {
			t.Errorf("%s shares its state with another", text)
		}
		keys[d.key()] = true
		if _, ok := d.NamingOf("upstream", nil); ok {
			t.Error("upstream names have labels")
		}
	}
	// Other secrets and timeouts do not change the destination.
	if d, err := ParseDest(base + "?timeout=3s&bearer-token-file=/t&ca=/c"); err != nil || !keys[d.key()] {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"prometheus://h", "prometheus+http:h", "prometheus+http://u:secret@h", "prometheus+ftp://h"} {
		if _, err := ParseDest(text); !hint.IsUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
