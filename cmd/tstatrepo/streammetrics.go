package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/stream"
)

// writeStreamMetrics replaces file by the sums of a stream so far, for the
// textfile collector of node_exporter.
func writeStreamMetrics(file, name string, sum *stream.Summary) error {
	const prefix = "tstatrepo_stream_"
	reg := prometheus.NewRegistry()
	labels := prometheus.Labels{"stream": name}
	value := func(kind prometheus.ValueType, metric, help string, v float64) {
		reg.MustRegister(constant{prometheus.MustNewConstMetric(prometheus.NewDesc(prefix+metric, help, nil, labels), kind, v)})
	}
	value(prometheus.GaugeValue, "updated_timestamp_seconds", "When these figures were written.", float64(time.Now().UnixMilli())/1000)
	value(prometheus.GaugeValue, "connections", "Connections of exporters at the moment.", float64(sum.Connections))
	value(prometheus.GaugeValue, "untaken_lines", "Lines of old exporters on their way to consumers.", float64(sum.Untaken))
	for _, m := range []struct {
		name, help string
		v          int64
	}{
		{"lines", "Lines read from exporters and folders.", sum.Lines},
		{"bytes", "Bytes read from exporters and folders.", sum.Bytes},
		{"rejects", "Lines that were none, or no rows of their log.", sum.Rejects},
		{"cuts", "Unfinished last lines, left out.", sum.Cuts},
		{"empty", "Lines without text, left out.", sum.Empty},
		{"accepted", "Connections accepted.", sum.Accepted},
		{"refused", "Connections refused.", sum.Refused},
		{"vanished", "Logs that went before they were read to their end.", sum.Vanished},
	} {
		value(prometheus.CounterValue, m.name+"_total", m.help, float64(m.v))
	}
	for _, m := range []struct {
		name, help string
		v          func(stream.ConsumerSummary) int64
	}{
		{"lines", "Lines that a consumer has taken.", func(c stream.ConsumerSummary) int64 { return c.Lines }},
		{"dropped", "Lines that a consumer did not get.", func(c stream.ConsumerSummary) int64 { return c.Dropped }},
		{"restarts", "How often a consumer was opened again.", func(c stream.ConsumerSummary) int64 { return c.Restarts }},
		{"repeated_bytes", "Bytes that a consumer was sent again.", func(c stream.ConsumerSummary) int64 { return c.Repeated }},
	} {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "consumer_" + m.name + "_total", Help: m.help, ConstLabels: labels}, []string{"consumer"})
		reg.MustRegister(v)
		for _, c := range sum.Consumers {
			v.WithLabelValues(c.Name).Add(float64(m.v(c)))
		}
	}
	return writeTextfile(file, reg)
}

// constant is a collector of one figure that is known already.
type constant struct{ prometheus.Metric }

func (c constant) Describe(ch chan<- *prometheus.Desc) { ch <- c.Desc() }
func (c constant) Collect(ch chan<- prometheus.Metric) { ch <- c.Metric }
