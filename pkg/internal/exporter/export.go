package exporter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

const (
	retryFor    = 10 * time.Second // how long a batch of points is retried
	resumeDelay = 10 * time.Second // delay before a resumed export is retried
	spoolSize   = 256 << 20        // bytes of points for an unavailable repository
	// drain must be shorter than the time a component waits for its jobs.
	drain = 5 * time.Second
	// maxRows limits the rows of a result. Tstat writes about 3,000 RRDs.
	maxRows = 5000
)

// export is a running specification.
type export struct {
	label      string
	repository string // host:port, as requested
	addrs      []netip.Addr
	port       string
	folder     string
	logType    string
	silence    time.Duration // time without a line after which silence is reported
	since      time.Time     // older logs are skipped; zero: all logs are exported
	listen     int           // index in Options.Listen
	started    time.Time

	mu      sync.Mutex
	status  Export
	refresh func(*Export)             // updates status; nil if status is always current
	last    map[string]graphite.Point // last point sent, by RRD
	quiet   quiet
}

// run returns the Run function of the component.Service with the given label. This
// function checks the specification and uses do to export until ctx ends. If the
// specification was resumed after a restart, the function retries errors that may be
// temporary.
func (p *Exporter) run(label string, do func(context.Context, *export) error) func(context.Context, *mplane.Statement) ([][]string, error) {
	return func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
		log := p.log.With("specification", spec.Label, "token", spec.ID())
		for {
			e, err := p.accept(ctx, label, spec)
			if err == nil {
				log.Info("export started", "repository", e.repository, "folder", e.folder, "transform", p.transform(label))
				if ctx.Err() == nil {
					err = do(ctx, e)
				}
				if ctx.Err() != nil {
					err = hint.Without(err, context.Cause(ctx))
				}
				p.end(e)
				if err == nil {
					log.Info("export ended", "repository", e.repository, "reason", context.Cause(ctx))
					return e.rows(spec.Results), nil
				}
				err = awayError{err}
			}
			// After a restart a folder may not be mounted yet.
			if !component.Resumed(ctx) || ctx.Err() != nil || !errors.As(err, new(awayError)) {
				log.Error("export failed", "err", err)
				return nil, err
			}
			log.Warn("export cannot resume yet, retrying", "err", err, "retry_in", p.resumeDelay)
			retry.Sleep(ctx, p.resumeDelay) // the next iteration checks ctx
		}
	}
}

// transform describes the anonymization that the exporter with the given label applies.
// The text is for messages. It is "none" if the exporter does not anonymize.
func (p *Exporter) transform(label string) string {
	if p.Anonymize == nil || label == RRD { // RRDs hold no addresses
		return "none"
	}
	return p.Anonymize.String()
}

// exportRRD sends the points of RRDs until ctx ends.
func (p *Exporter) exportRRD(ctx context.Context, e *export) error {
	scheme := "http"
	if p.secure(RRD) {
		scheme = "https"
	}
	dest, err := rrdpush.ParseDest(scheme + "://" + e.repository)
	if err != nil {
		return err
	}
	e.last = map[string]graphite.Point{}
	push, err := rrdpush.New(rrdpush.Options{Sources: []string{e.folder}, Since: e.since, Every: p.Every, Target: rrdpush.Target{
		Dest: dest, Probe: p.Name, TLS: p.TLS, Peers: p.Peers,
		RetryTimeout: p.retry, SpoolSize: spoolSize, StateDir: p.StateDir, Log: p.log, Stored: e.recordSent,
	}})
	if err != nil {
		return err
	}
	for sum, failure := range push.Run(ctx) {
		if ctx.Err() == nil {
			e.recordPass(sum, failure)
		}
	}
	return push.Close()
}

// recordSent records that metrics have been sent: it adds the number of points in metrics
// to e.status.Points, and keeps the last point of each metric, for at most maxRows
// metrics.
func (e *export) recordSent(metrics []graphite.Metric) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status.Points += int64(graphite.Count(metrics))
	for _, m := range metrics {
		if _, ok := e.last[m.Path]; ok || len(e.last) < maxRows {
			e.last[m.Path] = m.Points[len(m.Points)-1]
		}
	}
}

// recordPass records the result of a pass over the RRDs in the status of e.
func (e *export) recordPass(sum *rrdpush.Summary, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status.Waiting = sum.Spooled
	e.status.NotFinite += sum.NotFinite
	e.status.Recreated += sum.Recreated
	e.status.outcome(err)
}

// rows returns a result row for the last point sent from each RRD, with the values in the
// order of columns.
func (e *export) rows(columns []string) [][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	files := make([]string, 0, len(e.last))
	for file := range e.last {
		files = append(files, file)
	}
	slices.Sort(files)
	var rows [][]string
	for _, file := range files {
		fields := map[string]string{
			"rrdtimestamp": real(float64(e.last[file].Time)),
			"rrdMetirc":    file,
			"rrdValue":     real(e.last[file].Value),
		}
		var row []string
		for _, c := range columns {
			row = append(row, fields[c])
		}
		rows = append(rows, row)
	}
	return rows
}

