package stream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// Rates are for the last five minutes.
const (
	interval  = 5 * time.Second
	intervals = 60
)

// counts are those of a stream; Stats says what they count.
type counts struct {
	start                              time.Time
	recent                             *metrics.Counts // of lines
	lines, bytes, rejects, cuts, empty atomic.Int64
	connections, accepted              atomic.Int64
	refused                            atomic.Int64 // by listeners of former streams
	folders, vanished, outside         atomic.Int64
	unacked                            atomic.Int64
	sources                            sources
}

// newCounts returns counts of a stream that starts now.
func newCounts() *counts {
	return &counts{start: time.Now(), recent: metrics.NewCounts(interval, intervals)}
}

// resume adds the counts of a former stream, which has ended. refused is how many
// connections its listeners refused.
func (c *counts) resume(former *counts, refused int64) {
	c.start, c.recent = former.start, former.recent
	for _, n := range []struct{ to, from *atomic.Int64 }{
		{&c.lines, &former.lines}, {&c.bytes, &former.bytes}, {&c.rejects, &former.rejects}, {&c.cuts, &former.cuts}, {&c.empty, &former.empty},
		{&c.accepted, &former.accepted}, {&c.refused, &former.refused}, {&c.folders, &former.folders}, {&c.vanished, &former.vanished}, {&c.outside, &former.outside},
	} {
		n.to.Add(n.from.Load())
	}
	c.refused.Add(refused)
	c.sources.resume(&former.sources)
}

// sinkCounts are those of a sink; ConsumerStats says what they count.
type sinkCounts struct {
	lines, dropped, restarts, repeated, queued atomic.Int64
	trouble                                    atomic.Pointer[string] // nil: none
}

// resume adds the counts of the same sink in a former stream.
func (c *sinkCounts) resume(former *sinkCounts) {
	c.lines.Add(former.lines.Load())
	c.dropped.Add(former.dropped.Load())
	c.restarts.Add(former.restarts.Load())
	c.repeated.Add(former.repeated.Load())
}

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

// lookup returns the counts of a source.
func (s *sources) lookup(probe, from string) *source {
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

// resume adds the counts of former sources, which have ended.
func (s *sources) resume(former *sources) {
	former.mu.Lock()
	defer former.mu.Unlock()
	for _, f := range former.all {
		o := s.lookup(f.probe, f.from)
		o.lines.Add(f.lines.Load())
		o.rejects.Add(f.rejects.Load())
		o.last.Store(f.last.Load())
		o.recent = f.recent
	}
}

// snapshot returns the sources that are connected or have sent lines.
func (s *sources) snapshot() []SourceStats {
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
