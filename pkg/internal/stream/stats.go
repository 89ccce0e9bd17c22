package stream

import (
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Stats describes what a Stream has done so far.
type Stats struct {
	Duration    time.Duration
	Lines       int64 // read from all sources, headers included
	Bytes       int64
	Rejects     int64         // malformed lines
	Cuts        int64         // last lines without line end
	Empty       int64         // lines without text
	Connections int64         // at present
	Accepted    int64         // connections so far
	Refused     int64         // connections not allowed, beyond the limit, or with too many probes
	Folders     int64         // followed log folders so far
	Vanished    int64         // logs removed before they were read to the end
	Outside     int64         // logs skipped because of links out of a Confined folder
	Unacked     int64         // lines of old exporters, which do not resend, in flight to sinks; at the end: lost
	Rate        float64       // lines per second now
	Rates       []int64       // lines per Interval, oldest first; the last one is the current interval
	Interval    time.Duration // of Rates
	Sinks       []SinkStats
	Sources     []SourceStats // by probe
}

// SourceStats describes what has arrived of a probe from one address or folder.
type SourceStats = stats.SourceTotals

// SinkStats describes what one sink has done so far.
type SinkStats struct {
	Name     string // without secrets
	Optional bool
	Lines    int64 // acked
	Dropped  int64 // because the sink was too slow (if optional) or rejected them
	Restarts int64
	Repeated int64  // bytes resent after a failure
	Queued   int64  // bytes waiting for the sink
	Limit    int64  // bytes that may wait for the sink
	Trouble  string // why the sink accepts nothing now
}

// Continue continues the figures of an ended stream in this one, which must not
// have started. Sinks match if their position and name are the same.
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

// Stats returns what the stream has done so far.
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
