package stream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// Metrics of streams, their sinks and their sources. The first label is always
// the name of the stream.
var (
	Metrics = metrics.New("stream_", []string{"stream"}, func(*Stats) []string { return nil },
		metrics.Count("connections", "Open connections of exporters.", func(s *Stats) int64 { return s.Connections }),
		metrics.Count("unacknowledged_lines", "Lines of old exporters that not all required sinks have acknowledged.", func(s *Stats) int64 { return s.Unacked }),
		metrics.Count("lines_total", "Lines read from exporters and folders.", func(s *Stats) int64 { return s.Lines }),
		metrics.Count("bytes_total", "Bytes read from exporters and folders.", func(s *Stats) int64 { return s.Bytes }),
		metrics.Count("rejects_total", "Malformed lines, and lines that are not rows of their log.", func(s *Stats) int64 { return s.Rejects }),
		metrics.Count("cuts_total", "Unfinished last lines, left out.", func(s *Stats) int64 { return s.Cuts }),
		metrics.Count("empty_total", "Lines without text, left out.", func(s *Stats) int64 { return s.Empty }),
		metrics.Count("accepted_total", "Connections accepted.", func(s *Stats) int64 { return s.Accepted }),
		metrics.Count("refused_total", "Connections refused.", func(s *Stats) int64 { return s.Refused }),
		metrics.Count("vanished_total", "Logs that vanished before they were read to their end.", func(s *Stats) int64 { return s.Vanished }),
		metrics.Count("outside_total", "Logs left out because links lead out of a folder that a peer named.", func(s *Stats) int64 { return s.Outside }),
	)
	SinkMetrics = metrics.New("stream_sink_", []string{"stream", "sink"}, func(c *SinkStats) []string { return []string{c.Name} },
		metrics.Count("lines_total", "Lines that a sink has acknowledged.", func(c *SinkStats) int64 { return c.Lines }),
		metrics.Count("dropped_total", "Lines dropped for a sink.", func(c *SinkStats) int64 { return c.Dropped }),
		metrics.Count("restarts_total", "Times that a sink was reopened.", func(c *SinkStats) int64 { return c.Restarts }),
		metrics.Count("repeated_bytes_total", "Bytes sent to a sink again.", func(c *SinkStats) int64 { return c.Repeated }),
	)
	QueueMetrics = metrics.New("stream_sink_", []string{"stream", "sink"}, func(c *SinkStats) []string { return []string{c.Name} },
		metrics.Count("queue_bytes", "Bytes queued for a sink.", func(c *SinkStats) int64 { return c.Queued }),
		metrics.Count("queue_size_bytes", "Size of the queue of a sink.", func(c *SinkStats) int64 { return c.Limit }),
	)
	SourceMetrics = metrics.New("stream_source_", []string{"stream", "probe"}, func(s *SourceStats) []string { return []string{s.Probe} },
		metrics.Count("lines_total", "Lines read from a probe.", func(s *SourceStats) int64 { return s.Lines }),
		metrics.Count("rejects_total", "Malformed lines of a probe, and lines that are not rows of their log.", func(s *SourceStats) int64 { return s.Rejects }),
		metrics.Count("connections", "Open connections of a probe.", func(s *SourceStats) int64 { return s.Connections }),
		metrics.Time("last_line_timestamp_seconds", "When the last line of a probe arrived.", func(s *SourceStats) time.Time { return s.Last }),
	)
)

// Describe implements prometheus.Collector.
func (s *Stream) Describe(ch chan<- *prometheus.Desc) {
	Metrics.Describe(ch)
	SinkMetrics.Describe(ch)
}

// Collect implements prometheus.Collector.
func (s *Stream) Collect(ch chan<- prometheus.Metric) {
	sum := s.Stats()
	Metrics.Collect(ch, metrics.Of(s.opt.Name, *sum))
	SinkMetrics.Collect(ch, metrics.Of(s.opt.Name, sum.Sinks...))
}
