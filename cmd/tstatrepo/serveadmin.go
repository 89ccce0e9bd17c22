package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tstatrepo/tstatrepo/pkg/admin"
	"github.com/tstatrepo/tstatrepo/pkg/dest"
	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/probe"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
)

// Sizes of what the administration listener remembers.
const (
	recentNotices = 50
	seriesMetrics = 5000 // a Tstat has some 2,250
	seriesPoints  = 60
	lineInterval  = 5 * time.Second
	lineIntervals = 60
	hours         = 24
)

// watcher gathers what the administration listener shows.
type watcher struct {
	svc     *service
	started time.Time
	recent  *admin.Recent
	series  *admin.SeriesStore
	lines   *admin.Counts
	repo    *repository.Repository // nil until it runs
	probe   *probe.Probe           // nil: off

	sampling sync.Mutex // keeps samples in the order of what they are of

	mu         sync.Mutex
	services   []component.Service
	specs      map[string][]admin.Specification // that run, by label
	registered bool
	since      time.Time
	regErr     string
	refused    map[string]int64            // specifications of the supervisor, by reason
	streams    map[string]*streamWatch     // by name
	sources    map[[2]string]*admin.Counts // of live lines, by probe and address
	stored     time.Time                   // when points were last stored
}

// streamWatch is what a stream's counts alone do not tell.
type streamWatch struct {
	rows  *admin.Counts
	files int64
	last  time.Time
}

func newWatcher(svc *service, recent *admin.Recent) *watcher {
	now := time.Now()
	return &watcher{
		svc: svc, started: now, since: now, recent: recent,
		series: admin.NewSeriesStore(seriesMetrics, seriesPoints), lines: admin.NewCounts(lineInterval, lineIntervals),
		specs: map[string][]admin.Specification{}, streams: map[string]*streamWatch{},
		sources: map[[2]string]*admin.Counts{},
		// Zeros, so that the first one is an increase for Prometheus.
		refused: map[string]int64{refusedUnknown: 0, refusedPermission: 0, refusedOther: 0},
	}
}

// Reasons of refusals, as labels.
const (
	refusedUnknown    = "unknown capability"
	refusedPermission = "permission"
	refusedOther      = "other"
)

// refuse counts a specification of the supervisor that was refused.
func (w *watcher) refuse(exception string) {
	reason := refusedOther
	switch exception {
	case component.NoService:
		reason = refusedUnknown
	case component.NoPermission:
		reason = refusedPermission
	}
	w.change(func() { w.refused[reason]++ })
}

// observe returns services whose specifications are noted while they run.
func (w *watcher) observe(list []component.Service) []component.Service {
	list = slices.Clone(list)
	for i, s := range list {
		list[i].Run = func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
			now := time.Now()
			_, end := spec.When.Times(now)
			note := admin.Specification{Token: spec.ID(), Since: now, Until: end}
			label := s.Capability.Label
			w.mu.Lock()
			w.specs[label] = append(w.specs[label], note)
			w.mu.Unlock()
			defer func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.specs[label] = slices.DeleteFunc(w.specs[label], func(o admin.Specification) bool { return o == note })
			}()
			return s.Run(ctx, spec)
		}
	}
	w.mu.Lock()
	w.services = list
	w.mu.Unlock()
	return list
}

// turn notes what came of a poll at the supervisor.
func (w *watcher) turn(registered bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if registered != w.registered {
		w.registered, w.since = registered, time.Now()
	}
	w.regErr = ""
	if err != nil {
		w.regErr = err.Error()
	}
}

// change calls f, which changes what the listener shows of the service.
func (w *watcher) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// points notes points that were stored.
func (w *watcher) points(metrics []graphite.Metric) {
	w.mu.Lock()
	w.stored = time.Now()
	prefix := w.svc.repository.RRD.Prefix + "."
	w.mu.Unlock()
	for _, m := range metrics {
		name, metric, _ := strings.Cut(strings.TrimPrefix(m.Path, prefix), ".")
		var list []admin.Point
		for _, p := range m.Points {
			list = append(list, admin.Point{Time: p.Time, Value: p.Value})
		}
		w.series.Add(name, metric, list...)
	}
}

// serve serves the listener until ctx ends.
func (w *watcher) serve(ctx context.Context, opt peer.Options) error {
	l, err := peer.Listen(ctx, opt)
	if err != nil {
		return err
	}
	w.svc.log.Info("administration", "address", l.Addr())
	reg := prometheus.NewRegistry()
	reg.MustRegister(admin.NewCollector(w.state), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var sampling sync.WaitGroup
	sampling.Go(func() {
		tick := time.NewTicker(lineInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.sample(time.Now())
			case <-ctx.Done():
				return
			}
		}
	})
	err = wire.Serve(ctx, l, admin.Handler(admin.Options{State: w.state, Gatherer: reg, Ready: w.ready}), w.svc.log)
	sampling.Wait()
	return err
}

