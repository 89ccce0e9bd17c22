package probe

import (
	"slices"
	"time"
)

// Counts are what exports have done.
type Counts struct {
	Lines   int64 `json:"lines"`   // taken by the repository, of tstat-exporter_streaming
	Rejects int64 `json:"rejects"` // lines that were no rows of their log
	Bytes   int64 `json:"bytes"`   // read of logs, or of files that were fetched
	Files   int64 `json:"files"`   // fetched, of tstat-exporter_log
	Points  int64 `json:"points"`  // sent or in the spool, of tstat-exporter_rrd
	// NotFinite are values left out, and Recreated RRDs older than the last
	// point sent, of tstat-exporter_rrd.
	NotFinite int64 `json:"not_finite"`
	Recreated int64 `json:"recreated"`
	Silences  int64 `json:"silences"` // times that nothing came for log.time and a minute
}

func (c *Counts) add(d Counts) {
	c.Lines += d.Lines
	c.Rejects += d.Rejects
	c.Bytes += d.Bytes
	c.Files += d.Files
	c.Points += d.Points
	c.NotFinite += d.NotFinite
	c.Recreated += d.Recreated
	c.Silences += d.Silences
}

// Export is a specification that runs.
type Export struct {
	Capability string    `json:"capability"`
	Label      string    `json:"label"`
	Token      string    `json:"token"`
	Repository string    `json:"repository"` // host:port, as asked for
	Folder     string    `json:"folder"`
	LogType    string    `json:"log_type,omitempty"` // of tstat-exporter_streaming
	Started    time.Time `json:"started"`
	// LastSuccess is when the repository last took something, or was found to
	// have all; zero: not yet.
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastError   string    `json:"last_error,omitempty"` // "" if the last try succeeded
	Silent      bool      `json:"silent"`               // nothing has come for log.time and a minute
	Streams     int       `json:"streams"`              // that the repository has, of tstat-exporter_log
	// Waiting is what the repository has not taken yet: lines, or bytes of
	// points in the spool.
	Waiting int64 `json:"waiting"`
	Counts
}

// outcome takes the end of a try.
func (e *Export) outcome(err error) {
	if err != nil {
		e.LastError = err.Error()
		return
	}
	e.LastError, e.LastSuccess = "", time.Now()
}

// Total sums up the specifications of a capability.
type Total struct {
	Capability string `json:"capability"`
	Running    int64  `json:"running"`
	Ended      int64  `json:"ended"`   // at the end of their scope, or interrupted
	Refused    int64  `json:"refused"` // without beginning
	Failed     int64  `json:"failed"`  // later
	Counts            // with those that run
}

// Stats is what a probe does.
type Stats struct {
	Exports []Export `json:"exports"` // that run, the oldest first
	Totals  []Total  `json:"totals"`  // since the start of the process, one for each capability
}

// Stats returns what the probe does at the moment.
func (p *Probe) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	var s Stats
	totals := map[string]*Total{}
	for label, t := range p.ended {
		c := *t
		totals[label] = &c
	}
	for _, e := range p.running {
		s.Exports = append(s.Exports, e.stats())
		totals[e.label].Running++
		totals[e.label].add(s.Exports[len(s.Exports)-1].Counts)
	}
	for _, label := range []string{RRD, Streaming, Log} {
		s.Totals = append(s.Totals, *totals[label])
	}
	return s
}

// count changes what is counted of a capability.
func (p *Probe) count(label string, change func(*Total)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p.ended[label])
}

// end notes that an export runs no more.
func (p *Probe) end(e *export, failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = slices.DeleteFunc(p.running, func(r *export) bool { return r == e })
	t := p.ended[e.label]
	t.add(e.stats().Counts)
	if failure != nil {
		t.Failed++
	} else {
		t.Ended++
	}
}
