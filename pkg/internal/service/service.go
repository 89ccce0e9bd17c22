// Package service implements the command serve: the endpoints of a repository and
// the exporters of a probe. It registers them with a supervisor, offers them to
// clients, serves the administration page, and handles reloads and shutdown.
package service

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
	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Shared is the state that all configurations of a running service share.
type Shared struct {
	Log    *slog.Logger
	Probes *peer.Probes  // probes that send to this repository
	Roles  *mplane.Roles // permissions to use capabilities

	recent *admin.Recent // recent log messages
}

// recentNotices is the number of errors and warnings that the administration page
// shows.
const recentNotices = 50

// NewShared returns a Shared that passes log records to h.
func NewShared(h slog.Handler) *Shared {
	recent := admin.NewRecent(h, recentNotices)
	return &Shared{Log: slog.New(recent), Probes: new(peer.Probes), Roles: new(mplane.Roles), recent: recent}
}

// Options selects what a service runs.
type Options struct {
	*Shared
	StateDir string
	Drain    time.Duration // for data in flight at shutdown
	Version  string        // of the program

	Repository repository.Options
	RRDTo      string            // destination of points, for the administration page
	Probe      *exporter.Options // nil: off
	Known      []peer.Probe      // become Shared.Probes
	Allowed    *mplane.Roles     // become Shared.Roles; nil: no restrictions
	Registries *mplane.Registries
	Supervisor *wire.Dialer // may be nil
	TLS        peer.TLS     // certificates of the service, for the administration page
	Clients    []peer.Options
	Admin      []peer.Options // empty: off
}

// Service is everything that a serve command runs.
type Service struct {
	started time.Time

	mu  sync.Mutex // guards opt.RRDTo, which a reload changes
	opt Options

	repo      *repository.Repository
	exporter  *exporter.Exporter   // nil: off
	component *component.Component // registered with the supervisor; may be nil
	services  []component.Service
	jobs      []*component.Jobs // of the supervisor and of clients
}

// New returns a service, which Run starts.
func New(opt Options) (svc *Service, err error) {
	svc = &Service{opt: opt, started: time.Now()}
	opt.Probes.Replace(opt.Known)
	opt.Roles.Replace(opt.Allowed)
	if svc.repo, err = repository.New(opt.Repository); err != nil {
		return nil, err
	}
	if opt.Probe != nil {
		if svc.exporter, err = exporter.New(*opt.Probe); err != nil {
			return nil, err
		}
		// Offer the exporters first. Supervisors of the reference
		// implementation assign a specification to the first capability that
		// fits. Without System_ID they cannot distinguish the exporters of a
		// probe from the endpoints, and users run the exporters.
		svc.services = svc.exporter.Services()
	}
	svc.services = append(svc.services, svc.repo.Services()...)
	return svc, nil
}

// Services returns the capabilities that the service offers.
func (svc *Service) Services() []component.Service { return svc.services }

// grace is how much longer than Options.Drain the shutdown may take.
const grace = 10 * time.Second

// Run serves until ctx is done and then returns nil. On a signal from hup, Run
// calls load and applies the new configuration; see Change.
func (svc *Service) Run(ctx context.Context, hup <-chan os.Signal, load func() (*Change, error)) error {
	// Lock the state, since two processes would take each other's specifications
	// and streams.
	unlock, err := state.Lock(svc.opt.StateDir, "serve")
	if err != nil {
		return hint.Add(fmt.Errorf("serve: %w", err), "give each service a separate `state-dir`")
	}
	defer unlock()
	debug.SetMemoryLimit(svc.opt.Memory())
	work, stop := context.WithCancel(ctx)
	defer stop()
	parts := &parts{stop: stop}
	parts.Go(func() error { return svc.repo.Run(work) })
	select {
	case <-svc.repo.Ready():
		if err := svc.offer(work, parts); err != nil {
			parts.Go(func() error { return err })
		}
	case <-work.Done(): // an endpoint could not be opened, or a signal arrived
	}
	systemd := notifier{svc.opt.Log}
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
	limit := time.After(svc.opt.Drain + grace)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		parts.running.Wait()
	}()
	for {
		select {
		case <-ended:
			svc.opt.Log.Info("stopped")
			return parts.err()
		case <-watchdog:
			systemd.alive()
		case <-limit:
			return errors.Join(parts.err(), hint.New("what was under way did not end in time", "`drain-timeout` gives it longer"))
		}
	}
}

// parts runs the parts of a service concurrently. The first failure stops all parts.
type parts struct {
	stop    func()
	running sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

// Go calls run, which runs one part, in a goroutine. An error from run stops all parts.
func (p *parts) Go(run func() error) {
	p.running.Go(func() {
		err := run()
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.errs) > 0 { // another part has failed
			err = hint.Without(err, context.Canceled)
		}
		if err != nil {
			p.errs = append(p.errs, err)
			p.stop()
		}
	})
}

// err returns the joined errors of all parts, in the order in which the parts ended.
func (p *parts) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}

// Memory returns the memory limit of the process in bytes: the limits of the endpoints
// plus an allowance for everything else.
func (o *Options) Memory() int64 {
	limit := int64(128 << 20)
	if logs := o.Repository.Logs; logs != nil {
		limit += logs.Stores.Memory
	}
	if lines := o.Repository.Streaming; lines != nil {
		limit += lines.Queue * int64(len(lines.To)+len(lines.ToOptional))
	}
	return limit
}

// offer starts the listeners for clients and for administration, and the component
// that registers with the supervisor.
func (svc *Service) offer(ctx context.Context, parts *parts) (err error) {
	if svc.opt.Supervisor != nil && len(svc.services) > 0 {
		svc.component, err = component.New(component.Options{
			Services: svc.services, Registries: svc.opt.Registries, Supervisor: *svc.opt.Supervisor, Roles: svc.opt.Roles, Log: svc.opt.Log,
			StateFile: filepath.Join(svc.opt.StateDir, "component.state"),
		})
		if err != nil {
			return err
		}
		svc.jobs = append(svc.jobs, svc.component.Jobs())
		parts.Go(func() error { return svc.component.Run(ctx) })
	}
	if len(svc.opt.Clients) > 0 {
		jobs := component.NewJobs(svc.services, svc.opt.Registries, svc.opt.Roles, component.Limits{}, svc.opt.Log)
		svc.jobs = append(svc.jobs, jobs)
		// Results are kept until clients fetch them.
		if err := jobs.Restore(filepath.Join(svc.opt.StateDir, "clients.state"), nil); err != nil {
			return err
		}
		parts.Go(func() error { return svc.serveClients(ctx, jobs) })
	}
	if len(svc.opt.Admin) > 0 {
		parts.Go(func() error { return svc.administer(ctx) })
	}
	svc.opt.Log.Info("serving", "capabilities", len(svc.services))
	return nil
}

// serveClients serves clients until ctx is done.
func (svc *Service) serveClients(ctx context.Context, jobs *component.Jobs) error {
	listeners, err := peer.ListenAll(svc.opt.Clients, svc.opt.Log)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		svc.opt.Log.Info("listening for clients", "address", l.Addr())
	}
	err = wire.NewServer(&wire.Server{Registries: svc.opt.Registries, Backend: jobs}, svc.opt.Log).Serve(ctx, listeners...)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), svc.opt.Drain)
	defer cancel()
	jobs.Stop(limit)
	return err
}
