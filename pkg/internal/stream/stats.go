package stream

import (
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Stats describes what a Stream has done so far.
type Stats struct {
	Duration    time.Duration
	Lines       int64 // read from all sources, including headers
	Bytes       int64
	Rejects     int64         // malformed lines
	Cuts        int64         // unfinished last lines, and damaged compressed logs
	Empty       int64         // lines without text
	Connections int64         // currently open
	Accepted    int64         // connections accepted so far
	Refused     int64         // connections refused: forbidden, malformed or too many
	Folders     int64         // log folders followed so far
	Vanished    int64         // logs or messages removed before they were read
	Outside     int64         // logs skipped because of Options.Confined
	Unacked     int64         // lines in flight from exporters that do not resend them
	Rate        float64       // current lines per second
	Rates       []int64       // lines per Interval, oldest first; the last is incomplete
	Interval    time.Duration // of Rates
	Sinks       []SinkStats
	Sources     []SourceStats // sorted by probe
}

// SourceStats summarizes the lines of a probe from one address, folder or broker.
type SourceStats = stats.SourceTotals

// SinkStats describes what one sink has done so far.
type SinkStats struct {
	Name     string // without secrets
	Optional bool
	Lines    int64 // acked
	Dropped  int64 // rejected by the sink, or not acked by an optional sink: too slow, failed, or down when the stream ended
	Restarts int64
	Repeated int64  // bytes resent after a failure
	Queued   int64  // bytes waiting for the sink
	Limit    int64  // maximum of Queued
	Trouble  string // why the sink currently accepts nothing; "" if it works
}

// Continue adds the counts of an earlier stream that has ended. It does nothing if former
// is nil. Call it before s starts. A sink of s continues the counts of the earlier
// stream's sink with the same index if both have the same name.
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

// Stats returns the current counts of the stream.
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
