// Package repository is the repository's side of Tstat at mPlane: endpoints
// that take logs (MATH), live lines and points of RRDs, bound to the
// capabilities repository-collect_log, _streaming and _rrd.
package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
	"github.com/tstatrepo/tstatrepo/pkg/upkeep"
)

// Labels of the capabilities.
const (
	CollectLog       = "repository-collect_log"
	CollectStreaming = "repository-collect_streaming"
	CollectRRD       = "repository-collect_rrd"
)

// DefaultSystemID is what mPlane's repository calls itself.
const DefaultSystemID = "repository-Proxy"

// Options say which endpoints a repository has. An endpoint that is nil is
// off. Of its options those are set by New that tell when it is open and what
// it does; see Status.
type Options struct {
	Logs      *Logs
	Streaming *stream.Options
	RRD       *rrdpush.EndpointOptions

	// Host is where probes reach the endpoints: with an endpoint's port it is
	// the parameter repository.url of its capability. "": the host that the
	// endpoint listens on.
	Host string
	// Scheduled endpoints are open only while a specification is active;
	// others as long as Run runs.
	Scheduled bool
	SystemID  string // in the metadata; "": DefaultSystemID
	Log       *slog.Logger

	// Stored is told the points that RRD has stored; nil: nobody wants to
	// know.
	Stored func([]graphite.Metric)
	// Ready is called when the endpoints that are open all the time are so;
	// nil: nobody wants to know.
	Ready func()
}

// Logs is the endpoint for logs.
type Logs struct {
	Math   mathproto.RepositoryOptions
	Stores StoreOptions
	// Upkeep is done while the endpoint is open; its To are those of Stores.
	Upkeep upkeep.Options
}

// Repository has up to three endpoints.
type Repository struct {
	opt       Options
	endpoints []*endpoint
	last      lastPoints

	mu      sync.Mutex
	streams func() []mathproto.Status // nil: not known yet
	keeper  *upkeep.Keeper            // nil: none yet
	lines   *stream.Stream
	points  *rrdpush.Endpoint
}

// New returns a repository; nothing is open yet.
func New(opt Options) (*Repository, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.SystemID = cmp.Or(opt.SystemID, DefaultSystemID)
	r := &Repository{opt: opt}
	r.last.points = map[string]lastPoint{}
	for _, d := range []struct {
		label, when string
		results     []string
		listen      []peer.Options
		serve       serveFunc
	}{
		{CollectRRD, "past ... future", resultsRRD, opt.listenRRD(), r.serveRRD(opt.RRD)},
		{CollectStreaming, "now ... future", nil, opt.listenStreaming(), r.serveStreaming(opt.Streaming)},
		{CollectLog, "past ... future", nil, opt.listenLogs(), r.serveLogs(opt.Logs)},
	} {
		if d.serve == nil {
			continue
		}
		url, err := address(opt.Host, d.listen)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.label, err)
		}
		scope, err := mplane.ParseScope(d.when)
		if err != nil {
			return nil, err
		}
		r.endpoints = append(r.endpoints, &endpoint{
			label: d.label, serve: d.serve, log: opt.Log.With("endpoint", d.label),
			capability: &mplane.Statement{
				Kind: mplane.Capability, Verb: mplane.Measure, Label: d.label, Registry: mplane.TstatRegistry, When: scope,
				Parameters: mplane.Fields{{Name: "repository.url", Type: mplane.URL, Text: url}},
				Metadata: mplane.Fields{
					{Name: "System_type", Type: mplane.String, Text: "repository"},
					{Name: "System_ID", Type: mplane.String, Text: opt.SystemID},
					{Name: "System_version", Type: mplane.String, Text: "0.1"}, // mPlane's; a part of the token
				},
				Results: d.results,
			},
		})
	}
	return r, nil
}

func (o *Options) listenRRD() []peer.Options {
	if o.RRD == nil {
		return nil
	}
	return o.RRD.Listen
}

func (o *Options) listenStreaming() []peer.Options {
	if o.Streaming == nil {
		return nil
	}
	return o.Streaming.Listen
}

func (o *Options) listenLogs() []peer.Options {
	if o.Logs == nil {
		return nil
	}
	return o.Logs.Math.Listen
}

