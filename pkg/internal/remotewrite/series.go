// Package remotewrite sends points to Prometheus, VictoriaMetrics, Mimir and Thanos
// with the Prometheus remote write protocol 1.0.
package remotewrite

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
)

// Label is a label of a series.
type Label struct{ Name, Value string }

// Series is a list of labels, sorted by name. The first is __name__, the name of
// the metric.
type Series []Label

const nameLabel = "__name__"

var (
	metricForm = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelForm  = regexp.MustCompile(`^[a-z][a-zA-Z0-9_]*$`)
)

// ParsePath converts a path to a series. A path has the form
//
//	PREFIX.PROBE.NAME{LABEL=VALUE,...}[.SOURCE]
//
// The series has the metric name PREFIX_NAME, the given labels, the label probe
// and, if the path has a source, the label source. Dots and hyphens in the metric
// name become "_". Values must not contain commas or braces.
func ParsePath(path string) (Series, error) {
	front, rest, ok := strings.Cut(graphite.CleanPath(path), "{")
	text, source, closed := strings.Cut(rest, "}")
	nodes := strings.Split(front, ".")
	n := len(nodes)
	if !ok || !closed || n < 3 || slices.Contains(nodes, "") || source != "" && (source[0] != '.' || source == ".") {
		return nil, fmt.Errorf("path %.200q does not have the form PREFIX.PROBE.NAME{LABEL=VALUE}", path)
	}
	name := strings.ReplaceAll(strings.Join(append(nodes[:n-2:n-2], nodes[n-1]), "_"), "-", "_")
	if name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	if !metricForm.MatchString(name) {
		return nil, fmt.Errorf("path %.200q: %q is not a valid metric name", path, name)
	}
	s := Series{{nameLabel, name}, {"probe", nodes[n-2]}}
	if source != "" {
		s = append(s, Label{"source", source[1:]})
	}
	for pair := range strings.SplitSeq(text, ",") {
		label, value, _ := strings.Cut(pair, "=")
		if !labelForm.MatchString(label) || value == "" || strings.Contains(value, "{") {
			return nil, fmt.Errorf("path %.200q: %q does not have the form LABEL=VALUE", path, pair)
		}
		s = append(s, Label{label, value})
	}
	slices.SortFunc(s, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	for i := range s[1:] {
		if s[i].Name == s[i+1].Name {
			return nil, fmt.Errorf("path %.200q: label %s is given twice", path, s[i].Name)
		}
	}
	return s, nil
}

// Split returns the metric name of s and a map of its other labels.
func (s Series) Split() (name string, labels map[string]string) {
	labels = map[string]string{}
	for _, l := range s[1:] {
		labels[l.Name] = l.Value
	}
	return s[0].Value, labels
}

// Join returns the series with the given metric name and labels. It is the inverse of
// Split.
func Join(name string, labels map[string]string) Series {
	s := Series{{nameLabel, name}}
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		s = append(s, Label{label, labels[label]})
	}
	return s
}

// String returns the series as Prometheus shows it: NAME{LABEL="VALUE",...}.
func (s Series) String() string {
	var b strings.Builder
	b.WriteString(s[0].Value)
	for i, l := range s[1:] {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(l.Name + "=" + strconv.Quote(l.Value))
	}
	b.WriteByte('}')
	return b.String()
}

// sample is a point of a series. The field series is an index into delivery.series.
type sample struct {
	series int
	graphite.Point
}

// appendLabels appends the labels of s, encoded as fields of a TimeSeries message.
func appendLabels(b []byte, s Series) []byte {
	for _, l := range s {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(2+protowire.SizeBytes(len(l.Name))+protowire.SizeBytes(len(l.Value))))
		b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), l.Name)
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), l.Value)
	}
	return b
}

// encode returns the body of a request: a WriteRequest message, compressed in
// snappy's block format. The samples must be sorted by time. labels[i] holds the
// labels of the series with index i, as encoded by appendLabels.
func encode(samples []sample, labels [][]byte) []byte {
	samples = slices.Clone(samples)
	slices.SortStableFunc(samples, func(a, b sample) int { return a.series - b.series })
	var request, series []byte
	for len(samples) > 0 {
		at := samples[0].series
		series = append(series[:0], labels[at]...)
		for len(samples) > 0 && samples[0].series == at {
			ms := uint64(samples[0].Time * 1000)
			series = protowire.AppendTag(series, 2, protowire.BytesType)
			series = protowire.AppendVarint(series, uint64(2+8+protowire.SizeVarint(ms)))
			series = protowire.AppendTag(series, 1, protowire.Fixed64Type)
			series = protowire.AppendFixed64(series, math.Float64bits(samples[0].Value))
			series = protowire.AppendTag(series, 2, protowire.VarintType)
			series = protowire.AppendVarint(series, ms)
			samples = samples[1:]
		}
		request = protowire.AppendTag(request, 1, protowire.BytesType)
		request = protowire.AppendBytes(request, series)
	}
	return snappy.Encode(nil, request)
}
