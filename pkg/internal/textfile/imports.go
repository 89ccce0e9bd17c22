package textfile

import (
	"cmp"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

const (
	metricPrefix  = "tstatrepo_import_"
	metricSuccess = metricPrefix + "last_success_timestamp_seconds"
)

// Run holds the result of an import; Summary may be nil.
type Run struct {
	Summary *bulk.Summary
	Failure error
	Ended   time.Time
}

// WriteImports overwrites f with the metrics of imports and of the upkeep of stores. The
// keys of runs are the names of the probes. If a run failed, f keeps the time of the
// probe's last success, so an alert on the age of that time detects both failed runs and
// runs that never start.
func (f File) WriteImports(runs map[string]Run, kept []upkeep.Stats) error {
	reg := prometheus.NewRegistry()
	gauges := map[string]*prometheus.GaugeVec{}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		if gauges[name] == nil {
			gauges[name] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
			reg.MustRegister(gauges[name])
		}
		return gauges[name]
	}
	for probe, r := range runs {
		seconds := float64(r.Ended.UnixMilli()) / 1000
		succeeded, last := 1.0, seconds
		if r.Failure != nil {
			succeeded, last = 0, cmp.Or(f.formerSuccess(metricSuccess, probe), f.Former[probe])
		}
		if last > 0 {
			gauge(metricSuccess, "When an import of the probe last succeeded.", "probe").WithLabelValues(probe).Set(last)
		}
		gauge(metricPrefix+"last_run_timestamp_seconds", "When the last import ended.", "probe").WithLabelValues(probe).Set(seconds)
		gauge(metricPrefix+"last_run_success", "1 if the last import succeeded, even with rejected lines.", "probe").WithLabelValues(probe).Set(succeeded)
		if r.Summary == nil {
			continue
		}
		gauge(metricPrefix+"last_run_duration_seconds", "How long the last import took.", "probe").WithLabelValues(probe).Set(r.Summary.Seconds)
		for _, m := range []struct {
			name, help string
			value      func(*bulk.TypeSummary) int64
		}{
			{"files", "Files stored by the last import.", func(t *bulk.TypeSummary) int64 { return t.Files }},
			{"rows", "Rows stored by the last import.", func(t *bulk.TypeSummary) int64 { return t.Rows }},
			{"filtered_rows", "Rows not selected by the last import.", func(t *bulk.TypeSummary) int64 { return t.Filtered }},
			{"rejects", "Lines rejected by the last import.", func(t *bulk.TypeSummary) int64 { return t.Rejects }},
			{"cuts", "Unfinished ends of files found by the last import.", func(t *bulk.TypeSummary) int64 { return t.Cuts }},
			{"damaged_files", "Damaged files of which the last import stored the good part.", func(t *bulk.TypeSummary) int64 { return t.Damaged }},
			{"other_transform_files", "Files that the last import skipped because they are stored under another transform.", func(t *bulk.TypeSummary) int64 { return t.OtherTransform }},
			{"failed_files", "Files not stored by the last import because of an error.", func(t *bulk.TypeSummary) int64 { return t.Failed }},
			{"others_files", "Files that other importers stored during the last import.", func(t *bulk.TypeSummary) int64 { return t.Others }},
			{"claimed_files", "Files that the last import left to other importers that had claimed them.", func(t *bulk.TypeSummary) int64 { return t.Claimed }},
			{"left_open_files", "Unfinished files that the last import left for later.", func(t *bulk.TypeSummary) int64 { return t.LeftOpen }},
		} {
			g := gauge(metricPrefix+"last_run_"+m.name, m.help, "probe", "type")
			for _, t := range r.Summary.Types {
				g.WithLabelValues(probe, t.Name).Set(float64(m.value(t)))
			}
		}
		g := gauge(metricPrefix+"last_run_passed_over", "Names that look like logs, but were not read by the last import.", "probe", "kind")
		g.WithLabelValues(probe, "files").Set(float64(r.Summary.PassedOver.Files))
		g.WithLabelValues(probe, "folders").Set(float64(r.Summary.PassedOver.Folders))
	}
	for _, k := range kept {
		if !k.LastSuccess.IsZero() {
			gauge("tstatrepo_store_upkeep_last_success_timestamp_seconds", "When the last upkeep of the store succeeded.", "store").
				WithLabelValues(k.Store).Set(float64(k.LastSuccess.UnixMilli()) / 1000)
		}
		for _, m := range []struct {
			name, help string
			value      int64
		}{
			{"upkeep_failures", "Times that the upkeep of the store failed since the start.", k.Failed},
			{"compacted_files", "Files merged into larger ones since the start.", k.Compacted.Files},
			{"pruned_files", "Log files whose rows were removed since the start.", k.Pruned.Files},
			{"pruned_rows", "Rows removed since the start.", k.Pruned.Rows},
		} {
			gauge("tstatrepo_store_"+m.name, m.help, "store").WithLabelValues(k.Store).Set(float64(m.value))
		}
	}
	return f.Write(reg)
}

// Successes returns the Unix time of the last successful import of each probe in the
// existing file.
func (f File) Successes() map[string]float64 { return f.successes(metricSuccess) }

// ByProbe merges the runs with the same Summary.Probe, for example if one probe has
// several streams. The keys of the result are the names of the probes. Each run must have
// a Summary.
func ByProbe(runs map[string]Run) map[string]Run {
	probes := map[string]Run{}
	for _, r := range runs {
		p, ok := probes[r.Summary.Probe]
		if ok {
			r.Summary = bulk.Merge([]*bulk.Summary{p.Summary, r.Summary})
			r.Failure = errors.Join(p.Failure, r.Failure)
			if p.Ended.After(r.Ended) {
				r.Ended = p.Ended
			}
		}
		probes[r.Summary.Probe] = r
	}
	return probes
}