// serveRRD returns the function that takes points, nil if that is off; so do
// the others.
func (r *Repository) serveRRD(opt *rrdpush.EndpointOptions) serveFunc {
	if opt == nil {
		return nil
	}
	return func(ctx context.Context, opened func([]string)) error {
		o := *opt
		o.Stored = func(metrics []graphite.Metric) {
			r.last.add(metrics)
			if r.opt.Stored != nil {
				r.opt.Stored(metrics)
			}
		}
		e, err := rrdpush.NewEndpoint(o)
		if err != nil {
			return err
		}
		set(r, &r.points, e)
		opened(e.Addrs())
		return e.Run(ctx)
	}
}

func (r *Repository) serveStreaming(opt *stream.Options) serveFunc {
	if opt == nil {
		return nil
	}
	return func(ctx context.Context, opened func([]string)) error {
		s, err := stream.New(*opt)
		if err != nil {
			return err
		}
		set(r, &r.lines, s)
		opened(s.Addrs())
		return s.Run(ctx)
	}
}

func (r *Repository) serveLogs(opt *Logs) serveFunc {
	if opt == nil {
		return nil
	}
	return func(ctx context.Context, opened func([]string)) error {
		pool, err := OpenStores(ctx, opt.Stores)
		if err != nil {
			return err
		}
		o := opt.Math
		o.Check, o.Open = pool.Check, pool.Open
		o.Started = func(streams func() []mathproto.Status) { set(r, &r.streams, streams) }
		o.Ready = func(addrs []net.Addr) {
			var texts []string
			for _, a := range addrs {
				texts = append(texts, a.String())
			}
			opened(texts)
		}
		keep := opt.Upkeep
		keep.To = opt.Stores.To
		ctx, cancel := context.WithCancel(ctx)
		keeper := upkeep.Start(ctx, keep)
		set(r, &r.keeper, keeper)
		_, err = mathproto.RunRepository(ctx, o)
		cancel()
		keeper.Wait()
		return errors.Join(err, pool.Close())
	}
}

func set[T any](r *Repository, field *T, value T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*field = value
}

// Reopen makes the endpoint of a label use the options that opt has for it,
// but for where it listens. Requests in hand are answered first; connections
// for lines end. What cannot be opened with them stays as it was.
func (r *Repository) Reopen(label string, opt Options) {
	for _, e := range r.endpoints {
		if e.label != label {
			continue
		}
		var serve serveFunc
		switch label {
		case CollectRRD:
			serve = r.serveRRD(opt.RRD)
		case CollectStreaming:
			serve = r.serveStreaming(opt.Streaming)
		case CollectLog:
			serve = r.serveLogs(opt.Logs)
		}
		if serve != nil {
			e.reopen(serve)
		}
	}
}

// Status is what the endpoints did so far. What is not known is zero.
type Status struct {
	Endpoints []EndpointStatus
	Streams   []mathproto.Status    // of the endpoint for logs
	Upkeep    []upkeep.Status       // of the stores of logs, since the endpoint was opened
	Lines     *stream.Stats         // of the endpoint for lines
	Points    rrdpush.EndpointStats // of the endpoint for points
}

// EndpointStatus is how an endpoint is.
type EndpointStatus struct {
	Label string
	Addrs []string  // none: it is not open
	Since time.Time // of its being so; zero: since the start
	Err   error     // why it is not open though it should be
}

// Status returns what the endpoints did so far.
func (r *Repository) Status() *Status {
	s := &Status{}
	for _, e := range r.endpoints {
		s.Endpoints = append(s.Endpoints, e.status())
	}
	r.mu.Lock()
	streams, lines, points, keeper := r.streams, r.lines, r.points, r.keeper
	r.mu.Unlock()
	if lines != nil {
		s.Lines = lines.Stats()
	}
	if streams != nil {
		s.Streams = streams()
	}
	if keeper != nil {
		s.Upkeep = keeper.Status()
	}
	if points != nil {
		s.Points = points.Stats()
	}
	return s
}

// address is where probes reach an endpoint.
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

// Services returns the capabilities of the endpoints. One can be used while
// Run runs.
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

// Run opens the endpoints and serves them until ctx ends. Then they take what
// is under way: the error is nil if nothing is lost.
func (r *Repository) Run(ctx context.Context) error {
	if !r.opt.Scheduled {
		for _, e := range r.endpoints {
			if err := e.acquire(ctx); err != nil {
				return errors.Join(err, r.close())
			}
		}
	}
	if r.opt.Ready != nil {
		r.opt.Ready()
	}
	<-ctx.Done()
	return r.close()
}

// close ends all endpoints at once.
func (r *Repository) close() error {
	errs := make([]error, len(r.endpoints))
	var wg sync.WaitGroup
	for i, e := range r.endpoints {
		wg.Go(func() { errs[i] = e.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
