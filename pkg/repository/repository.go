// Package repository is the repository's side of Tstat at mPlane: endpoints
// that take logs (MATH), live lines and points of RRDs, bound to the
// capabilities repository-collect_log, _streaming and _rrd.
package repository

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
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
// off. Ready, Listening, Stored, Report and what opens stores are set by New.
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

	// Ready is called when the endpoints that are open all the time are so.
	Ready func()
}

// Logs is the endpoint for logs.
type Logs struct {
	Math   mathproto.RepositoryOptions
	Stores StoreOptions
}

// Repository has up to three endpoints.
type Repository struct {
	opt       Options
	endpoints []*endpoint
	last      lastPoints
}

// New returns a repository; nothing is open yet.
func New(opt Options) (*Repository, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.SystemID == "" {
		opt.SystemID = DefaultSystemID
	}
	r := &Repository{opt: opt}
	r.last.points = map[string]lastPoint{}
	if o := opt.RRD; o != nil {
		o := *o
		o.Stored = r.last.add
		err := r.add(CollectRRD, "past ... future", resultsRRD, o.Listen, func(ctx context.Context, opened func([]string)) error {
			o.Ready = opened
			_, err := rrdpush.Serve(ctx, o)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if o := opt.Streaming; o != nil {
		o := *o
		err := r.add(CollectStreaming, "now ... future", nil, o.Listen, func(ctx context.Context, opened func([]string)) error {
			o.Listening = opened
			_, err := stream.Run(ctx, o)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if o := opt.Logs; o != nil {
		o := *o
		err := r.add(CollectLog, "past ... future", nil, o.Math.Listen, func(ctx context.Context, opened func([]string)) error {
			return o.serve(ctx, opened)
		})
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// serve takes logs until ctx ends.
func (l *Logs) serve(ctx context.Context, opened func([]string)) error {
	pool, err := OpenStores(ctx, l.Stores)
	if err != nil {
		return err
	}
	o := l.Math
	o.Check, o.Open = pool.Check, pool.Open
	o.Ready = func(addrs []net.Addr) {
		var texts []string
		for _, a := range addrs {
			texts = append(texts, a.String())
		}
		opened(texts)
	}
	_, err = mathproto.RunRepository(ctx, o)
	return errors.Join(err, pool.Close())
}

// add adds an endpoint that serve serves.
func (r *Repository) add(label, when string, results []string, listen []peer.Options, serve func(context.Context, func([]string)) error) error {
	url, err := address(r.opt.Host, listen)
	if err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	scope, err := mplane.ParseScope(when)
	if err != nil {
		return err
	}
	e := &endpoint{label: label, serve: serve, log: r.opt.Log.With("endpoint", label)}
	e.capability = &mplane.Statement{
		Kind: mplane.Capability, Verb: mplane.Measure, Label: label, Registry: mplane.TstatRegistry, When: scope,
		Parameters: mplane.Fields{{Name: "repository.url", Type: mplane.URL, Text: url}},
		Metadata: mplane.Fields{
			{Name: "System_type", Type: mplane.String, Text: "repository"},
			{Name: "System_ID", Type: mplane.String, Text: r.opt.SystemID},
			{Name: "System_version", Type: mplane.String, Text: "0.1"}, // mPlane's; a part of the token
		},
		Results: results,
	}
	r.endpoints = append(r.endpoints, e)
	return nil
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
