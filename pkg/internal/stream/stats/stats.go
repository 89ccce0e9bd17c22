// Package stats counts what a stream, its sources and its sinks do.
package stats

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// Rates cover the last Intervals periods of length Interval, five minutes in total.
const (
	Interval  = 5 * time.Second
	Intervals = 60
)

// Stream holds the counts of a stream. See stream.Stats for their meaning.
type Stream struct {
	Start                              time.Time
	Recent                             *metrics.Counts // of lines
	Lines, Bytes, Rejects, Cuts, Empty atomic.Int64
	Connections, Accepted              atomic.Int64
	Refused                            atomic.Int64 // by listeners of earlier streams
	Folders, Vanished, Outside         atomic.Int64
	Unacked                            atomic.Int64
	Sources                            Sources
}

// NewStream returns zero counts for a stream that starts now.
func NewStream() *Stream {
	return &Stream{Start: time.Now(), Recent: metrics.NewCounts(Interval, Intervals)}
}

// Resume makes c continue the counts, start time and rates of an earlier stream that has
// ended. refused is the number of connections that the earlier stream's listeners refused.
func (c *Stream) Resume(former *Stream, refused int64) {
	c.Start, c.Recent = former.Start, former.Recent
	for _, n := range []struct{ to, from *atomic.Int64 }{
		{&c.Lines, &former.Lines}, {&c.Bytes, &former.Bytes}, {&c.Rejects, &former.Rejects}, {&c.Cuts, &former.Cuts}, {&c.Empty, &former.Empty},
		{&c.Accepted, &former.Accepted}, {&c.Refused, &former.Refused}, {&c.Folders, &former.Folders}, {&c.Vanished, &former.Vanished}, {&c.Outside, &former.Outside},
	} {
		n.to.Add(n.from.Load())
	}
	c.Refused.Add(refused)
	c.Sources.resume(&former.Sources)
}

// Sink holds the counts of a sink. See stream.SinkStats for their meaning.
type Sink struct {
	Lines, Dropped, Restarts, Repeated, Queued atomic.Int64
	Trouble                                    atomic.Pointer[string] // nil: no trouble
}

// Resume adds the counts that the same sink had in an earlier stream.
func (c *Sink) Resume(former *Sink) {
	c.Lines.Add(former.Lines.Load())
	c.Dropped.Add(former.Dropped.Load())
	c.Restarts.Add(former.Restarts.Load())
	c.Repeated.Add(former.Repeated.Load())
}

// maxSources is the maximum number of sources with separate counts. Further sources
// share one entry without a name.
const maxSources = 2048

// SourceTotals summarizes the lines of a probe from one address, folder or
// broker.
type SourceTotals struct {
	Probe       string
	From        string // address without port, folder or broker
	Connections int64  // currently open
	Lines       int64  // read, including headers
	Rejects     int64
	Last        time.Time // when the last line arrived; zero: never
	Rate        float64   // current lines per second
}

// Source counts the lines of a probe from one address, folder or broker. See
// SourceTotals for the meaning of the counts.
type Source struct {
	probe, from                 string
	Connections, lines, Rejects atomic.Int64
	last                        atomic.Int64 // Unix time in nanoseconds; 0: never
	recent                      *metrics.Counts
}

// Add counts lines that have just arrived.
func (s *Source) Add(now time.Time, lines int) {
	s.lines.Add(int64(lines))
	s.last.Store(now.UnixNano())
	s.recent.Add(now, int64(lines))
}

// Sources holds the counts of all sources that a stream has had since its start.
type Sources struct {
	mu  sync.Mutex
	all map[[2]string]*Source // by probe and from
}

// Lookup returns the counts of a source. Sources beyond maxSources share one
// entry without a name.
func (s *Sources) Lookup(probe, from string) *Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{probe, from}
	if s.all[key] == nil && len(s.all) >= maxSources {
		key = [2]string{}
	}
	if s.all == nil {
		s.all = map[[2]string]*Source{}
	}
	if s.all[key] == nil {
		s.all[key] = &Source{probe: key[0], from: key[1], recent: metrics.NewCounts(Interval, 4)}
	}
	return s.all[key]
}

// resume makes the sources continue the counts and rates that they had in an earlier
// stream.
func (s *Sources) resume(former *Sources) {
	former.mu.Lock()
	defer former.mu.Unlock()
	for _, f := range former.all {
		o := s.Lookup(f.probe, f.from)
		o.lines.Add(f.lines.Load())
		o.Rejects.Add(f.Rejects.Load())
		o.last.Store(f.last.Load())
		o.recent = f.recent
	}
}

// Totals returns the totals of the sources that are connected or have sent lines,
// sorted by Probe and From.
func (s *Sources) Totals() []SourceTotals {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []SourceTotals
	for _, o := range s.all {
		sum := SourceTotals{Probe: o.probe, From: o.from, Connections: o.Connections.Load(), Lines: o.lines.Load(), Rejects: o.Rejects.Load(), Rate: o.recent.Rate(time.Now())}
		if last := o.last.Load(); last != 0 {
			sum.Last = time.Unix(0, last)
		}
		if sum.Connections > 0 || sum.Lines > 0 || sum.Rejects > 0 {
			list = append(list, sum)
		}
	}
	slices.SortFunc(list, func(a, b SourceTotals) int {
		return cmp.Or(cmp.Compare(a.Probe, b.Probe), cmp.Compare(a.From, b.From))
	})
	return list
}
