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
	// Former is the result of Successes from the start of the process. Only a process
	// that imports from several probes needs it: WriteImports overwrites the file with
	// the probes imported so far, and then a later probe may fail.
	Former map[string]float64
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

// formerSuccess returns the Unix time of the given last-success metric and probe in the
// existing file, or 0 if the file has none.
func (f File) formerSuccess(metric, probe string) float64 { return f.successes(metric)[probe] }

// successes returns the Unix times of the given last-success metric in the existing file,
// by probe.
func (f File) successes(metric string) map[string]float64 {
	text, err := os.ReadFile(f.Path)
	if err != nil {
		return nil
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, metric+"{probe=")
		if !ok {
			continue
		}
		label, value, ok := strings.Cut(strings.TrimSpace(rest), "} ")
		probe, err := strconv.Unquote(label)
		last, err2 := strconv.ParseFloat(value, 64)
		if ok && err == nil && err2 == nil {
			found[probe] = last
		}
	}
	return found
}
