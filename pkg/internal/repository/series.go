package repository

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
)

// Series holds the last points of a metric.
type Series struct {
	Probe, Metric string
	Points        []graphite.Point // in ascending order of time; at least one
}

// Last returns the newest point, or the zero point if s has no points.
func (s *Series) Last() graphite.Point {
	if len(s.Points) == 0 {
		return graphite.Point{}
	}
	return s.Points[len(s.Points)-1]
}

// Limits of a Repository's series store.
const (
	seriesMetrics = 5000 // one Tstat has about 2,250
	seriesPoints  = 60
)

// SeriesStore keeps the last points of metrics in memory. It limits the number of
// metrics, and the number of points per metric. It is safe for concurrent use.
type SeriesStore struct {
	metrics, points int

	mu        sync.Mutex
	series    map[seriesKey][]graphite.Point
	untracked int64
}

type seriesKey struct{ probe, metric string }

// NewSeriesStore returns a store for up to the given number of metrics, with up
// to the given number of points each.
func NewSeriesStore(metrics, points int) *SeriesStore {
	return &SeriesStore{metrics: metrics, points: points, series: map[seriesKey][]graphite.Point{}}
}

// Add adds points of a metric, in ascending order of time. A point replaces a
// stored point with the same time. Points of new metrics beyond the limit are only
// counted.
func (s *SeriesStore) Add(probe, metric string, points ...graphite.Point) {
	if len(points) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := seriesKey{probe, metric}
	kept, known := s.series[key]
	if !known && len(s.series) >= s.metrics {
		s.untracked += int64(len(points))
		return
	}
	if len(points) > s.points {
		points = points[len(points)-s.points:]
	}
	for _, p := range points {
		i, found := slices.BinarySearchFunc(kept, p, func(a, b graphite.Point) int { return cmp.Compare(a.Time, b.Time) })
		switch {
		case found:
			kept[i] = p
		case len(kept) < s.points:
			kept = slices.Insert(kept, i, p)
		case i > 0:
			copy(kept, kept[1:i])
			kept[i-1] = p
		}
	}
	s.series[key] = kept
}

// add adds the points of the given metrics. The path of each metric must have the form
// PREFIX.PROBE.METRIC, with the given prefix.
func (s *SeriesStore) add(prefix string, metrics []graphite.Metric) {
	for _, m := range metrics {
		probe, metric, _ := strings.Cut(strings.TrimPrefix(m.Path, prefix+"."), ".")
		s.Add(probe, metric, m.Points...)
	}
}

// List returns all series, ordered by probe and metric. It also returns the number of
// points that were not stored because of the limit on metrics.
func (s *SeriesStore) List() (series []Series, untracked int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, points := range s.series {
		series = append(series, Series{Probe: k.probe, Metric: k.metric, Points: slices.Clone(points)})
	}
	slices.SortFunc(series, func(a, b Series) int {
		return cmp.Or(cmp.Compare(a.Probe, b.Probe), cmp.Compare(a.Metric, b.Metric))
	})
	return series, s.untracked
}
