package admin

import (
	"cmp"
	"slices"
	"sync"
)

// SeriesStore keeps the last points of metrics, bounded in both numbers. It
// is safe for concurrent use.
type SeriesStore struct {
	metrics, points int

	mu        sync.Mutex
	series    map[seriesKey][]Point
	untracked int64
}

type seriesKey struct{ probe, metric string }

// NewSeriesStore returns a store for at most so many metrics, with as many of
// their newest points.
func NewSeriesStore(metrics, points int) *SeriesStore {
	return &SeriesStore{metrics: metrics, points: points, series: map[seriesKey][]Point{}}
}

// Add takes points of a metric, by ascending time. One at a time that is
// there already replaces it. Points of a metric for which there is no room
// are counted only.
func (s *SeriesStore) Add(probe, metric string, points ...Point) {
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
		i, found := slices.BinarySearchFunc(kept, p, func(a, b Point) int { return cmp.Compare(a.Time, b.Time) })
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

// List returns all series, ordered by probe and metric, and how many points
// came of metrics that there was no room for.
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
