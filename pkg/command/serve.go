package command

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/service"
)

var serveExamples = []example{
	{"the three endpoints, everything into files of the state folder", "tstatrepo serve"},
	{"the repository of a site", "tstatrepo serve --config /etc/tstatrepo/tstatrepo.toml --supervisor https://supervisor:8889/"},
	{"check the configuration", "tstatrepo serve --check-config --config /etc/tstatrepo/tstatrepo.toml"},
}

func serveCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:     "serve",
		Usage:    "run a repository or a probe as a service, also for mPlane",
		Category: groupProduct,
		Description: "Runs endpoints for finished logs (MATH), live lines and points of RRDs in one process, and offers them at an " +
			"mPlane supervisor. Sections of the config file set where each endpoint listens and what it stores; " +
			"section [probe] configures the exporters of a probe. Without --supervisor and --clients it runs only the endpoints.\n\n" +
			"Without --config it reads " + config.ServiceFile + " if that exists. SIGHUP reloads the file, SIGTERM stops serve " +
			"cleanly.\n\n" +
			"See 'tstatrepo man serve' and 'tstatrepo man toml'.",
		Flags:  commandFlags("serve"),
		Action: func(c *cli.Context) error { return runServe(c, con) },
	}
}

// runServe runs the serve command with options from flags and config.
func runServe(c *cli.Context, con *console.Console) error {
	// Until the service is ready, ignore SIGHUP, which would otherwise end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	if done, err := printOld(c); done {
		return err
	}
	if c.NArg() > 0 {
		return hint.Usagef("serve takes no arguments, got %q", c.Args().First())
	}
	var shared *service.Shared
	read := func() (cfg *config.Config, opt service.Options, err error) {
		cfg, err = load(c, con, func(cfg *config.Config, p *config.Problems) {
			if shared == nil { // load has set the format of the log
				shared = service.NewShared(con.Logger().Handler())
			}
			opt = cfg.Service(p, shared)
		})
		opt.Version = currentVersion()
		return cfg, opt, err
	}
	cfg, opt, err := read()
	if err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	svc, err := service.New(opt)
	if err != nil {
		return err
	}
	return svc.Run(c.Context, hup, func() (*service.Change, error) {
		json, level := con.Formatted()
		next, opt, err := read()
		if err == nil && next.StateDir != cfg.StateDir {
			err = fmt.Errorf("state-dir cannot change from %s while serve runs", cfg.StateDir)
		}
		if err != nil {
			con.Format(json, level)
			return nil, errors.New(console.WithFlags(err.Error()))
		}
		_, level = next.Logging()
		con.Format(json, level)
		change := &service.Change{Options: opt}
		change.Applied, change.NeedRestart = cfg.Changes(next)
		cfg.Take(next, change.Applied)
		return change, nil
	})
}
