// Package repository implements the repository side of Tstat in mPlane. Its
// endpoints receive logs (MATH), live lines and RRD points. They serve the
// capabilities repository-collect_log, repository-collect_streaming and
// repository-collect_rrd.
package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Labels of the capabilities.
const (
	CollectLog       = "repository-collect_log"
	CollectStreaming = "repository-collect_streaming"
	CollectRRD       = "repository-collect_rrd"
)

// DefaultSystemID is the System_ID of mPlane's own repository.
const DefaultSystemID = "repository-Proxy"

// Options configures the endpoints of a repository. An endpoint whose options are nil
// is off.
type Options struct {
	Logs      *LogsOptions
	Streaming *stream.Options
	RRD       *rrdpush.EndpointOptions

	// Host is the host at which probes reach the endpoints; "" means the
	// host on which the endpoint listens. Host and the endpoint's port form
	// the parameter repository.url of the capability.
	Host string
	// Scheduled opens endpoints only while a specification is active. Otherwise
	// they are open while Run runs.
	Scheduled bool
	SystemID  string // System_ID in the metadata; "": DefaultSystemID
	Log       *slog.Logger
}

// Repository runs up to three endpoints.
type Repository struct {
	opt       Options
	ready     chan struct{}
	endpoints []*endpoint
	last      lastPoints
	series    *SeriesStore
}

// New returns a repository whose endpoints are not open yet; see Run.
func New(opt Options) (*Repository, error) {
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	opt.SystemID = cmp.Or(opt.SystemID, DefaultSystemID)
	r := &Repository{opt: opt, ready: make(chan struct{}), series: NewSeriesStore(seriesMetrics, seriesPoints)}
	r.last.points = map[string]lastPoint{}
	for _, d := range []struct {
		label, when string
		results     []string
	}{
		{CollectRRD, "past ... future", resultsRRD},
		{CollectStreaming, "now ... future", nil},
		{CollectLog, "past ... future", nil},
	} {
		open, listen := r.opener(d.label, &opt)
		if open == nil {
			continue
		}
		url, err := address(opt.Host, listen)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.label, err)
		}
		scope, err := mplane.ParseScope(d.when)
		if err != nil {
			return nil, err
		}
		r.endpoints = append(r.endpoints, &endpoint{
			label: d.label, open: open, log: opt.Log.With("endpoint", d.label),
			capability: &mplane.Statement{
				Kind: mplane.Capability, Verb: mplane.Measure, Label: d.label, Registry: mplane.TstatRegistry, When: scope,
				Parameters: mplane.Fields{{Name: "repository.url", Type: mplane.URL, Text: url}},
				Metadata: mplane.Fields{
					{Name: "System_type", Type: mplane.String, Text: "repository"},
					{Name: "System_ID", Type: mplane.String, Text: opt.SystemID},
					{Name: "System_version", Type: mplane.String, Text: "0.1"}, // mPlane's value; the token depends on it
				},
				Results: d.results,
			},
		})
	}
	return r, nil
}

// opener returns a function that opens the endpoint with the given label and options. It
// also returns the addresses on which the endpoint listens. The function is nil if the
// options turn the endpoint off.
func (r *Repository) opener(label string, opt *Options) (openFunc, []peer.Options) {
	switch {
	case label == CollectRRD && opt.RRD != nil:
		o := *opt.RRD
		stored := o.Stored
		o.Stored = func(metrics []graphite.Metric) {
			r.last.add(metrics)
			r.series.add(o.Prefix, metrics)
			if stored != nil {
				stored(metrics)
			}
		}
		return newOpenFunc(r, label, func(context.Context) (*rrdpush.Endpoint, error) { return rrdpush.NewEndpoint(o) }), o.Listen
	case label == CollectStreaming && opt.Streaming != nil:
		o := *opt.Streaming
		return newOpenFunc(r, label, func(context.Context) (*stream.Stream, error) { return stream.New(o) }), o.Listen
	case label == CollectLog && opt.Logs != nil:
		o := *opt.Logs
		return newOpenFunc(r, label, func(ctx context.Context) (*Logs, error) { return NewLogs(ctx, o) }), o.Math.Listen
	}
	return nil, nil
}

// newOpenFunc returns an openFunc that calls the given function. The new endpoint
// continues the counts of the endpoint that was last opened with the same label.
func newOpenFunc[T interface {
	server
	Continue(former T)
}](r *Repository, label string, open func(context.Context) (T, error)) openFunc {
	return func(ctx context.Context) (server, error) {
		srv, err := open(ctx)
		if err != nil {
			return nil, err
		}
		srv.Continue(lastOpened[T](r.endpoint(label)))
		return srv, nil
	}
}

