// Package graphite sends points to a carbon server (carbon, go-carbon,
// VictoriaMetrics) as text or pickle, or writes them to Whisper files.
package graphite

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// ErrUnavailable is wrapped by the errors of sinks whose destination is down or
// full. A later retry may succeed.
var ErrUnavailable = errors.New("destination unavailable")

// Point is a data point of an RRD.
type Point = rrdfile.Point

// Metric holds points of one metric, sorted by time.
type Metric struct {
	Path   string // nodes joined by dots, see CleanPath
	Step   int64  // seconds between points; 0: unknown
	Points []Point
}

// Sink stores points. A resent point replaces the earlier one.
type Sink interface {
	// Send stores metrics. It returns nil if all points were accepted. After an
	// error, the sink may have accepted some of the points.
	Send(ctx context.Context, metrics []Metric) error
	// Close frees the resources of the sink.
	Close() error
}

// Count returns the total number of points in metrics.
func Count(metrics []Metric) (n int) {
	for _, m := range metrics {
		n += len(m.Points)
	}
	return n
}

// CleanPath makes a path valid for all Graphite servers. It removes leading dots, and
// replaces spaces, bytes other than printable ASCII, and / \ ; ~ " ' ` with "_". The
// result cannot end a line, add a tag or escape from a folder.
func CleanPath(path string) string {
	clean := func(c byte) bool { return c > ' ' && c < 0x7f && strings.IndexByte("/\\;~\"'`", c) < 0 }
	path = strings.TrimLeft(path, ".")
	for i := range len(path) {
		if !clean(path[i]) {
			b := []byte(path)
			for ; i < len(b); i++ {
				if !clean(b[i]) {
					b[i] = '_'
				}
			}
			return string(b)
		}
	}
	return path
}

// AppendText appends metrics in carbon's plaintext protocol. Each point becomes a line
// "path value time". Values have enough digits to be read back exactly. NaN and infinity
// are left out.
func AppendText(b []byte, metrics []Metric) []byte {
	for _, m := range metrics {
		path := CleanPath(m.Path)
		for _, p := range m.Points {
			if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
				continue
			}
			b = append(b, path...)
			b = append(b, ' ')
			b = appendValue(b, p.Value)
			b = append(b, ' ')
			b = strconv.AppendInt(b, p.Time, 10)
			b = append(b, '\n')
		}
	}
	return b
}

// appendValue appends a value. It has a fast path for integers, since most of
// Tstat's counters are integers.
func appendValue(b []byte, v float64) []byte {
	if i := int64(v); float64(i) == v && i > -1<<53 && i < 1<<53 && (i != 0 || !math.Signbit(v)) {
		return strconv.AppendInt(b, i, 10)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}
