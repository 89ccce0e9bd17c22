package admin

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSets bounds the label sets of a metric: peers choose some of the labels.
const maxSets = 2000

// NewCollector returns the metrics of a State, which is asked for with each
// scrape, like that of the page. Their names are those of the metrics files
// that the commands write, where these have them too. Points of RRDs are no
// metrics here, only how many and how old: their place is Graphite.
func NewCollector(state func() *State) prometheus.Collector {
	return &collector{state: state, now: time.Now}
}

type collector struct {
	state func() *State
	now   func() time.Time
}

// metric describes a metric.
type metric struct {
	kind   prometheus.ValueType
	labels []string
	desc   *prometheus.Desc
}

// metrics are all there are, by name.
var metrics = map[string]*metric{}

func describe(kind prometheus.ValueType, name, help string, labels ...string) string {
	name = "tstatrepo_" + name
	metrics[name] = &metric{kind, labels, prometheus.NewDesc(name, help, labels, nil)}
	return name
}

func gauge(name, help string, labels ...string) string {
	return describe(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) string {
	return describe(prometheus.CounterValue, name, help, labels...)
}

// Names of the metrics.
var (
	buildInfo = gauge("build_info", "Version of tstatrepo, always 1.", "version", "goversion")

	registered     = gauge("supervisor_registered", "1 if the capabilities are registered at the supervisor.", "url")
	refused        = counter("specifications_refused_total", "Specifications of the supervisor that were refused.", "reason")
	specifications = gauge("capability_specifications", "Specifications that run or wait for their start.", "capability", "side")
	endpointOpen   = gauge("endpoint_open", "1 if the endpoint is open.", "endpoint")
	certExpiry     = gauge("certificate_expiry_timestamp_seconds", "When a certificate in use expires.", "use", "subject")
	notices        = gauge("recent_notices", "Errors and warnings on the page of the administration listener.", "level")

	importFiles   = counter("import_files_total", "Files stored.", "probe", "stream", "type")
	importRows    = counter("import_rows_total", "Rows stored.", "probe", "stream", "type")
	importRejects = counter("import_rejects_total", "Lines rejected.", "probe", "stream", "type")
	importBytes   = counter("import_bytes_total", "Bytes of the files stored.", "probe", "stream", "type")
	importFailed  = counter("import_failed_files_total", "Times that a file was not stored because of an error; it is tried again.", "probe", "stream", "type")
	importOthers  = counter("import_others_files_total", "Files that another repository stored meanwhile.", "probe", "stream", "type")
	importClaimed = gauge("import_claimed_files", "Files that another repository has claimed, and not stored yet.", "probe", "stream", "type")
	importSuccess = gauge("import_last_success_timestamp_seconds", "When a file of the stream was last stored.", "probe", "stream", "type")
	importFolder  = gauge("import_last_folder_timestamp_seconds", "Time of the newest log folder of which a file is stored.", "probe", "stream", "type")
	importLag     = gauge("import_lag_seconds", "How long ago the newest log folder of which a file is stored began.", "probe", "stream", "type")
	importLate    = gauge("import_late", "1 if the lag of the stream is longer than it should be.", "probe", "stream", "type")
	importFailing = gauge("import_failing", "1 if the last pass over the stream did not store everything.", "probe", "stream", "type")

	upkeepSuccess   = gauge("store_upkeep_last_success_timestamp_seconds", "When the store was last compacted and pruned, if there was anything to do.", "store")
	upkeepFailed    = counter("store_upkeep_failures_total", "Times that this failed.", "store")
	upkeepCompacted = counter("store_compacted_files_total", "Files that became part of larger ones.", "store")
	upkeepFiles     = counter("store_pruned_files_total", "Log files whose rows were removed.", "store")
	upkeepRows      = counter("store_pruned_rows_total", "Rows removed.", "store")

	streamConnections = gauge("stream_connections", "Connections of exporters at the moment.", "stream")
	streamUntaken     = gauge("stream_untaken_lines", "Lines of old exporters on their way to consumers.", "stream")
	streamLines       = counter("stream_lines_total", "Lines read from exporters and folders.", "stream")
	streamBytes       = counter("stream_bytes_total", "Bytes read from exporters and folders.", "stream")
	streamRejects     = counter("stream_rejects_total", "Lines that were none, or no rows of their log.", "stream")
	streamCuts        = counter("stream_cuts_total", "Unfinished last lines, left out.", "stream")
	streamEmpty       = counter("stream_empty_total", "Lines without text, left out.", "stream")
	streamAccepted    = counter("stream_accepted_total", "Connections accepted.", "stream")
	streamRefused     = counter("stream_refused_total", "Connections refused.", "stream")
	streamVanished    = counter("stream_vanished_total", "Logs that went before they were read to their end.", "stream")

	sourceLines       = counter("stream_source_lines_total", "Lines read from a probe.", "stream", "probe")
	sourceRejects     = counter("stream_source_rejects_total", "Lines of a probe that were none, or no rows of their log.", "stream", "probe")
	sourceConnections = gauge("stream_source_connections", "Connections of a probe at the moment.", "stream", "probe")
	sourceLast        = gauge("stream_source_last_line_timestamp_seconds", "When the last line of a probe came.", "stream", "probe")

	consumerLines    = counter("stream_consumer_lines_total", "Lines that a consumer has taken.", "stream", "consumer")
	consumerDropped  = counter("stream_consumer_dropped_total", "Lines that a consumer did not get.", "stream", "consumer")
	consumerRestarts = counter("stream_consumer_restarts_total", "How often a consumer was opened again.", "stream", "consumer")
	consumerRepeated = counter("stream_consumer_repeated_bytes_total", "Bytes that a consumer was sent again.", "stream", "consumer")
	consumerQueue    = gauge("stream_consumer_queue_bytes", "Bytes that wait for a consumer.", "stream", "consumer")
	consumerSize     = gauge("stream_consumer_queue_size_bytes", "Bytes that may wait for a consumer.", "stream", "consumer")

	rrdPosts     = counter("rrd_push_posts_total", "Exports taken from probes.", "rrd")
	rrdRefused   = counter("rrd_push_refused_total", "Exports of probes not taken.", "rrd")
	rrdPoints    = counter("rrd_push_points_total", "Points stored, or in the spool.", "rrd")
	rrdNotFinite = counter("rrd_push_not_finite_total", "Values left out that are not finite.", "rrd")
	rrdRecreated = counter("rrd_push_recreated_total", "RRDs older than the last point sent, sent from their start.", "rrd")
	rrdSpooled   = gauge("rrd_push_spooled_bytes", "Points on disk that the destination has not taken.", "rrd")
	rrdSuccess   = gauge("rrd_push_last_success_timestamp_seconds", "When points were last stored.", "rrd")
	rrdFailing   = gauge("rrd_push_failing", "1 if the destination does not take points.", "rrd")
	rrdSeries    = gauge("rrd_push_series", "Metrics of a probe whose last points are known, at most as many as are kept.", "rrd", "probe")
	rrdLastPoint = gauge("rrd_push_last_point_timestamp_seconds", "Time of the newest point of a probe.", "rrd", "probe")
)

// Describe sends what Collect may send.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
}

