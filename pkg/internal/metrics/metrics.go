// Package metrics builds Prometheus metrics from the figures of other packages.
package metrics

import (
	"iter"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxSets bounds the label sets of a metric: peers choose some of the labels.
const MaxSets = 2000

// maxLabel bounds the value of a label, in bytes.
const maxLabel = 200

// Metric is a figure of a T.
type Metric[T any] struct {
	name, help string
	value      func(*T) (v float64, known bool)
	merge      func(a, b float64) float64 // combines values with the same labels
}

// Value is a figure that may be unknown.
func Value[T any](name, help string, f func(*T) (float64, bool)) Metric[T] {
	return Metric[T]{name, help, f, func(a, b float64) float64 { return a + b }}
}

// Count is a number of things. It is a counter if its name ends in _total.
func Count[T any](name, help string, f func(*T) int64) Metric[T] {
	return Value(name, help, func(t *T) (float64, bool) { return float64(f(t)), true })
}

// Flag is 1 or 0.
func Flag[T any](name, help string, f func(*T) bool) Metric[T] {
	return Metric[T]{name, help, func(t *T) (v float64, known bool) {
		if f(t) {
			v = 1
		}
		return v, true
	}, func(a, b float64) float64 { return max(a, b) }}
}

// Time is the newest of several times. A zero time is unknown.
func Time[T any](name, help string, f func(*T) time.Time) Metric[T] {
	return Metric[T]{name, help, func(t *T) (float64, bool) {
		at := f(t)
		return max(0, float64(at.UnixMilli())/1000), !at.IsZero()
	}, func(a, b float64) float64 { return max(a, b) }}
}

// Earliest is the first of several times.
func Earliest[T any](name, help string, f func(*T) time.Time) Metric[T] {
	m := Time(name, help, f)
	m.merge = func(a, b float64) float64 { return min(a, b) }
	return m
}

// Table holds the metrics of all T, which labels distinguish.
type Table[T any] struct {
	labels  func(*T) []string
	metrics []Metric[T]
	descs   []*prometheus.Desc
}

// New returns a table of metrics whose names begin with tstatrepo_ and prefix.
// names are the names of the labels; the function labels returns their values.
// If it returns one value less, the first label comes from Collect.
func New[T any](prefix string, names []string, labels func(*T) []string, list ...Metric[T]) *Table[T] {
	t := &Table[T]{labels: labels, metrics: list}
	for i := range list {
		list[i].name = "tstatrepo_" + prefix + list[i].name
		t.descs = append(t.descs, prometheus.NewDesc(list[i].name, list[i].help, names, nil))
	}
	return t
}

// Describe sends the descriptions of all metrics.
func (t *Table[T]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range t.descs {
		ch <- d
	}
}

// Of returns items with the same first label; first is "" if labels returns all
// values.
func Of[T any](first string, items ...T) iter.Seq2[string, *T] {
	return Each([]struct{}{{}}, func(*struct{}) (string, []T) { return first, items })
}

// Each returns the items of all owners, each with the first label of its owner.
func Each[O, T any](owners []O, items func(*O) (first string, list []T)) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		for i := range owners {
			first, list := items(&owners[i])
			for k := range list {
				if !yield(first, &list[k]) {
					return
				}
			}
		}
	}
}

// Collect sends the metrics of items, each with its first label, see Of. It
// merges values with the same labels, since a metric must be unique.
func (t *Table[T]) Collect(ch chan<- prometheus.Metric, items iter.Seq2[string, *T]) {
	// The separator does not occur in valid text.
	const separator = "\xff"
	all := make([]map[string]float64, len(t.metrics))
	for first, item := range items {
		labels := t.labels(item)
		if first != "" {
			labels = append([]string{first}, labels...)
		}
		for i, l := range labels {
			if len(l) > maxLabel {
				l = strings.ToValidUTF8(l[:maxLabel], "") + "…"
			}
			labels[i] = strings.ToValidUTF8(l, "\uFFFD")
		}
		key := strings.Join(labels, separator)
		for i, m := range t.metrics {
			if all[i] == nil {
				all[i] = map[string]float64{}
			}
			v, known := m.value(item)
			old, merged := all[i][key]
			switch {
			case !known || !merged && len(all[i]) == MaxSets:
				continue
			case merged:
				v = m.merge(old, v)
			}
			all[i][key] = v
		}
	}
	for i, m := range t.metrics {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(m.name, "_total") {
			kind = prometheus.CounterValue
		}
		for key, v := range all[i] {
			ch <- prometheus.MustNewConstMetric(t.descs[i], kind, v, strings.Split(key, separator)...)
		}
	}
}
