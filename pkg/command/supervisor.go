package command

import (
	"errors"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/supervisor"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// supervise holds the settings of supervisor.
type supervise struct {
	network
	components string
	clients    string
	registries []string
	roles      []string
	grants     []string
}

func defaultSupervise() supervise { return supervise{components: ":8889", clients: ":8890"} }

// settings is the table of flags and keys, in the order of the help.
func (s *supervise) settings() []*setting {
	own := []*setting{
		{name: "components", group: "Network", value: &s.components,
			usage: "let components register on `ADDRESS`; without a host that is the loopback address"},
		{name: "clients", group: "Network", value: &s.clients,
			usage: "let clients ask on `ADDRESS`; /metrics and /-/healthy are there too"},
	}
	for _, set := range s.network.settings("") {
		if set.name != "listen" {
			own = append(own, set)
		}
	}
	const mplane = "mPlane"
	return append(own,
		&setting{name: "registry", group: mplane, value: &s.registries, complete: "file", empty: "the core registry and Tstat's are built in",
			usage: "know the elements of this registry `FILE` too"},
		&setting{name: "role", group: mplane, value: &s.roles,
			usage: "give an identity its roles, `IDENTITY=ROLE,ROLE`"},
		&setting{name: "authorize", group: mplane, value: &s.grants, empty: "everything, to everybody with a certificate",
			usage: "let roles use the capabilities whose label contains a text, `TEXT=ROLE,ROLE`; the last one that fits counts"},
	)
}

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
		Description: "Relays between mPlane components, which register on one port, and clients, which use another. It is for one site " +
			"and for tests: it does not register at other supervisors.\n\n" +
			"'tstatrepo man supervisor' says more.",
		Flags:  commandFlags("supervisor"),
		Action: func(c *cli.Context) error { return runSupervisor(c, con) },
	}
}

// runSupervisor turns flags and config into a supervisor and runs it.
func runSupervisor(c *cli.Context, con *console.Console) error {
	cfg, p, err := loadConfig(c, con)
	if err != nil {
		return err
	}
	opt := cfg.supervisor.options(p)
	if c.NArg() > 0 {
		p.errs = append(p.errs, errors.New("supervisor takes no arguments"))
	}
	if err := p.err(c.Command.Name); err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	if opt.Registries, err = mplane.NewRegistries(cfg.supervisor.registries...); err != nil {
		return hint.AsUsage(err)
	}
	// A second one would write the same state.
	unlock, err := state.Lock(cfg.stateDir, "supervisor")
	if err != nil {
		return err
	}
	defer unlock()
	opt.StateFile = filepath.Join(cfg.stateDir, "supervisor.state")
	opt.Log = con.Logger()
	// For what it keeps, reads and saves, see client.MaxKept: the process stays
	// below 300 MiB. Let the GC work harder rather than exceed it.
	debug.SetMemoryLimit(250 << 20)
	sup, err := supervisor.New(opt)
	if err != nil {
		return err
	}
	addrs := sup.Addrs()
	opt.Log.Info("supervisor is ready", "components", addrs[0], "clients", addrs[1])
	if err := sup.Run(c.Context); err != nil {
		return err
	}
	return c.Context.Err() // only a signal ends it
}

// options checks the settings and turns them into options.
func (s *supervise) options(p *problems) supervisor.Options {
	networks, err := peer.ParseNetworks(s.allow)
	if err != nil {
		p.add("allow", "%v", err)
	}
	opt := supervisor.Options{
		Components: s.listenOptions(p, "components", networks, s.components)[0], Clients: s.listenOptions(p, "clients", networks, s.clients)[0],
	}
	if len(s.roles)+len(s.grants) > 0 && s.caPEM == "" {
		p.add("authorize", "needs client certificates (--tls-ca): without, everybody could take any name")
	}
	opt.Roles = roles(p, s.roles, s.grants)
	return opt
}

// roles reads --role and --authorize. nil allows everything.
func roles(p *problems, assigned, grants []string) *mplane.Roles {
	if len(grants) == 0 {
		if len(assigned) > 0 {
			p.add("role", "gives nothing without --authorize")
		}
		return nil
	}
	r := new(mplane.Roles)
	pairs(p, "role", assigned, r.Assign)
	pairs(p, "authorize", grants, r.Grant)
	return r
}

// pairs reads texts of the form NAME=ROLE,ROLE. A name may contain "=".
func pairs(p *problems, name string, texts []string, add func(name, roles string)) {
	for _, text := range texts {
		i := strings.LastIndexByte(text, '=')
		if i < 1 {
			p.add(name, "%q is not NAME=ROLE,ROLE", text)
			continue
		}
		for role := range strings.SplitSeq(text[i+1:], ",") {
			if role == "" || strings.TrimSpace(role) != role {
				p.add(name, "%q: a role is empty or has blanks around it", text)
			}
		}
		add(text[:i], text[i+1:])
	}
}
