// Package textfile writes the metrics of short-lived commands for node_exporter's
// textfile collector.
package textfile

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// File is a metrics file.
type File struct {
	Path    string
	Version string // of the program
}

// Write adds a metric with f.Version to reg, and overwrites the file at f.Path with all
// metrics in reg.
func (f File) Write(reg *prometheus.Registry) error {
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tstatrepo_build_info", Help: "Version of tstatrepo, always 1."}, []string{"version", "goversion"})
	reg.MustRegister(build)
	build.WithLabelValues(f.Version, runtime.Version()).Set(1)
	if err := prometheus.WriteToTextfile(f.Path, reg); err != nil {
		return fmt.Errorf("metrics file: %w", err)
	}
	return nil
}

// formerSuccess returns the Unix time that the existing file contains for the given
// last-success metric and probe, or 0 if the file contains none.
func (f File) formerSuccess(metric, probe string) float64 {
	text, err := os.ReadFile(f.Path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, fmt.Sprintf("%s{probe=%q} ", metric, probe))
		if !ok {
			continue
		}
		if last, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
			return last
		}
	}
	return 0
}
