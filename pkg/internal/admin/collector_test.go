package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// decode returns a sequence of JSON objects.
func decode(t *testing.T, text []byte) (list []map[string]any) {
	t.Helper()
	for d := json.NewDecoder(bytes.NewReader(text)); d.More(); {
		var m map[string]any
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// scrape returns the lines of /metrics of a state at noon.
func scrape(t *testing.T, s *State) []string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(NewCollector(func() *State { return s }))
	w := httptest.NewRecorder()
	Handler(Options{State: func() *State { return s }, Gatherer: reg}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestCollector(t *testing.T) {
	s := broken()
	s.RRD[0].Series = s.RRD[0].Series[:9]
	lines := scrape(t, s)
	for _, want := range []string{
		`tstatrepo_supervisor_registered{url="https://supervisor.polito.it:8889"} 0`,
		`tstatrepo_specifications_refused_total{reason="unknown capability"} 3`,
		`tstatrepo_capability_specifications{capability="repository-collect_log",side="repository"} 1`,
		`tstatrepo_capability_specifications{capability="repository-collect_rrd",side="repository"} 0`,
		`tstatrepo_endpoint_open{endpoint="collect-log"} 1`,
		`tstatrepo_endpoint_open{endpoint="collect-rrd"} 0`,
		`tstatrepo_certificate_expiry_timestamp_seconds{subject="CN=repository-Proxy",use="serve tls-cert"} 1.78765923e+09`,
		`tstatrepo_recent_notices{level="error"} 1`,
		`tstatrepo_recent_notices{level="warning"} 2`,
		`tstatrepo_import_rows_total{probe="polito1",stream="polito1_log_tcp_complete",type="log_tcp_complete"} 1.2345678e+07`,
		`tstatrepo_import_failed_files_total{probe="polito1",stream="polito1_log_tcp_complete",type="log_tcp_complete"} 4`,
		`tstatrepo_import_others_files_total{probe="polito1",stream="polito1_log_tcp_complete",type="log_tcp_complete"} 17`,
		`tstatrepo_import_claimed_files{probe="polito1",stream="polito1_log_tcp_complete",type="log_tcp_complete"} 2`,
		`tstatrepo_import_failing{probe="polito1",stream="polito1_log_tcp_complete",type="log_tcp_complete"} 1`,
		`tstatrepo_import_failing{probe="turin",stream="turin_log_tcp_complete",type="log_tcp_complete"} 0`,
		`tstatrepo_import_late{probe="turin",stream="turin_log_tcp_complete",type="log_tcp_complete"} 1`,
		`tstatrepo_import_lag_seconds{probe="turin",stream="turin_log_tcp_complete",type="log_tcp_complete"} 108030`,
		`tstatrepo_import_store_behind_files{probe="turin",store="parquet:/srv/tstat",stream="turin_log_tcp_complete",type="log_tcp_complete"} 0`,
		`tstatrepo_import_store_behind_files{probe="turin",store="postgres://tstat@db/tstat",stream="turin_log_tcp_complete",type="log_tcp_complete"} 12`,
		`tstatrepo_import_store_failing{probe="turin",store="parquet:/srv/tstat",stream="turin_log_tcp_complete",type="log_tcp_complete"} 0`,
		`tstatrepo_import_store_failing{probe="turin",store="postgres://tstat@db/tstat",stream="turin_log_tcp_complete",type="log_tcp_complete"} 1`,
		`tstatrepo_import_store_lag_seconds{probe="turin",store="postgres://tstat@db/tstat",stream="turin_log_tcp_complete",type="log_tcp_complete"} 18120`,
		`tstatrepo_store_compacted_files_total{store="parquet:/srv/tstat"} 240`,
		`tstatrepo_stream_lines_total{stream="collect-streaming"} 1.23456789e+08`,
		`tstatrepo_stream_source_lines_total{probe="turin",stream="collect-streaming"} 3.456789e+06`,
		`tstatrepo_stream_sink_queue_bytes{sink="nats://localhost:4222/TSTAT",stream="collect-streaming"} 8.388608e+06`,
		`tstatrepo_stream_sink_dropped_total{sink="exec:webrowse --stdin",stream="collect-streaming"} 1234`,
		`tstatrepo_rrd_push_points_total{rrd="collect-rrd"} 1.728e+06`,
		`tstatrepo_rrd_push_spooled_bytes{rrd="collect-rrd"} 1.2582912e+07`,
		`tstatrepo_rrd_push_failing{rrd="collect-rrd"} 1`,
		`tstatrepo_rrd_push_series{probe="polito1",rrd="collect-rrd"} 9`,
		`tstatrepo_rrd_push_last_point_timestamp_seconds{probe="polito1",rrd="collect-rrd"} 1.7872269e+09`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	// The busy state must export every described metric.
	descs := make(chan *prometheus.Desc, 200)
	NewCollector(nil).Describe(descs)
	close(descs)
	for desc := range descs {
		_, name, _ := strings.Cut(desc.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+"{") }) {
			t.Errorf("no %s", name)
		}
	}
}

// TestCollectorNames checks that the names of metrics follow Prometheus's rules.
func TestCollectorNames(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(NewCollector(busy))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestCollectorHostile checks that hostile names and numbers of peers do not break a
// scrape.
func TestCollectorHostile(t *testing.T) {
	s := hostile()
	s.Live[0].Sources = append(s.Live[0].Sources, s.Live[0].Sources...) // duplicate labels
	s.Logs = append(s.Logs, s.Logs...)
	for i := range 3 * metrics.MaxSets {
		s.Logs = append(s.Logs, mathproto.StreamStats{Registration: mathproto.Registration{StreamName: fmt.Sprint(i)}, Probe: "p\xff\n\"\\"})
	}
	counts := map[string]int{}
	for _, l := range scrape(t, s) {
		name, _, _ := strings.Cut(l, "{")
		counts[name]++
		if len(l) > 2000 {
			t.Errorf("line of %d bytes", len(l))
		}
	}
	if most := slices.Max(slices.Collect(maps.Values(counts))); most != metrics.MaxSets {
		t.Errorf("a metric has %d values, want %d", most, metrics.MaxSets)
	}
}