// Collect sends the metrics of the state as it is.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	set := sets{}
	set.fill(c.state(), c.now())
	set.collect(ch)
}

// sets are the values of all metrics by name and labels. Values with the same
// labels are added up, since a metric must not come twice: of times the
// newest counts.
type sets map[string]map[string]float64

// separator stands between labels: it is in no valid text.
const separator = "\xff"

func (s sets) at(name string, labels []string) (map[string]float64, string, bool) {
	if s[name] == nil {
		s[name] = map[string]float64{}
	}
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(cut(l, maxText), "\uFFFD")
	}
	key := strings.Join(labels, separator)
	_, known := s[name][key]
	return s[name], key, known || len(s[name]) < maxSets
}

func (s sets) add(name string, v float64, labels ...string) {
	if m, key, ok := s.at(name, labels); ok {
		m[key] += v
	}
}

func (s sets) count(name string, v int64, labels ...string) { s.add(name, float64(v), labels...) }

func (s sets) flag(name string, v bool, labels ...string) {
	if m, key, ok := s.at(name, labels); ok {
		m[key] = max(m[key], map[bool]float64{true: 1}[v])
	}
}

// time keeps the newest of several times. A zero time is not known.
func (s sets) time(name string, t time.Time, labels ...string) {
	if t.IsZero() {
		return
	}
	if m, key, ok := s.at(name, labels); ok {
		m[key] = max(m[key], float64(t.UnixMilli())/1000)
	}
}

// earliest keeps the first of several times. A zero time is not known.
func (s sets) earliest(name string, t time.Time, labels ...string) {
	if t.IsZero() {
		return
	}
	if m, key, ok := s.at(name, labels); ok {
		v := float64(t.UnixMilli()) / 1000
		if old, known := m[key]; known {
			v = min(v, old)
		}
		m[key] = v
	}
}

func (s sets) collect(ch chan<- prometheus.Metric) {
	for name, values := range s {
		m := metrics[name]
		for key, v := range values {
			var labels []string
			if len(m.labels) > 0 {
				labels = strings.Split(key, separator)
			}
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
		}
	}
}

