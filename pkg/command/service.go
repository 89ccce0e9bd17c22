package command

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

	"github.com/tstatrepo/tstatrepo/pkg/internal/admin"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/probe"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// service is what serve runs.
type service struct {
	con     *console.Console
	log     *slog.Logger
	recent  *admin.Recent // what was logged
	started time.Time

	mu  sync.Mutex // of cfg, which reload changes
	cfg *config

	repository repository.Options
	probe      *probe.Options // nil: off
	probes     *peer.Probes   // of [[remote-probe]]
	known      []peer.Probe   // that probes know
	roles      *mplane.Roles  // allow what allowed says
	allowed    *mplane.Roles  // of --authorize; nil: everything
	registries *mplane.Registries
	supervisor *wire.Dialer // nil: none
	clients    []peer.Options
	admin      []peer.Options // none: off

	// What runs.
	repo      *repository.Repository
	exporter  *probe.Probe         // nil: off
	component *component.Component // at the supervisor; nil: none
	services  []component.Service
	jobs      []*component.Jobs // of the supervisor, of clients
}

// grace is how much longer than --drain-timeout a stop may take in all.
const grace = 10 * time.Second

// run serves until ctx ends, which is the normal end. A signal of hup reloads
// the configuration.
func (svc *service) run(ctx context.Context, hup <-chan os.Signal, load func(former *service) (*service, error)) error {
	// Two processes would take each other's specifications and streams.
	unlock, err := state.Lock(svc.cfg.stateDir, "serve")
	if err != nil {
		return hint.Add(fmt.Errorf("serve: %w", err), "give each service a --state-dir of its own")
	}
	defer unlock()
	debug.SetMemoryLimit(svc.memory())
	if err := svc.open(); err != nil {
		return err
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	parts := &parts{stop: stop}
	parts.Go(func() error { return svc.repo.Run(work) })
	select {
	case <-svc.repo.Ready():
		if err := svc.offer(work, parts); err != nil {
			parts.Go(func() error { return err })
		}
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
			svc.reload(load)
			systemd.ready()
		}
	}
	systemd.stopping()
	limit := time.After(time.Duration(svc.cfg.serve.drain) + grace)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		parts.running.Wait()
	}()
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

// parts run concurrently. The first that fails stops all.
type parts struct {
	stop    func()
	running sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

// Go starts a part.
func (p *parts) Go(run func() error) {
	p.running.Go(func() {
		err := run()
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.errs) > 0 { // the part was stopped
			err = hint.Without(err, context.Canceled)
		}
		if err != nil {
			p.errs = append(p.errs, err)
			p.stop()
		}
	})
}

// err returns the errors of all parts that have ended, in that order.
func (p *parts) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}

// open makes the repository, the probe if there is one, and their services.
func (svc *service) open() (err error) {
	if svc.repo, err = repository.New(svc.repository); err != nil {
		return err
	}
	if svc.probe != nil {
		if svc.exporter, err = probe.New(*svc.probe); err != nil {
			return err
		}
		// Supervisors of the RI give a specification to the first capability
		// that it fulfils. Without System_ID the exporters of a probe and the
		// endpoints look alike there, and it is the exporters that people run.
		svc.services = svc.exporter.Services()
	}
	svc.services = append(svc.services, svc.repo.Services()...)
	return nil
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

// offer lets others use the services and look at them.
func (svc *service) offer(ctx context.Context, parts *parts) (err error) {
	if svc.supervisor != nil && len(svc.services) > 0 {
		svc.component, err = component.New(component.Options{
			Services: svc.services, Registries: svc.registries, Supervisor: *svc.supervisor, Roles: svc.roles, Log: svc.log,
			StateFile: filepath.Join(svc.cfg.stateDir, "component.state"),
		})
		if err != nil {
			return err
		}
		svc.jobs = append(svc.jobs, svc.component.Jobs())
		parts.Go(func() error { return svc.component.Run(ctx) })
	}
	if len(svc.clients) > 0 {
		jobs := component.NewJobs(svc.services, svc.registries, svc.roles, component.Limits{}, svc.log)
		svc.jobs = append(svc.jobs, jobs)
		// Clients come for their results.
		if err := jobs.Restore(filepath.Join(svc.cfg.stateDir, "clients.state"), nil); err != nil {
			return err
		}
		parts.Go(func() error { return svc.serveClients(ctx, jobs) })
	}
	if len(svc.admin) > 0 {
		parts.Go(func() error { return svc.administer(ctx) })
	}
	svc.log.Info("serving", "capabilities", len(svc.services))
	return nil
}

// serveClients serves clients that connect, until ctx ends.
func (svc *service) serveClients(ctx context.Context, jobs *component.Jobs) error {
	listeners, err := peer.ListenAll(svc.clients, svc.log)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		svc.log.Info("waiting for clients", "address", l.Addr())
	}
	err = wire.NewServer(&wire.Server{Registries: svc.registries, Backend: jobs}, svc.log).Serve(ctx, listeners...)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(svc.cfg.serve.drain))
	defer cancel()
	jobs.Stop(limit)
	return err
}
