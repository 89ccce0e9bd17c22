package admin

import (
	"cmp"
	"iter"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// NewCollector returns a collector that calls state for each scrape. It exports the
// number and age of RRD points, but not their values, which belong in Graphite.
func NewCollector(state func() *State) prometheus.Collector { return collector{state} }

type collector struct{ state func() *State }

// Metrics of the service as a whole and of its RRDs. The packages of its parts, such as
// stream, define more metrics.
var (
	buildMetrics = metrics.New("", []string{"version", "goversion"}, func(s *State) []string { return []string{s.Version, runtime.Version()} },
		metrics.Count("build_info", "Version of tstatrepo, always 1.", func(*State) int64 { return 1 }))
	supervisorMetrics = metrics.New("", []string{"url"}, func(s *Supervisor) []string { return []string{s.URL} },
		metrics.Flag("supervisor_registered", "1 if the capabilities are registered at the supervisor.", func(s *Supervisor) bool { return s.Registered }))
	refusedMetrics = metrics.New("", []string{"reason"}, func(*int64) []string { return nil },
		metrics.Count("specifications_refused_total", "Specifications of the supervisor that were refused.", func(n *int64) int64 { return *n }))
	capabilityMetrics = metrics.New("", []string{"capability", "side"}, func(c *Capability) []string { return []string{c.Label, c.Side} },
		metrics.Count("capability_specifications", "Running specifications.", func(c *Capability) int64 { return int64(len(c.Specifications)) }))
	endpointMetrics = metrics.New("", []string{"endpoint"}, func(e *repository.EndpointStats) []string { return []string{e.Name()} },
		metrics.Flag("endpoint_open", "1 if the endpoint is open.", (*repository.EndpointStats).Open))
	certificateMetrics = metrics.New("", []string{"use", "subject"}, func(c *Certificate) []string { return []string{c.Use, c.Subject} },
		metrics.Earliest("certificate_expiry_timestamp_seconds", "When a certificate in use expires.", func(c *Certificate) time.Time { return c.NotAfter }))
	noticeMetrics = metrics.New("", []string{"level"}, func(*int64) []string { return nil },
		metrics.Count("recent_notices", "Errors and warnings on the page of the administration listener.", func(n *int64) int64 { return *n }))
	recreatedMetrics = metrics.New("rrd_push_", []string{"rrd"}, func(r *RRD) []string { return []string{r.Name} },
		metrics.Count("recreated_total", "RRDs older than the last point sent, sent from their start.", func(r *RRD) int64 { return r.Recreated }))
	seriesMetrics = metrics.New("rrd_push_", []string{"rrd", "probe"}, func(s *repository.Series) []string { return []string{s.Probe} },
		metrics.Count("series", "Metrics of a probe whose last points are kept; their number is limited.", func(*repository.Series) int64 { return 1 }),
		metrics.Time("last_point_timestamp_seconds", "Time of the newest point of a probe.", func(s *repository.Series) time.Time { return time.Unix(s.Last().Time, 0) }))
)

// tables lists all metric tables that Collect uses.
var tables = []interface{ Describe(chan<- *prometheus.Desc) }{
	buildMetrics, supervisorMetrics, refusedMetrics, capabilityMetrics, endpointMetrics, certificateMetrics, noticeMetrics,
	mathproto.Metrics, mathproto.StoreMetrics, upkeep.Metrics, stream.Metrics, stream.SourceMetrics, stream.SinkMetrics, stream.QueueMetrics,
	rrdpush.Metrics, recreatedMetrics, seriesMetrics,
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, t := range tables {
		t.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.state()
	buildMetrics.Collect(ch, metrics.Of("", *s))
	if v := s.Supervisor; v != nil && v.URL != "" {
		supervisorMetrics.Collect(ch, metrics.Of("", *v))
		refusedMetrics.Collect(ch, byLabel(v.Refused))
	}
	capabilityMetrics.Collect(ch, metrics.Of("", s.Capabilities...))
	endpointMetrics.Collect(ch, metrics.Of("", s.Endpoints...))
	certificateMetrics.Collect(ch, metrics.Of("", s.Certificates...))
	levels := map[string]int64{failure: 0, warning: 0}
	for _, n := range s.Recent {
		levels[n.level()]++
	}
	noticeMetrics.Collect(ch, byLabel(levels))
	mathproto.Metrics.Collect(ch, metrics.Of("", s.Logs...))
	mathproto.StoreMetrics.Collect(ch, metrics.Of("", mathproto.StoresOf(s.Logs)...))
	upkeep.Metrics.Collect(ch, metrics.Of("", s.Upkeep...))
	stream.Metrics.Collect(ch, metrics.Each(s.Live, func(l *Live) (string, []stream.Stats) { return l.Name, []stream.Stats{l.Stats} }))
	stream.SourceMetrics.Collect(ch, metrics.Each(s.Live, func(l *Live) (string, []stream.SourceStats) { return l.Name, l.Sources }))
	for _, t := range []*metrics.Table[stream.SinkStats]{stream.SinkMetrics, stream.QueueMetrics} {
		t.Collect(ch, metrics.Each(s.Live, func(l *Live) (string, []stream.SinkStats) { return l.Name, l.Sinks }))
	}
	rrdpush.Metrics.Collect(ch, metrics.Each(s.RRD, func(r *RRD) (string, []rrdpush.EndpointStats) {
		return r.Name, []rrdpush.EndpointStats{r.EndpointStats}
	}))
	recreatedMetrics.Collect(ch, metrics.Of("", s.RRD...))
	seriesMetrics.Collect(ch, metrics.Each(s.RRD, func(r *RRD) (string, []repository.Series) { return r.Name, r.Series }))
}

// byLabel yields each key of counts as a label value, together with its count.
func byLabel(counts map[string]int64) iter.Seq2[string, *int64] {
	return func(yield func(string, *int64) bool) {
		for label, n := range counts {
			if !yield(label, &n) {
				return
			}
		}
	}
}

// newest returns the time of the newest point in series, or the zero time if series is
// empty.
func newest(series []repository.Series) time.Time {
	if len(series) == 0 {
		return time.Time{}
	}
	s := slices.MaxFunc(series, func(a, b repository.Series) int { return cmp.Compare(a.Last().Time, b.Last().Time) })
	return time.Unix(s.Last().Time, 0)
}