func (s sets) fill(st *State, now time.Time) {
	s.add(buildInfo, 1, st.Version, runtime.Version())
	if st.Supervisor != nil && st.Supervisor.URL != "" {
		s.flag(registered, st.Supervisor.Registered, st.Supervisor.URL)
		for reason, n := range st.Supervisor.Refused {
			s.count(refused, n, reason)
		}
	}
	for _, c := range st.Capabilities {
		s.count(specifications, int64(len(c.Specifications)), c.Label, c.Side)
	}
	for _, e := range st.Endpoints {
		s.flag(endpointOpen, e.Open, e.Name)
	}
	for _, c := range st.Certificates {
		s.earliest(certExpiry, c.NotAfter, c.Use, c.Subject)
	}
	s.add(notices, 0, "error")
	s.add(notices, 0, "warning")
	for _, n := range st.Recent {
		s.add(notices, 1, n.level())
	}
	for _, l := range st.Logs {
		s.logs(&l, now)
	}
	for _, u := range st.Upkeep {
		s.time(upkeepSuccess, u.LastSuccess, u.Store)
		s.count(upkeepFailed, u.Failed, u.Store)
		s.count(upkeepCompacted, u.Compacted, u.Store)
		s.count(upkeepFiles, u.PrunedFiles, u.Store)
		s.count(upkeepRows, u.PrunedRows, u.Store)
	}
	for _, l := range st.Live {
		s.live(&l)
	}
	for _, r := range st.RRD {
		s.rrd(&r)
	}
}

func (s sets) logs(l *Logs, now time.Time) {
	labels := func() []string { return []string{l.Probe, l.Stream, l.Type} }
	s.count(importFiles, l.Files, labels()...)
	s.count(importRows, l.Rows, labels()...)
	s.count(importRejects, l.Rejects, labels()...)
	s.count(importBytes, l.Bytes, labels()...)
	s.count(importFailed, l.Failed, labels()...)
	s.count(importOthers, l.Others, labels()...)
	s.add(importClaimed, float64(l.Claimed), labels()...)
	s.time(importSuccess, l.LastSuccess, labels()...)
	s.time(importFolder, l.LastFolder, labels()...)
	if lag, ok := l.lag(now); ok {
		s.add(importLag, lag.Seconds(), labels()...)
	}
	s.flag(importLate, l.late(now), labels()...)
	s.flag(importFailing, l.Err != "", labels()...)
}

func (s sets) live(l *Live) {
	s.count(streamConnections, l.Connections, l.Name)
	s.count(streamUntaken, l.Untaken, l.Name)
	s.count(streamLines, l.Lines, l.Name)
	s.count(streamBytes, l.Bytes, l.Name)
	s.count(streamRejects, l.Rejects, l.Name)
	s.count(streamCuts, l.Cuts, l.Name)
	s.count(streamEmpty, l.Empty, l.Name)
	s.count(streamAccepted, l.Accepted, l.Name)
	s.count(streamRefused, l.Refused, l.Name)
	s.count(streamVanished, l.Vanished, l.Name)
	for _, o := range l.Sources {
		s.count(sourceLines, o.Lines, l.Name, o.Probe)
		s.count(sourceRejects, o.Rejects, l.Name, o.Probe)
		s.count(sourceConnections, o.Connections, l.Name, o.Probe)
		s.time(sourceLast, o.Last, l.Name, o.Probe)
	}
	for _, c := range l.Consumers {
		s.count(consumerLines, c.Lines, l.Name, c.Name)
		s.count(consumerDropped, c.Dropped, l.Name, c.Name)
		s.count(consumerRestarts, c.Restarts, l.Name, c.Name)
		s.count(consumerRepeated, c.Repeated, l.Name, c.Name)
		s.count(consumerQueue, c.Queue, l.Name, c.Name)
		s.count(consumerSize, c.QueueSize, l.Name, c.Name)
	}
}

func (s sets) rrd(r *RRD) {
	s.count(rrdPosts, r.Posts, r.Name)
	s.count(rrdRefused, r.Refused, r.Name)
	s.count(rrdPoints, r.Points, r.Name)
	s.count(rrdNotFinite, r.NotFinite, r.Name)
	s.count(rrdRecreated, r.Recreated, r.Name)
	s.count(rrdSpooled, r.Spooled, r.Name)
	s.time(rrdSuccess, r.LastSuccess, r.Name)
	s.flag(rrdFailing, r.Err != "", r.Name)
	for _, o := range r.Series {
		s.add(rrdSeries, 1, r.Name, o.Probe)
		s.time(rrdLastPoint, time.Unix(o.last().Time, 0), r.Name, o.Probe)
	}
}

// last returns the newest point.
func (s Series) last() Point {
	if len(s.Points) == 0 {
		return Point{}
	}
	return s.Points[len(s.Points)-1]
}

// newest returns the time of the newest point of all, zero if there is none.
func newest(series []Series) time.Time {
	if len(series) == 0 {
		return time.Time{}
	}
	s := slices.MaxFunc(series, func(a, b Series) int { return cmp.Compare(a.last().Time, b.last().Time) })
	return time.Unix(s.last().Time, 0)
}
