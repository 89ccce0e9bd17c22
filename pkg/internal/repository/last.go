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

// resultsRRD are the columns of what repository-collect_rrd returns.
// "rrdMetirc" is how Tstat's registry spells it.
var resultsRRD = []string{"rrdtimestamp", "rrdMetirc", "rrdValue"}

// maxMetrics bounds how many metrics are remembered: a result with all of
// them has to fit into a message.
const maxMetrics = 10_000

// lastPoints remembers the last point of each metric that comes while
// somebody wants to know.
type lastPoints struct {
	mu     sync.Mutex
	users  int
	points map[string]lastPoint // by path
}

type lastPoint struct {
	graphite.Point
	received time.Time
}

// begin lets points be remembered until end is called.
func (l *lastPoints) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
}

func (l *lastPoints) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users == 0 {
		clear(l.points) // they must not take the room of those to come
	}
}

// add takes points that were received now. Metrics beyond the bound are not
// remembered.
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
		path := graphite.CleanPath(m.Path) // as it is stored
		old, known := l.points[path]
		if !known && len(l.points) >= maxMetrics {
			continue
		}
		p := m.Points[len(m.Points)-1] // they are in order
		if known && old.Time > p.Time {
			p = old.Point
		}
		l.points[path] = lastPoint{p, now}
	}
}

// rows returns the last points of the metrics received since a time, ordered
// by path.
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
