package stream

import (
	"sync/atomic"
	"time"
)

// Summary is what a run did so far.
type Summary struct {
	Seconds     float64           `json:"seconds"`
	Lines       int64             `json:"lines"` // read from all sources, headers included
	Bytes       int64             `json:"bytes"`
	Rejects     int64             `json:"rejects"`     // lines that were none, or no rows of their log
	Cuts        int64             `json:"cut"`         // last lines without end
	Empty       int64             `json:"empty"`       // lines without text
	Connections int64             `json:"connections"` // at the moment
	Accepted    int64             `json:"accepted"`    // connections so far
	Refused     int64             `json:"refused"`     // connections that were not allowed, too many, or of too many probes
	Folders     int64             `json:"folders"`     // followed log folders so far
	Vanished    int64             `json:"vanished"`    // logs that went before they were read to their end
	Untaken     int64             `json:"untaken"`     // lines of old exporters, who do not send again, on their way to consumers; at the end: lost
	Consumers   []ConsumerSummary `json:"consumers"`
	Sources     []SourceSummary   `json:"sources"` // by probe
}

// ConsumerSummary is what one consumer did so far.
type ConsumerSummary struct {
	Name     string `json:"name"`
	Optional bool   `json:"optional"`
	Lines    int64  `json:"lines"`   // taken
	Dropped  int64  `json:"dropped"` // because it was too slow (if optional), or cannot take them at all
	Restarts int64  `json:"restarts"`
	Repeated int64  `json:"repeated"`          // bytes sent again after a restart
	Queued   int64  `json:"queued"`            // bytes that wait for it
	Trouble  string `json:"trouble,omitempty"` // why it takes nothing now
}

type consumerStats struct {
	lines, dropped, restarts, repeated, queued atomic.Int64
	trouble                                    atomic.Pointer[string] // nil: none
}

type stats struct {
	start                              time.Time
	lines, bytes, rejects, cuts, empty atomic.Int64
	connections, accepted, refused     atomic.Int64
	folders, vanished, untaken         atomic.Int64
}

func (h *hub) summary() *Summary {
	s := h.stats
	sum := &Summary{
		Seconds: time.Since(s.start).Seconds(),
		Lines:   s.lines.Load(), Bytes: s.bytes.Load(), Rejects: s.rejects.Load(), Cuts: s.cuts.Load(), Empty: s.empty.Load(),
		Connections: s.connections.Load(), Accepted: s.accepted.Load(), Refused: s.refused.Load(),
		Folders: s.folders.Load(), Vanished: s.vanished.Load(), Untaken: s.untaken.Load(),
	}
	for _, q := range h.queues {
		c := ConsumerSummary{
			Name: q.name, Optional: q.optional, Lines: q.stats.lines.Load(), Dropped: q.stats.dropped.Load(),
			Restarts: q.stats.restarts.Load(), Repeated: q.stats.repeated.Load(), Queued: q.stats.queued.Load(),
		}
		if trouble := q.stats.trouble.Load(); trouble != nil {
			c.Trouble = *trouble
		}
		sum.Consumers = append(sum.Consumers, c)
	}
	sum.Sources = h.sources.summary()
	return sum
}
