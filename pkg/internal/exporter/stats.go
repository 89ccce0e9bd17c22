package exporter

import (
	"slices"
	"time"
)

// Export is a specification that runs, and what it has done.
type Export struct {
	Capability string
	Label      string
	Token      string
	Repository string // host:port, as asked for
	Folder     string
	LogType    string // of tstat-exporter_streaming
	Started    time.Time
	// LastSuccess is when the repository last took something, or was found to
	// have all; zero: not yet.
	LastSuccess time.Time
	LastError   string // "" if the last try succeeded
	Silent      bool   // nothing has come for log.time and a minute
	Silences    int64  // times that this was so
	Streams     int    // that the repository has, of tstat-exporter_log
	// Waiting is what the repository did not accept yet: lines, or bytes of
	// points in the spool.
	Waiting int64

	Lines   int64 // taken by the repository, of tstat-exporter_streaming
	Rejects int64 // lines that were no rows of their log
	Outside int64 // logs left out because links lead out of the folder
	Bytes   int64 // read of logs, or of files that were fetched
	Files   int64 // fetched, of tstat-exporter_log
	// Newest is the time of the newest folder from which a log was fetched since
	// the start of the export, of tstat-exporter_log; zero: nothing was fetched.
	Newest time.Time
	Points int64 // sent or in the spool, of tstat-exporter_rrd
	// NotFinite are values left out, and Recreated RRDs older than the last
	// point sent, of tstat-exporter_rrd.
	NotFinite, Recreated int64
}

// outcome takes the end of a try.
func (e *Export) outcome(err error) {
	if err != nil {
		e.LastError = err.Error()
		return
	}
	e.LastError, e.LastSuccess = "", time.Now()
}

// Stats returns the exports that run, the oldest first.
func (p *Exporter) Stats() []Export {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Export
	for _, e := range p.running {
		list = append(list, e.stats())
	}
	return list
}

// end records that an export ended.
func (p *Exporter) end(e *export) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = slices.DeleteFunc(p.running, func(r *export) bool { return r == e })
}
