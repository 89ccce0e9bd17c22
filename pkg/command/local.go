package command

import (
	"context"
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/shell"
	"github.com/tstatrepo/tstatrepo/pkg/internal/service"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// stopTimeout is how long runcap --local waits for the result of a job that a signal
// interrupted.
const stopTimeout = 20 * time.Second

// localServices returns the capabilities that serve would offer with cfg, and their
// registries. An endpoint opens only when a capability that needs it runs.
func localServices(cfg *config.Config, con *console.Console) ([]component.Service, *mplane.Registries, error) {
	p := cfg.Problems("serve")
	opt := cfg.Service(p, service.NewShared(con.Logger().Handler()))
	if err := p.Err(seeHelp("serve")); err != nil {
		return nil, nil, err
	}
	opt.Repository.Scheduled = true
	svc, err := service.New(opt)
	if err != nil {
		return nil, nil, err
	}
	return svc.Services(), opt.Registries, nil
}

// runLocal performs the requested action on a capability that this process provides.
func (r runcap) runLocal(ctx context.Context, c *cli.Context, con *console.Console, cfg *config.Config, s *shell.Session) error {
	services, registries, err := localServices(cfg, con)
	if err != nil {
		return err
	}
	jobs := component.NewJobs(services, registries, nil, component.Limits{}, con.Logger())
	s.Know(jobs.Capabilities(mplane.Anonymous))
	if r.List || r.Show != "" {
		return r.printCapabilities(c.App.Writer, s)
	}
	spec, err := r.specify(s, c.Args().First())
	if err != nil {
		return err
	}
	reply := jobs.Submit(spec, mplane.Anonymous, nil, nil)
	if shell.Failed(reply) == "" {
		jobs.Wait(ctx, spec.ID())
		// A job that a signal interrupts still has a result.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if ctx.Err() != nil {
			jobs.Interrupt(spec.ID(), mplane.Anonymous)
			jobs.Wait(end, spec.ID())
		}
		reply = jobs.State(spec.ID(), mplane.Anonymous)
		jobs.Stop(end)
	}
	return errors.Join(r.printReply(c.App.Writer, reply, true), orInterrupt(ctx, ctx.Err()))
}
