package command

import (
	"path/filepath"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/supervisor"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

var supervisorExamples = []example{
	{"one machine, for tests", "tstatrepo supervisor"},
	{"a site, with certificates", "tstatrepo supervisor --components 0.0.0.0:8889 --clients 0.0.0.0:8890 --tls-cert sup.pem --tls-key sup.key --tls-ca ca.pem"},
	{"only the operators may run the exporters", "tstatrepo supervisor --config /etc/tstatrepo/tstatrepo.toml --authorize tstat-exporter=operator --role org.mplane.site.Clients.ann=operator"},
}

func supervisorCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:     "supervisor",
		Usage:    "run a small mPlane supervisor for one site",
		Category: groupAlso,
		Description: "Relays between mPlane components, which register on one port, and clients, which connect to another. It is for one site " +
			"and for tests: it does not register at other supervisors.\n\n" +
			"See 'tstatrepo man supervisor'.",
		Flags:  commandFlags("supervisor"),
		Action: func(c *cli.Context) error { return runSupervisor(c, con) },
	}
}

// runSupervisor runs the supervisor command with options from flags and config.
func runSupervisor(c *cli.Context, con *console.Console) error {
	var opt supervisor.Options
	cfg, err := configure(c, con, func(cfg *config.Config, p *config.Problems) {
		opt = cfg.Supervisor.Options(p)
		if c.NArg() > 0 {
			p.Add("supervisor takes no arguments")
		}
	})
	if cfg == nil {
		return err
	}
	if opt.Registries, err = mplane.NewRegistries(cfg.Supervisor.Registries...); err != nil {
		return hint.AsUsage(err)
	}
	// A second supervisor would write the same state file.
	unlock, err := state.Lock(cfg.StateDir, "supervisor")
	if err != nil {
		return err
	}
	defer unlock()
	opt.StateFile = filepath.Join(cfg.StateDir, "supervisor.state")
	opt.Log = con.Logger()
	// Make the GC run more often as memory approaches 250 MiB. Together with the limits
	// on received and stored data (see registrar.MaxKept), this keeps the process below
	// 300 MiB.
	debug.SetMemoryLimit(250 << 20)
	sup, err := supervisor.New(opt)
	if err != nil {
		return err
	}
	addrs := sup.Addrs()
	opt.Log.Info("supervisor ready", "components", addrs[0], "clients", addrs[1])
	if err := sup.Run(c.Context); err != nil {
		return err
	}
	return c.Context.Err() // Run returns without an error only after a signal
}
