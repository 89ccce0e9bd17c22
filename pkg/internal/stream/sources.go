package stream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// maxSources bounds the sources that are counted apart; further ones count as
// one without a name.
const maxSources = 2048

// SourceStats is what came of a probe from one address or folder so far.
type SourceStats struct {
	Probe       string
	From        string // address without port, folder or broker
	Connections int64  // at the moment
	Lines       int64  // read, headers included
	Rejects     int64
	Last        time.Time // when the last line came
	Rate        float64   // lines a second now
}

// source counts what SourceStats has.
type source struct {
	probe, from                 string
	connections, lines, rejects atomic.Int64
	last                        atomic.Int64 // unix, nanoseconds; 0: never
	recent                      *metrics.Counts
}

// add counts lines that came now.
func (s *source) add(now time.Time, lines int) {
	s.lines.Add(int64(lines))
	s.last.Store(now.UnixNano())
	s.recent.Add(now, int64(lines))
}

// sources are all that there were since the start.
type sources struct {
	mu  sync.Mutex
	all map[[2]string]*source // by probe and from
}

// of returns the counts of a source.
func (s *sources) of(probe, from string) *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{probe, from}
	if s.all[key] == nil && len(s.all) >= maxSources {
		key = [2]string{}
	}
	if s.all == nil {
		s.all = map[[2]string]*source{}
	}
	if s.all[key] == nil {
		s.all[key] = &source{probe: key[0], from: key[1], recent: metrics.NewCounts(interval, 4)}
	}
	return s.all[key]
}

// add adds the counts of former sources, which have ended.
func (s *sources) add(former *sources) {
	former.mu.Lock()
	defer former.mu.Unlock()
	for _, f := range former.all {
		o := s.of(f.probe, f.from)
		o.lines.Add(f.lines.Load())
		o.rejects.Add(f.rejects.Load())
		o.last.Store(f.last.Load())
		o.recent = f.recent
	}
}

// stats returns the sources that are connected or have sent lines.
func (s *sources) stats() []SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []SourceStats
	for _, o := range s.all {
		sum := SourceStats{Probe: o.probe, From: o.from, Connections: o.connections.Load(), Lines: o.lines.Load(), Rejects: o.rejects.Load(), Rate: o.recent.Rate(time.Now())}
		if last := o.last.Load(); last != 0 {
			sum.Last = time.Unix(0, last)
		}
		if sum.Connections > 0 || sum.Lines > 0 || sum.Rejects > 0 {
			list = append(list, sum)
		}
	}
	slices.SortFunc(list, func(a, b SourceStats) int {
		return cmp.Or(cmp.Compare(a.Probe, b.Probe), cmp.Compare(a.From, b.From))
	})
	return list
}
