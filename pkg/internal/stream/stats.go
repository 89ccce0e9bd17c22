package stream

import (
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// Stats is what a Stream did so far.
type Stats struct {
	Duration    time.Duration
	Lines       int64 // read from all sources, headers included
	Bytes       int64
	Rejects     int64         // lines that were none, or no rows of their log
	Cuts        int64         // last lines without end
	Empty       int64         // lines without text
	Connections int64         // at the moment
	Accepted    int64         // connections so far
	Refused     int64         // connections that were not allowed, too many, or of too many probes
	Folders     int64         // followed log folders so far
	Vanished    int64         // logs that went before they were read to their end
	Outside     int64         // logs left out because of links out of a Confined folder
	Untaken     int64         // lines of old exporters, who do not send again, on their way to consumers; at the end: lost
	Rate        float64       // lines a second now
	Rates       []int64       // lines per Interval, oldest first; the last is the present one
	Interval    time.Duration // of Rates
	Consumers   []ConsumerStats
	Sources     []SourceStats // by probe
}

// ConsumerStats is what one consumer did so far.
type ConsumerStats struct {
	Name     string // without secrets
	Optional bool
	Lines    int64 // taken
	Dropped  int64 // because it was too slow (if optional), or cannot take them at all
	Restarts int64
	Repeated int64  // bytes sent again after a restart
	Queued   int64  // bytes that wait for it
	Limit    int64  // bytes that may wait for it
	Trouble  string // why it takes nothing now
}

type consumerStats struct {
	lines, dropped, restarts, repeated, queued atomic.Int64
	trouble                                    atomic.Pointer[string] // nil: none
}

// Rates are for the last five minutes.
const (
	interval  = 5 * time.Second
	intervals = 60
)

type stats struct {
	start                              time.Time
	recent                             *metrics.Counts // of lines
	lines, bytes, rejects, cuts, empty atomic.Int64
	connections, accepted              atomic.Int64
	refused                            atomic.Int64 // by listeners of former streams
	folders, vanished, untaken         atomic.Int64
	outside                            atomic.Int64
}

// Continue makes the figures of a stream that has ended continue in this one,
// which does not run yet. A consumer is the same if its place and name are.
func (s *Stream) Continue(former *Stream) {
	if former == nil {
		return
	}
	n, f := &s.hub.stats, &former.hub.stats
	n.start, n.recent = f.start, f.recent
	for _, c := range []struct{ to, from *atomic.Int64 }{
		{&n.lines, &f.lines}, {&n.bytes, &f.bytes}, {&n.rejects, &f.rejects}, {&n.cuts, &f.cuts}, {&n.empty, &f.empty},
		{&n.accepted, &f.accepted}, {&n.refused, &f.refused}, {&n.folders, &f.folders}, {&n.vanished, &f.vanished}, {&n.outside, &f.outside},
	} {
		c.to.Add(c.from.Load())
	}
	for _, l := range former.listeners {
		n.refused.Add(l.Refused())
	}
	for i, q := range s.hub.queues {
		if i < len(former.hub.queues) && former.hub.queues[i].name == q.name {
			f := &former.hub.queues[i].stats
			q.stats.lines.Add(f.lines.Load())
			q.stats.dropped.Add(f.dropped.Load())
			q.stats.restarts.Add(f.restarts.Load())
			q.stats.repeated.Add(f.repeated.Load())
		}
	}
	s.hub.sources.add(&former.hub.sources)
}

// Stats returns what the stream did so far.
func (s *Stream) Stats() *Stats {
	n := &s.hub.stats
	now := time.Now()
	sum := &Stats{
		Duration: now.Sub(n.start), Rate: n.recent.Rate(now), Rates: n.recent.Values(now), Interval: interval,
		Lines: n.lines.Load(), Bytes: n.bytes.Load(), Rejects: n.rejects.Load(), Cuts: n.cuts.Load(), Empty: n.empty.Load(),
		Connections: n.connections.Load(), Accepted: n.accepted.Load(), Refused: n.refused.Load(),
		Folders: n.folders.Load(), Vanished: n.vanished.Load(), Outside: n.outside.Load(), Untaken: n.untaken.Load(),
	}
	for _, l := range s.listeners {
		sum.Refused += l.Refused()
	}
	for _, q := range s.hub.queues {
		c := ConsumerStats{
			Name: q.name, Optional: q.optional, Lines: q.stats.lines.Load(), Dropped: q.stats.dropped.Load(),
			Restarts: q.stats.restarts.Load(), Repeated: q.stats.repeated.Load(), Queued: q.stats.queued.Load(), Limit: q.size,
		}
		if trouble := q.stats.trouble.Load(); trouble != nil {
			c.Trouble = *trouble
		}
		sum.Consumers = append(sum.Consumers, c)
	}
	sum.Sources = s.hub.sources.stats()
	return sum
}
