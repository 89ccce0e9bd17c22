package textfile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
)

const pushMetricPrefix = "tstatrepo_rrd_push_"

// WritePush overwrites f with the metrics of a push of the given probe's RRDs. now is the
// time when the push ended. failure is the error of the push, or nil. sum may be nil.
func (f File) WritePush(probe string, sum *rrdpush.Summary, failure error, now time.Time) error {
	reg := prometheus.NewRegistry()
	gauge := func(name, help string, value float64) {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: pushMetricPrefix + name, Help: help}, []string{"probe"})
		reg.MustRegister(g)
		g.WithLabelValues(probe).Set(value)
	}
	const success = "last_success_timestamp_seconds"
	seconds := float64(now.UnixMilli()) / 1000
	succeeded, last := 1.0, seconds
	if failure != nil {
		succeeded, last = 0, f.formerSuccess(pushMetricPrefix+success, probe)
	}
	if last > 0 {
		gauge(success, "When a push of the probe last succeeded.", last)
	}
	gauge("last_run_timestamp_seconds", "When the last push ended.", seconds)
	gauge("last_run_success", "1 if the last push succeeded.", succeeded)
	if sum != nil {
		gauge("last_run_duration_seconds", "How long the last push took.", sum.Seconds)
		gauge("last_run_files", "RRD files found by the last push.", float64(sum.Files))
		gauge("last_run_points", "Points sent by the last push.", float64(sum.Points))
		gauge("last_run_failed_files", "Files that the last push could not read.", float64(sum.Failed))
		gauge("last_run_recreated_files", "Files older than the last point sent, sent from their start.", float64(sum.Recreated))
		gauge("last_run_not_finite_points", "Infinite values left out.", float64(sum.NotFinite))
		gauge("last_run_waiting_metrics", "New metrics that the last push left for later.", float64(sum.Waiting))
		gauge("last_run_too_old_points", "Points older than the destination keeps or accepts.", float64(sum.TooOld))
		gauge("last_run_out_of_order_points", "Points that the server refused because they are out of order.", float64(sum.Disorder))
		gauge("last_run_refused_points", "Points that the server refused or ignored for other reasons, or that are ahead of the clock.", float64(sum.Refused+sum.Ignored+sum.Ahead))
		gauge("spooled_bytes", "Size of the points in the spool.", float64(sum.Spooled))
	}
	return f.Write(reg)
}
