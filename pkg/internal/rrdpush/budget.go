package rrdpush

import (
	"math"
	"time"
)

// allowance returns how many new metrics may be sent now without exceeding Dest.creates,
// carbon's limit on new metrics per minute. It first updates the budget of each folder;
// see pushState.Creates. It returns 0 if there is a limit and any spool contains metrics.
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
			// Batches in a spool are sent without pauses and may contain new
			// metrics.
			n, _, err := f.spool.Len()
			waiting = waiting || err != nil || n > 0
		}
	}
	if waiting {
		return 0
	}
	return int(p.budget())
}

// budget returns how many new metrics may still be sent to the destination: the smallest
// budget of any folder. The budgets may differ if the folders were previously pushed
// separately.
func (p *Pusher) budget() float64 {
	left := p.mostCreates()
	for _, f := range p.folders {
		left = min(left, f.state.Creates)
	}
	return left
}

// ownMetrics is the number of new metrics reserved for carbon itself. A minute after its
// start, carbon creates about 20 carbon.agents metrics, which count toward its limit on
// new metrics.
const ownMetrics = 25

// mostCreates returns the maximum budget: the new metrics that carbon allows per
// minute, less those reserved for carbon itself.
func (p *Pusher) mostCreates() float64 {
	n := max(p.Dest.creates, 0)
	return float64(n - min(ownMetrics, n/2))
}

// createRate returns how many new metrics may be sent per second. The rate is a little
// below carbon's limit, since carbon does not count a metric when it receives it, but
// later, when it creates the metric's file.
func (p *Pusher) createRate() float64 { return 0.95 * float64(p.Dest.creates) / 60 }

// manyCreates is carbon's default MAX_CREATES_PER_MINUTE in Debian.
const manyCreates = 50

// warnCreates warns once if Dest.creates is not set and the given files need more new
// metrics than carbon creates per minute by default. Carbon drops the excess metrics
// without telling its clients.
func (p *Pusher) warnCreates(files []metricFile) {
	if p.warnedMany || p.DryRun || p.Dest.scheme != "graphite" || p.Dest.creates >= 0 {
		return
	}
	n := 0
	for _, f := range files {
		if !p.lastSent(f.state.Files, f).Created {
			n++
		}
	}
	if n > manyCreates {
		p.warnedMany = true
		p.Log.Warn("carbon drops new metrics beyond 50 a minute by default", "metrics", n,
			"hint", "raise its MAX_CREATES_PER_MINUTE, or add ?new-metrics-per-minute=50 to the URL (0: no limit)")
	}
}
