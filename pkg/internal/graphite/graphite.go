// Package graphite sends points to Graphite: to a carbon server (carbon,
// go-carbon, VictoriaMetrics) as text or pickle, or to Whisper files.
package graphite

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// ErrUnavailable is wrapped by errors of a destination that is down or full: a
// retry may succeed later.
var ErrUnavailable = errors.New("destination unavailable")

// Point is a point of an RRD.
type Point = rrdfile.Point

// Metric holds points of one metric, by ascending time.
type Metric struct {
	Path   string // nodes joined by dots; see CleanPath
	Step   int64  // seconds between points; 0: unknown
	Points []Point
}

// Sink receives points. A point that is sent again replaces itself.
type Sink interface {
	// Send stores metrics. It returns nil when they are accepted; after an error
	// some of them may be.
	Send(ctx context.Context, metrics []Metric) error
	// Close frees the resources of the sink.
	Close() error
}

// Count returns how many points metrics have.
func Count(metrics []Metric) (n int) {
	for _, m := range metrics {
		n += len(m.Points)
	}
	return n
}

// CleanPath makes a path valid for every Graphite: bytes other than printable
// ASCII, and / \ ; ~ " ' become _, so that no path ends a line, adds a tag or
// leaves a folder. It removes dots at the start.
func CleanPath(path string) string {
	clean := func(c byte) bool { return c > ' ' && c < 0x7f && strings.IndexByte(`/\;~"'`, c) < 0 }
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

// AppendText appends metrics in carbon's plaintext protocol: a line "path value
// time" for each point. Values have enough digits to be read back exactly. NaN
// is left out, since carbon drops it.
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

// appendValue has a fast path for whole numbers: most of Tstat's counters are.
func appendValue(b []byte, v float64) []byte {
	if i := int64(v); float64(i) == v && i > -1<<53 && i < 1<<53 && (i != 0 || !math.Signbit(v)) {
		return strconv.AppendInt(b, i, 10)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}
