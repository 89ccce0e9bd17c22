// Package metrics builds Prometheus metrics from the statistics of other
// packages.
package metrics

import (
	"iter"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxSets is the maximum number of label sets per metric. A limit is needed because
// peers choose some of the labels.
const MaxSets = 2000

// maxLabel is the maximum length of a label value in bytes.
const maxLabel = 200

// Metric defines a metric whose values come from items of type T.
type Metric[T any] struct {
	name, help string
	value      func(*T) (v float64, known bool)
	merge      func(a, b float64) float64 // combines values with the same labels
}

// Value returns a metric whose value is the first result of f. If the second result is
// false, the value is unknown. Values with the same labels are added up.
func Value[T any](name, help string, f func(*T) (float64, bool)) Metric[T] {
	return Metric[T]{name, help, f, func(a, b float64) float64 { return a + b }}
}

// Count returns a metric that counts things. It is a counter if its name ends in
// _total, otherwise a gauge.
func Count[T any](name, help string, f func(*T) int64) Metric[T] {
	return Value(name, help, func(t *T) (float64, bool) { return float64(f(t)), true })
}

// Flag returns a metric whose value is 1 if f returns true, otherwise 0. If several items
// have the same labels, the value is 1 if f returns true for any of them.
func Flag[T any](name, help string, f func(*T) bool) Metric[T] {
	return Metric[T]{name, help, func(t *T) (v float64, known bool) {
		if f(t) {
			v = 1
		}
		return v, true
	}, func(a, b float64) float64 { return max(a, b) }}
}

// Time returns a metric whose value is the time from f in Unix seconds. A zero time means
// unknown. If several items have the same labels, the value is the latest of their times.
func Time[T any](name, help string, f func(*T) time.Time) Metric[T] {
	return Metric[T]{name, help, func(t *T) (float64, bool) {
		at := f(t)
		return max(0, float64(at.UnixMilli())/1000), !at.IsZero()
	}, func(a, b float64) float64 { return max(a, b) }}
}

// Earliest is like Time, but if several items have the same labels, the value is the
// earliest of their times.
func Earliest[T any](name, help string, f func(*T) time.Time) Metric[T] {
	m := Time(name, help, f)
	m.merge = func(a, b float64) float64 { return min(a, b) }
	return m
}

// Table defines the metrics for items of type T. Labels distinguish the items.
type Table[T any] struct {
	labels  func(*T) []string
	metrics []Metric[T]
	descs   []*prometheus.Desc
}

// New returns a table of metrics whose names begin with tstatrepo_ and prefix. The slice
// names contains the names of the labels. The function labels returns their values for an
// item. If it omits the value of the first label, Collect receives that value with the
// item.
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

// Of returns items in the form that Table.Collect accepts. first is the value of the
// first label for all items, or "" if the labels function passed to New returns a value
// for each label.
func Of[T any](first string, items ...T) iter.Seq2[string, *T] {
	return Each([]struct{}{{}}, func(*struct{}) (string, []T) { return first, items })
}

// Each returns the items of all owners in the form that Table.Collect accepts. The
// function items returns the items of one owner, and the value of the first label for
// them.
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

// Collect sends the metrics of items, which must come from Of or Each. It merges the
// values of items with the same labels, because Prometheus allows only one value for each
// set of labels.
func (t *Table[T]) Collect(ch chan<- prometheus.Metric, items iter.Seq2[string, *T]) {
	// Valid UTF-8 does not contain the separator.
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