// real formats a number as a canonical mPlane real.
func real(v float64) string {
	text := strconv.FormatFloat(v, 'g', -1, 64)
	if canonical, err := mplane.Real.Canonical(text); err == nil {
		return canonical
	}
	return text
}

// exportLines sends new lines of a log until ctx ends.
func (p *Exporter) exportLines(ctx context.Context, e *export) error {
	sink := p.sink(e.repository)
	key := sha256.Sum256([]byte(strings.Join([]string{e.folder, e.logType, sink}, "\n")))
	s, err := stream.New(stream.Options{
		Follow: []stream.Root{{Probe: p.Name, Dir: e.folder}}, Confined: true, Types: []string{e.logType}, To: []string{sink},
		Anonymize: p.Anonymize, SourceIs: p.SourceIs,
		Location: p.Location, Drain: p.drain, TLS: p.TLS, Peers: p.Peers,
		Name: "probe-" + hex.EncodeToString(key[:8]), StateDir: p.StateDir, Log: p.log,
	})
	if err != nil {
		return err
	}
	e.quiet.since = time.Now()
	running, ended := context.WithCancel(context.Background())
	defer ended()
	var watching sync.WaitGroup
	watching.Go(func() {
		for retry.Sleep(running, min(e.silence/8, time.Second)) == nil {
			p.recordLines(e, s.Stats())
		}
		p.recordLines(e, s.Stats())
	})
	err = s.Run(ctx)
	ended()
	watching.Wait()
	return err
}

// recordLines copies the statistics of a stream to the status of e. It logs a warning
// when no line and no log folder has arrived for the duration e.silence, and a message
// when lines or folders arrive again.
func (p *Exporter) recordLines(e *export, sum *stream.Stats) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, c := &e.status, sum.Sinks[0]
	if c.Lines > s.Lines {
		s.LastSuccess = time.Now()
	}
	s.Lines, s.Bytes, s.Rejects, s.Outside, s.Waiting = c.Lines, sum.Bytes, sum.Rejects, sum.Outside, sum.Lines-c.Lines-c.Dropped
	s.LastError, s.Sink, s.Rate, s.Rates, s.Interval = c.Trouble, c, sum.Rate, sum.Rates, sum.Interval
	switch was := s.Silent; {
	case e.quiet.update(time.Now(), sum.Lines, sum.Folders) < e.silence:
		if s.Silent = false; was {
			p.log.Info("lines arrive again", "specification", s.Label, "folder", e.folder, "type", e.logType)
		}
	case !was:
		s.Silent = true
		s.Silences++
		p.log.Warn("no new line and no new log folder", "specification", s.Label,
			"folder", e.folder, "type", e.logType, "for", e.silence, "hint", "check that Tstat runs and writes this log")
	}
}

// quiet measures for how long neither a line nor a log folder has arrived.
type quiet struct {
	lines, folders int64 // at the last update
	since          time.Time
}

// update records the current totals of lines and folders. It returns for how long neither
// total has changed.
func (q *quiet) update(now time.Time, lines, folders int64) time.Duration {
	if lines != q.lines || folders != q.folders {
		q.lines, q.folders, q.since = lines, folders, now
	}
	return now.Sub(q.since)
}

// exportLogs lets the repository fetch finished logs until ctx ends.
func (p *Exporter) exportLogs(ctx context.Context, e *export) error {
	m, err := mathproto.NewExporter(mathproto.ExporterOptions{
		Dir: e.folder, Repository: mathproto.URL{Addr: e.repository, TLS: p.secure(Log)}, Peers: p.Peers, TLS: p.TLS,
		Listen: []peer.Options{p.Listen[e.listen]}, Advertise: p.Advertise, Stream: p.Stream, Probe: p.Name,
		Location: p.Location, Since: e.since, Settle: p.Settle, Log: p.log,
		Anonymize: p.Anonymize, SourceIs: p.SourceIs, Spool: filepath.Join(p.StateDir, "math"),
		Wants: func(logType string, _ time.Time) bool { return p.wants(logType) },
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.refresh = func(s *Export) {
		st := m.Stats()
		s.Streams, s.Files, s.Bytes, s.LastSuccess, s.LastError, s.Newest = len(st.Streams), st.Files, st.Bytes, st.LastSuccess, st.LastError, st.Newest
	}
	e.mu.Unlock()
	err = m.Run(ctx)
	if cause := context.Cause(ctx); !errors.Is(cause, component.ErrScopeEnd) && !errors.Is(cause, component.ErrInterrupted) {
		return err // the export resumes after a restart
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.drain)
	defer cancel()
	if failure := m.Withdraw(ctx); failure != nil {
		p.log.Warn("streams not removed at the repository, which continues to poll them", "repository", e.repository, "err", failure)
	}
	return err
}

// stats returns a copy of e.status. If e.refresh is set, stats calls it first to update
// the status.
func (e *export) stats() Export {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refresh != nil {
		e.refresh(&e.status)
	}
	return e.status
}

// wants reports whether Options.Types lets tstat-exporter_log export logs of a type.
func (p *Exporter) wants(logType string) bool {
	return len(p.Types) == 0 || slices.ContainsFunc(p.Types, func(g string) bool { ok, _ := path.Match(g, logType); return ok })
}
