package exporter

import (
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
)

// Export is a running specification and its progress.
type Export struct {
	Capability string
	Label      string
	Token      string
	Repository string // host:port, as requested
	Folder     string
	LogType    string // of tstat-exporter_streaming
	Started    time.Time
	// LastSuccess is when the repository last accepted data or was up to date; zero:
	// not yet.
	LastSuccess time.Time
	LastError   string // "" if the last attempt succeeded
	Silent      bool   // no line and no log folder has arrived for log.time plus one minute
	Silences    int64  // how often Silent became true
	Streams     int    // streams at the repository, of tstat-exporter_log
	// Waiting is the amount of data that the repository has yet to accept: lines, or
	// bytes of points in the spool.
	Waiting int64

	// Sink describes the connection to the repository, and Rate, Rates and Interval the
	// lines read recently; see stream.Stats. Only tstat-exporter_streaming sets them.
	Sink     stream.SinkStats
	Rate     float64
	Rates    []int64
	Interval time.Duration

	Lines   int64 // accepted by the repository, of tstat-exporter_streaming
	Rejects int64 // malformed lines
	Outside int64 // logs skipped because links lead out of the folder
	Bytes   int64 // read from logs, or served
	Files   int64 // served, of tstat-exporter_log
	// Newest is the time of the newest folder from which the repository has fetched a
	// log since the start of the export; zero: no log yet. Only tstat-exporter_log sets
	// it.
	Newest time.Time
	Points int64 // sent or in the spool, of tstat-exporter_rrd
	// NotFinite counts values that were dropped because they are infinite. Recreated
	// counts RRDs that are older than the last point sent. Only tstat-exporter_rrd sets
	// these fields.
	NotFinite, Recreated int64
}

// outcome records the result of an attempt to export; err is nil after a success.
func (e *Export) outcome(err error) {
	if err != nil {
		e.LastError = err.Error()
		return
	}
	e.LastError, e.LastSuccess = "", time.Now()
}

// Stats returns the running exports, starting with the oldest.
func (p *Exporter) Stats() []Export {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Export
	for _, e := range p.running {
		list = append(list, e.stats())
	}
	return list
}

// end removes e from the running exports.
func (p *Exporter) end(e *export) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = slices.DeleteFunc(p.running, func(r *export) bool { return r == e })
}
