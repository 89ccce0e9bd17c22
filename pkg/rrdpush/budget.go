package rrdpush

import (
	"math"
	"time"
)

// allowance returns how many new metrics may be sent now.
func (p *Pusher) allowance() int {
	if p.Dest.creates <= 0 {
		return math.MaxInt
	}
	now := time.Now().Unix()
	waiting := false
	for _, f := range p.folders {
		s := &f.state
		s.Creates = min(p.mostCreates(), s.Creates+float64(max(now-s.Counted, 0))*p.createRate())
		s.Counted = now
		if f.spool != nil {
			// What waits in the spool is sent at once, with the new metrics in it.
			n, _, err := f.spool.Len()
			waiting = waiting || err != nil || n > 0
		}
	}
	if waiting {
		return 0
	}
	return int(p.budget())
}

// budget returns how many new metrics the destination has left. Folders that
// were pushed on their own before have spent different parts of it.
func (p *Pusher) budget() float64 {
	left := p.mostCreates()
	for _, f := range p.folders {
		left = min(left, f.state.Creates)
	}
	return left
}

// ownMetrics is how many new metrics a minute are left to carbon itself. It
// creates some 20 carbon.agents metrics a minute after its start, from the same
// budget.
const ownMetrics = 25

// mostCreates is how many new metrics may be sent at once.
func (p *Pusher) mostCreates() float64 {
	n := max(p.Dest.creates, 0)
	return float64(n - min(ownMetrics, n/2))
}

// createRate is how many new metrics a second are sent: a little less than
// carbon creates, which counts from when it makes the file.
func (p *Pusher) createRate() float64 { return 0.95 * float64(p.Dest.creates) / 60 }

// manyCreates is how many new metrics a minute carbon takes in Debian.
const manyCreates = 50

// warnCreates says that carbon may drop new metrics, which it does without
// a word to who sends them.
func (p *Pusher) warnCreates(files []named) {
	if p.warned || p.DryRun || p.Dest.scheme != "graphite" || p.Dest.creates >= 0 {
		return
	}
	n := 0
	for _, f := range files {
		if known := f.state.Files[f.file]; known == nil || !known.Created {
			n++
		}
	}
	if n > manyCreates {
		p.warned = true
		p.Log.Warn("carbon's default is to drop new metrics beyond 50 a minute: raise its MAX_CREATES_PER_MINUTE, "+
			"or say what it takes with ?new-metrics-per-minute=50 (0: all)", "new", n)
	}
}
