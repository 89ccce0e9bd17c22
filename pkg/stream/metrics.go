package stream

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// metric is a metric whose values are in a T.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*T) int64
}

func counter[T any](name, help string, value func(*T) int64, labels ...string) metric[T] {
	return metric[T]{prometheus.NewDesc("tstatrepo_stream_"+name+"_total", help, labels, nil), prometheus.CounterValue, value}
}

func gauge[T any](name, help string, value func(*T) int64) metric[T] {
	return metric[T]{prometheus.NewDesc("tstatrepo_stream_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

var streamMetrics = []metric[Stats]{
	gauge("connections", "Connections of exporters at the moment.", func(s *Stats) int64 { return s.Connections }),
	gauge("untaken_lines", "Lines of old exporters on their way to consumers.", func(s *Stats) int64 { return s.Untaken }),
	counter("lines", "Lines read from exporters and folders.", func(s *Stats) int64 { return s.Lines }),
	counter("bytes", "Bytes read from exporters and folders.", func(s *Stats) int64 { return s.Bytes }),
	counter("rejects", "Lines that were none, or no rows of their log.", func(s *Stats) int64 { return s.Rejects }),
	counter("cuts", "Unfinished last lines, left out.", func(s *Stats) int64 { return s.Cuts }),
	counter("empty", "Lines without text, left out.", func(s *Stats) int64 { return s.Empty }),
	counter("accepted", "Connections accepted.", func(s *Stats) int64 { return s.Accepted }),
	counter("refused", "Connections refused.", func(s *Stats) int64 { return s.Refused }),
	counter("vanished", "Logs that went before they were read to their end.", func(s *Stats) int64 { return s.Vanished }),
}

var consumerMetrics = []metric[ConsumerStats]{
	counter("consumer_lines", "Lines that a consumer has taken.", func(c *ConsumerStats) int64 { return c.Lines }, "consumer"),
	counter("consumer_dropped", "Lines that a consumer did not get.", func(c *ConsumerStats) int64 { return c.Dropped }, "consumer"),
	counter("consumer_restarts", "How often a consumer was opened again.", func(c *ConsumerStats) int64 { return c.Restarts }, "consumer"),
	counter("consumer_repeated_bytes", "Bytes that a consumer was sent again.", func(c *ConsumerStats) int64 { return c.Repeated }, "consumer"),
}

// Describe implements prometheus.Collector. The metrics lack the label
// "stream"; whoever registers several streams adds it, see
// prometheus.WrapRegistererWith.
func (s *Stream) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, ch) }

// Collect implements prometheus.Collector.
func (s *Stream) Collect(ch chan<- prometheus.Metric) {
	sum := s.Stats()
	for _, m := range streamMetrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(sum)))
	}
	for _, m := range consumerMetrics {
		values := map[string]int64{} // without their secrets, names may be the same
		for _, c := range sum.Consumers {
			values[strings.ToValidUTF8(c.Name, "\uFFFD")] += m.value(&c)
		}
		for name, v := range values {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(v), name)
		}
	}
}
