package repository

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
)

// resultsRRD lists the result columns of repository-collect_rrd. Tstat's
// registry spells "rrdMetirc" this way.
var resultsRRD = []string{"rrdtimestamp", "rrdMetirc", "rrdValue"}

// maxMetrics is the maximum number of stored metrics. A result with all of them
// must fit into one message.
const maxMetrics = 10_000

// lastPoints keeps the last point of each metric while a specification of
// repository-collect_rrd is active.
type lastPoints struct {
	mu     sync.Mutex
	users  int
	points map[string]lastPoint // by path
}

type lastPoint struct {
	graphite.Point
	received time.Time
}

// begin enables the method add. The caller must eventually call end. Once each call to
// begin has been followed by a call to end, add is disabled again.
func (l *lastPoints) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
}

func (l *lastPoints) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users == 0 {
		clear(l.points) // old points must not use up maxMetrics
	}
}

// add stores the last point of each metric. Once maxMetrics are stored, it skips new
// metrics. It does nothing while no specification is active.
func (l *lastPoints) add(metrics []graphite.Metric) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == 0 {
		return
	}
	for _, m := range metrics {
		if len(m.Points) == 0 {
			continue
		}
		path := graphite.CleanPath(m.Path) // the name in the store
		old, known := l.points[path]
		if !known && len(l.points) >= maxMetrics {
			continue
		}
		p := m.Points[len(m.Points)-1] // points are in order
		if known && old.Time > p.Time {
			p = old.Point
		}
		l.points[path] = lastPoint{p, now}
	}
}

// rows returns one row for the stored point of each metric, ordered by path, with the
// columns in resultsRRD. It skips metrics that last received a point before the given
// time.
func (l *lastPoints) rows(since time.Time) [][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rows [][]string
	for _, path := range slices.SortedFunc(maps.Keys(l.points), cmp.Compare) {
		if p := l.points[path]; !p.received.Before(since) {
			rows = append(rows, []string{strconv.FormatInt(p.Time, 10), path, strconv.FormatFloat(p.Value, 'g', -1, 64)})
		}
	}
	return rows
}