// ready returns why the service is not ready, nil if it is: its endpoints are
// open. A supervisor or a sink that is away is another matter.
func (w *watcher) ready() error {
	var errs []error
	for _, e := range w.repo.Status().Endpoints {
		if len(e.Addrs) == 0 && (e.Err != nil || !w.svc.repository.Scheduled) {
			errs = append(errs, fmt.Errorf("%s is not open", e.Label))
		}
	}
	return errors.Join(errs...)
}

// sample brings counts over time up to date, and returns what they are of.
func (w *watcher) sample(now time.Time) *repository.Status {
	w.sampling.Lock()
	defer w.sampling.Unlock()
	st := w.repo.Status()
	if st.Lines != nil {
		w.lines.Reach(now, st.Lines.Lines)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if st.Lines != nil {
		here := map[[2]string]bool{}
		for _, o := range st.Lines.Sources {
			key := [2]string{o.Probe, o.From}
			here[key] = true
			if w.sources[key] == nil {
				w.sources[key] = admin.NewCounts(lineInterval, 4) // for the rate
			}
			w.sources[key].Reach(now, o.Lines)
		}
		maps.DeleteFunc(w.sources, func(key [2]string, _ *admin.Counts) bool { return !here[key] })
	}
	seen := map[string]bool{}
	for _, s := range st.Streams {
		seen[s.StreamName] = true
		c := w.streams[s.StreamName]
		if c == nil {
			c = &streamWatch{rows: admin.NewCounts(time.Hour, hours)}
			w.streams[s.StreamName] = c
		}
		c.rows.Reach(now, s.Rows)
		if s.Files > c.files {
			c.last = now
		}
		c.files = s.Files
	}
	maps.DeleteFunc(w.streams, func(name string, _ *streamWatch) bool { return !seen[name] })
	return st
}

var endpointNames = map[string]string{
	repository.CollectLog:       admin.EndpointLog,
	repository.CollectStreaming: admin.EndpointStreaming,
	repository.CollectRRD:       admin.EndpointRRD,
}

// state is a snapshot.
func (w *watcher) state() *admin.State {
	now := time.Now()
	st := w.sample(now)
	host, _ := os.Hostname()
	s := &admin.State{Name: host, Version: currentVersion(), Started: w.started, Recent: w.recent.List(), Certificates: certificates(w.svc.cfg.serve.tls())}
	for _, e := range st.Endpoints {
		s.Endpoints = append(s.Endpoints, admin.Endpoint{
			Name: endpointNames[e.Label], Addrs: e.Addrs, Open: len(e.Addrs) > 0, Since: e.Since, Err: errText(e.Err),
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.svc.cfg.serve; c.supervisor != "" || len(c.clients) > 0 {
		s.Supervisor = &admin.Supervisor{URL: c.supervisor, Clients: c.clients, Registered: w.registered, Since: w.since, Err: w.regErr, Refused: maps.Clone(w.refused)}
	}
	for _, sv := range w.services {
		label := sv.Capability.Label
		side := admin.SideRepository
		if endpointNames[label] == "" {
			side = admin.SideProbe
		}
		s.Capabilities = append(s.Capabilities, admin.Capability{Label: label, Side: side, Specifications: slices.Clone(w.specs[label])})
	}
	w.logs(s, st, now)
	for _, u := range st.Upkeep {
		s.Upkeep = append(s.Upkeep, admin.Upkeep{Store: u.Store, LastSuccess: u.LastSuccess, Failed: u.Failed,
			Compacted: u.Compacted.Files, PrunedFiles: u.Pruned.Files, PrunedRows: u.Pruned.Rows})
	}
	w.live(s, st, now)
	w.rrd(s, st)
	if w.probe != nil {
		w.exports(s)
	}
	return s
}

// logs adds the streams of MATH probes.
func (w *watcher) logs(s *admin.State, st *repository.Status, now time.Time) {
	var to []string
	if l := w.svc.repository.Logs; l != nil {
		for _, text := range l.Stores.To {
			to = append(to, dest.Redact(text))
		}
	}
	for _, l := range st.Streams {
		a := admin.Logs{
			Stream: l.StreamName, Probe: l.Probe, Type: l.StreamType, From: l.CallBackUrl, To: to,
			LastFolder: l.LastFolder, LateAfter: w.lateAfter(), Files: l.Files, Rows: l.Rows, Rejects: l.Rejects, Bytes: l.Bytes,
			Failed: l.Failed, Others: l.Others, Claimed: l.Claimed,
		}
		if !l.ErrorTime.Before(l.LastPoll) { // else that is over
			a.Err, a.ErrTime = l.LastError, l.ErrorTime
		}
		if t := mathproto.LogType(l.StreamType); t != nil {
			a.Type = t.Name
		}
		if c := w.streams[l.StreamName]; c != nil {
			a.LastSuccess, a.Hourly = c.last, c.rows.Values(now)
		}
		s.Logs = append(s.Logs, a)
	}
}

// lateAfter is the lag from which on a stream is late. Of the folder that
// Tstat writes to, nothing can be there yet, and of the one before for a while.
func (w *watcher) lateAfter() time.Duration {
	return 3 * cmp.Or(w.svc.repository.Logs.Math.FolderLength, mathproto.DefaultFolderLength)
}

// live adds the endpoint for lines.
func (w *watcher) live(s *admin.State, st *repository.Status, now time.Time) {
	o := w.svc.repository.Streaming
	if o == nil {
		return
	}
	a := admin.Live{Name: admin.EndpointStreaming, Rate: w.lines.Rate(now), Rates: w.lines.Values(now), Interval: lineInterval}
	sum := st.Lines
	if sum == nil {
		sum = &stream.Stats{}
	}
	a.Connections, a.Accepted, a.Refused = sum.Connections, sum.Accepted, sum.Refused
	a.Lines, a.Bytes, a.Rejects, a.Cuts, a.Empty = sum.Lines, sum.Bytes, sum.Rejects, sum.Cuts, sum.Empty
	a.Vanished, a.Untaken = sum.Vanished, sum.Untaken
	for _, c := range sum.Consumers {
		a.Consumers = append(a.Consumers, admin.Consumer{
			Name: c.Name, Optional: c.Optional, Lines: c.Lines, Dropped: c.Dropped, Restarts: c.Restarts, Repeated: c.Repeated,
			Queue: c.Queued, QueueSize: o.Queue, Err: c.Trouble,
		})
	}
	for _, c := range sum.Sources {
		l := admin.Source{Probe: c.Probe, Addr: c.From, Connections: c.Connections, Lines: c.Lines, Rejects: c.Rejects, Last: c.Last}
		if counts := w.sources[[2]string{c.Probe, c.From}]; counts != nil {
			l.Rate = counts.Rate(now)
		}
		a.Sources = append(a.Sources, l)
	}
	s.Live = append(s.Live, a)
}

// rrd adds the endpoint for points.
func (w *watcher) rrd(s *admin.State, st *repository.Status) {
	if w.svc.repository.RRD == nil {
		return
	}
	a := admin.RRD{Name: admin.EndpointRRD, To: dest.Redact(w.svc.cfg.serve.collectRRD.to), LastSuccess: w.stored}
	sum := st.Points
	a.Spooled, a.Err = sum.Spooled, errText(sum.Down)
	a.Posts, a.Refused, a.Points, a.NotFinite = sum.Posts, sum.Refused, sum.Points, sum.NotFinite
	a.Series, a.Untracked = w.series.List()
	s.RRD = append(s.RRD, a)
}

// exports adds what the probe does.
func (w *watcher) exports(s *admin.State) {
	for _, e := range w.probe.Status().Exports {
		name := e.Label + " " + e.Token
		switch e.Capability {
		case probe.Log:
			s.Logs = append(s.Logs, admin.Logs{
				Stream: name, Probe: w.probe.Name, From: e.Folder, To: []string{e.Repository},
				LastSuccess: e.LastSuccess, Files: e.Files, Bytes: e.Bytes, Err: e.LastError,
			})
		case probe.Streaming:
			s.Live = append(s.Live, admin.Live{
				Name: name, Lines: e.Lines, Bytes: e.Bytes, Rejects: e.Rejects, Untaken: e.Waiting,
				Sources:   []admin.Source{{Probe: w.probe.Name, Addr: e.Folder, Lines: e.Lines, Rejects: e.Rejects, Last: e.LastSuccess}},
				Consumers: []admin.Consumer{{Name: e.Repository, Lines: e.Lines, Err: e.LastError}},
			})
		case probe.RRD:
			s.RRD = append(s.RRD, admin.RRD{Name: name, To: e.Repository, Points: e.Points, NotFinite: e.NotFinite, Recreated: e.Recreated, Spooled: e.Waiting, LastSuccess: e.LastSuccess, Err: e.LastError})
		}
	}
}

// certificates reads those that the service shows and trusts.
func certificates(files peer.TLS) []admin.Certificate {
	var list []admin.Certificate
	for _, f := range []struct{ use, path string }{{"tls-cert", files.Cert}, {"tls-ca", files.CA}} {
		if f.path == "" {
			continue
		}
		rest, err := os.ReadFile(f.path)
		if err != nil {
			list = append(list, admin.Certificate{Use: "serve " + f.use, Err: err.Error()})
			continue
		}
		for len(rest) > 0 {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			a := admin.Certificate{Use: "serve " + f.use}
			if cert, err := x509.ParseCertificate(block.Bytes); err != nil {
				a.Err = err.Error()
			} else {
				a.Subject, a.NotAfter = cert.Subject.String(), cert.NotAfter
			}
			list = append(list, a)
		}
	}
	return list
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
