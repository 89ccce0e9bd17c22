package stream

import (
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
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
	Unacked     int64         // lines of old exporters, who do not send again, on their way to sinks; at the end: lost
	Rate        float64       // lines a second now
	Rates       []int64       // lines per Interval, oldest first; the last is the present one
	Interval    time.Duration // of Rates
	Sinks       []SinkStats
	Sources     []SourceStats // by probe
}

// SourceStats is what came of a probe from one address or folder so far.
type SourceStats = stats.SourceTotals

// SinkStats is what one sink did so far.
type SinkStats struct {
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

// Continue makes the figures of a stream that has ended continue in this one,
// which does not run yet. A sink is the same if its place and name are.
func (s *Stream) Continue(former *Stream) {
	if former == nil {
		return
	}
	var refused int64
	for _, l := range former.listeners {
		refused += l.Refused()
	}
	s.hub.counts.Resume(former.hub.counts, refused)
	for i, q := range s.hub.queues {
		if i < len(former.hub.queues) && former.hub.queues[i].Name == q.Name {
			q.Stats.Resume(&former.hub.queues[i].Stats)
		}
	}
}

// Stats returns what the stream did so far.
func (s *Stream) Stats() *Stats {
	n := s.hub.counts
	now := time.Now()
	sum := &Stats{
		Duration: now.Sub(n.Start), Rate: n.Recent.Rate(now), Rates: n.Recent.Values(now), Interval: stats.Interval,
		Lines: n.Lines.Load(), Bytes: n.Bytes.Load(), Rejects: n.Rejects.Load(), Cuts: n.Cuts.Load(), Empty: n.Empty.Load(),
		Connections: n.Connections.Load(), Accepted: n.Accepted.Load(), Refused: n.Refused.Load(),
		Folders: n.Folders.Load(), Vanished: n.Vanished.Load(), Outside: n.Outside.Load(), Unacked: n.Unacked.Load(),
	}
	for _, l := range s.listeners {
		sum.Refused += l.Refused()
	}
	for _, q := range s.hub.queues {
		c := SinkStats{
			Name: q.Name, Optional: q.Optional, Lines: q.Stats.Lines.Load(), Dropped: q.Stats.Dropped.Load(),
			Restarts: q.Stats.Restarts.Load(), Repeated: q.Stats.Repeated.Load(), Queued: q.Stats.Queued.Load(), Limit: q.Size,
		}
		if trouble := q.Stats.Trouble.Load(); trouble != nil {
			c.Trouble = *trouble
		}
		sum.Sinks = append(sum.Sinks, c)
	}
	sum.Sources = n.Sources.Totals()
	return sum
}
