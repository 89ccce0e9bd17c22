package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/probe"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
	"github.com/tstatrepo/tstatrepo/pkg/state"
)

// service is what serve runs.
type service struct {
	cfg *config
	con *console
	log *slog.Logger

	repository repository.Options
	probe      *probe.Options // nil: off
	probes     *peer.Probes   // of [[remote-probe]]
	known      []peer.Probe   // that probes know
	roles      *mplane.Roles  // allow what allowed says
	allowed    *mplane.Roles  // of --authorize; nil: everything
	registries *mplane.Registries
	supervisor *wire.Dialer // nil: none
	clients    []peer.Options
	admin      *peer.Options // nil: off
	watch      *watcher
}

// grace is how much longer than --drain-timeout a stop may take in all.
const grace = 10 * time.Second

// run serves until ctx ends, which is the normal end. A signal of hup loads
// the configuration anew.
func (svc *service) run(ctx context.Context, hup <-chan os.Signal, load func(former *service) (*service, error)) error {
	// Two processes would take each other's specifications and streams.
	unlock, err := state.Lock(svc.cfg.stateDir, "serve")
	if err != nil {
		return hint.Add(fmt.Errorf("serve: %w", err), "give each service a --state-dir of its own")
	}
	defer unlock()
	debug.SetMemoryLimit(svc.memory())
	ready := make(chan struct{})
	svc.repository.Ready = func() { close(ready) }
	svc.repository.Stored = svc.watch.points
	repo, err := repository.New(svc.repository)
	if err != nil {
		return err
	}
	services, exporters, err := svc.services(repo)
	if err != nil {
		return err
	}
	svc.watch.repo, svc.watch.probe = repo, exporters
	services = svc.watch.observe(services)
	work, stop := context.WithCancel(ctx)
	defer stop()
	parts := &group{ctx: work, stop: stop}
	parts.run(repo.Run)
	select {
	case <-ready:
		svc.offer(parts, services)
	case <-work.Done(): // an endpoint cannot be opened, or a signal came
	}
	systemd := notifier{svc.log}
	if work.Err() == nil {
		systemd.ready()
	}
	watchdog := systemd.watchdog()
	for work.Err() == nil {
		select {
		case <-work.Done():
		case <-watchdog:
			systemd.alive()
		case <-hup:
			systemd.reloading()
			svc.reload(repo, load)
			systemd.ready()
		}
	}
	systemd.stopping()
	limit := time.After(time.Duration(svc.cfg.serve.drain) + grace)
	ended := parts.ended()
	for {
		select {
		case <-ended:
			svc.log.Info("stopped")
			return parts.err()
		case <-watchdog:
			systemd.alive()
		case <-limit:
			return errors.Join(parts.err(), errors.New("what was under way did not end within --drain-timeout"))
		}
	}
}

// services returns the capabilities of the endpoints, and of the probe if
// there is one.
func (svc *service) services(repo *repository.Repository) ([]component.Service, *probe.Probe, error) {
	if svc.probe == nil {
		return repo.Services(), nil, nil
	}
	p, err := probe.New(*svc.probe)
	if err != nil {
		return nil, nil, err
	}
	// Supervisors of the RI give a specification to the first capability that
	// it fulfils. Without System_ID the exporters of a probe and the endpoints
	// look alike there, and it is the exporters that people run.
	return append(p.Services(), repo.Services()...), p, nil
}

// memory is what the process should not outgrow: what the endpoints may use,
// and something for the rest.
func (svc *service) memory() int64 {
	limit := int64(128 << 20)
	if o := svc.repository.Logs; o != nil {
		limit += o.Stores.Memory
	}
	if o := svc.repository.Streaming; o != nil {
		limit += o.Queue * int64(len(o.To)+len(o.ToOptional))
	}
	return limit
}

// offer lets others use the services of the component.
func (svc *service) offer(parts *group, services []component.Service) {
	if svc.admin != nil {
		parts.run(func(ctx context.Context) error { return svc.watch.serve(ctx, *svc.admin) })
	}
	if svc.supervisor != nil && len(services) > 0 {
		parts.run(func(ctx context.Context) error {
			return component.Run(ctx, component.Options{
				Services: services, Registries: svc.registries, Supervisor: *svc.supervisor, Roles: svc.roles, Log: svc.log,
				StateFile: filepath.Join(svc.cfg.stateDir, "component.state"), Turn: svc.watch.turn, Refused: svc.watch.refuse,
			})
		})
	}
	if len(svc.clients) > 0 {
		jobs := component.NewJobs(services, svc.registries, svc.roles, component.Limits{}, svc.log)
		// Clients come for their results.
		if err := jobs.Restore(filepath.Join(svc.cfg.stateDir, "clients.state"), nil); err != nil {
			parts.run(func(context.Context) error { return err })
			return
		}
		for _, opt := range svc.clients {
			parts.run(func(ctx context.Context) error { return svc.wait(ctx, opt, jobs) })
		}
	}
	svc.log.Info("serving", "capabilities", len(services))
}

// group runs parts of a service. The end of one with an error ends all.
type group struct {
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

func (g *group) run(f func(context.Context) error) {
	g.wg.Go(func() {
		if err := f(g.ctx); err != nil {
			g.mu.Lock()
			g.errs = append(g.errs, err)
			g.mu.Unlock()
			g.stop()
		}
	})
}

// ended returns a channel that is closed when all parts have ended.
func (g *group) ended() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(done)
	}()
	return done
}

func (g *group) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Join(g.errs...)
}

// wait serves clients that come, until ctx ends.
func (svc *service) wait(ctx context.Context, opt peer.Options, jobs *component.Jobs) error {
	l, err := peer.Listen(ctx, opt)
	if err != nil {
		return err
	}
	svc.log.Info("waiting for clients", "address", l.Addr())
	err = wire.Serve(ctx, l, &wire.Server{Registries: svc.registries, Backend: jobs}, svc.log)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(svc.cfg.serve.drain))
	defer cancel()
	jobs.Stop(limit)
	return err
}
