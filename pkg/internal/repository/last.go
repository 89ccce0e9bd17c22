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

// resultsRRD are the columns of the results of repository-collect_rrd.
// "rrdMetirc" is the spelling of Tstat's registry.
var resultsRRD = []string{"rrdtimestamp", "rrdMetirc", "rrdValue"}

// maxMetrics limits the stored metrics: a result with all of them must fit into
// a message.
const maxMetrics = 10_000

// lastPoints stores the last point of each metric while it is needed.
type lastPoints struct {
	mu     sync.Mutex
	users  int
	points map[string]lastPoint // by path
}

type lastPoint struct {
	graphite.Point
	received time.Time
}

// begin starts storing points until end is called.
func (l *lastPoints) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
}

func (l *lastPoints) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users == 0 {
		clear(l.points) // old points must not take the room of new ones
	}
}

// add stores points received now. Metrics beyond maxMetrics are skipped.
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
		path := graphite.CleanPath(m.Path) // as stored
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

// rows returns the last points of the metrics received since a time, ordered by
// path.
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