// Reopen reopens the endpoint with the given label and new options. The options must
// contain the same addresses as before, because the capability still names them. The
// endpoint first answers the requests in progress, and closes connections for lines. If
// opening fails, the previous options remain in use.
func (r *Repository) Reopen(label string, opt Options) {
	open, _ := r.opener(label, &opt)
	if e := r.endpoint(label); e != nil && open != nil {
		e.reopen(open)
	}
}

// Reverted reports whether the endpoint with the given label could not be opened with the
// options of the last Reopen, and uses the previous ones.
func (r *Repository) Reverted(label string) bool {
	e := r.endpoint(label)
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reverted
}

// endpoint returns the endpoint with the given label, or nil if it is off.
func (r *Repository) endpoint(label string) *endpoint {
	i := slices.IndexFunc(r.endpoints, func(e *endpoint) bool { return e.label == label })
	if i < 0 {
		return nil
	}
	return r.endpoints[i]
}

// EndpointStats is the state of an endpoint.
type EndpointStats struct {
	Label string
	Addrs []string  // empty while closed
	Since time.Time // when the endpoint was last opened or closed; zero if never
	Err   error     // why the endpoint is closed although it should be open
}

// Open reports whether the endpoint is open, that is, listening.
func (e *EndpointStats) Open() bool { return len(e.Addrs) > 0 }

// Name returns the name of the endpoint's section in the configuration.
func (e *EndpointStats) Name() string {
	return strings.ReplaceAll(strings.TrimPrefix(e.Label, "repository-"), "_", "-")
}

// Endpoints returns the state of all endpoints.
func (r *Repository) Endpoints() []EndpointStats {
	var list []EndpointStats
	for _, e := range r.endpoints {
		list = append(list, e.stats())
	}
	return list
}

// Logs returns the most recently opened endpoint for logs, or nil if none was opened.
func (r *Repository) Logs() *Logs { return lastOpened[*Logs](r.endpoint(CollectLog)) }

// Lines returns the most recently opened endpoint for lines, or nil if none was opened.
func (r *Repository) Lines() *stream.Stream {
	return lastOpened[*stream.Stream](r.endpoint(CollectStreaming))
}

// Points returns the most recently opened endpoint for points, or nil if none was opened.
func (r *Repository) Points() *rrdpush.Endpoint {
	return lastOpened[*rrdpush.Endpoint](r.endpoint(CollectRRD))
}

// Series returns the last points of each metric; see SeriesStore.List.
func (r *Repository) Series() (series []Series, untracked int64) { return r.series.List() }

// Ready returns a channel that Run closes when it has opened all endpoints that
// are not scheduled.
func (r *Repository) Ready() <-chan struct{} { return r.ready }

// address returns the host:port at which probes reach an endpoint that listens on the
// given addresses. If host is "", address uses the host in the first of these addresses,
// or 127.0.0.1 if that host is empty too.
func address(host string, listen []peer.Options) (string, error) {
	if len(listen) == 0 {
		return "", errors.New("no address to listen on")
	}
	on, port, err := net.SplitHostPort(listen[0].Addr)
	if err != nil {
		return "", err
	}
	switch {
	case host != "":
	case on == "":
		host = "127.0.0.1"
	default:
		host = on
	}
	return net.JoinHostPort(host, port), nil
}

// Services returns, for each endpoint, a service with the endpoint's capability. The
// services work only while Run runs.
func (r *Repository) Services() []component.Service {
	var list []component.Service
	for _, e := range r.endpoints {
		list = append(list, component.Service{Capability: e.capability, Run: func(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
			began := time.Now()
			r.last.begin()
			defer r.last.end()
			if err := e.acquire(context.WithoutCancel(ctx)); err != nil {
				return nil, err
			}
			defer e.release()
			<-ctx.Done()
			if e.label == CollectRRD {
				return r.last.rows(began), nil
			}
			return nil, nil
		}})
	}
	return list
}

// Run opens the endpoints, unless Options.Scheduled is set, and serves until ctx is done.
// It then waits until the endpoints have accepted the data in flight. Run returns nil if
// no data was lost.
func (r *Repository) Run(ctx context.Context) error {
	if !r.opt.Scheduled {
		for _, e := range r.endpoints {
			if err := e.acquire(ctx); err != nil {
				return errors.Join(err, r.close())
			}
		}
	}
	close(r.ready)
	<-ctx.Done()
	return r.close()
}

// close closes all endpoints concurrently.
func (r *Repository) close() error {
	errs := make([]error, len(r.endpoints))
	var wg sync.WaitGroup
	for i, e := range r.endpoints {
		wg.Go(func() { errs[i] = e.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
