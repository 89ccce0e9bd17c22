package main

import (
	"errors"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/supervisor"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/state"
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

func supervisorCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:     "supervisor",
		Usage:    "run a small mPlane supervisor for one site",
		Category: groupAlso,
		Description: "Relays between components, which register on one port, and clients, which ask on another: " +
			"specifications to the first component that can serve them, receipts, results and interrupts back. It is for one site " +
			"and for tests. It does not register at other supervisors, does not merge capabilities, and does not poll components " +
			"that wait for clients.\n\n" +
			"Who a peer is, its certificate says: the parts of the subject joined by dots, as in org.mplane.SSB.Clients.ann. " +
			"Without TLS it is the name that the peer gives in the header Forged-MPlane-Identity, unless that is the default of " +
			"the reference implementation; else its address. Several old components at one address then share one queue, and " +
			"each gets what is meant for another: give each an address or use TLS. A receipt is good for the one who asked only.\n\n" +
			"Roles need client certificates. As in the reference implementation the last --authorize that fits a label decides, " +
			"and labels without one are allowed to nobody. Without any --authorize everything is allowed to everybody who has a certificate.\n\n" +
			"A component that is silent for 10 seconds is gone: its capabilities are withdrawn, and it has to register again. " +
			"What it was asked for waits for it, 10 minutes at most. Components and jobs are kept over a restart; after a crash " +
			"those of the last second may be missing. A result waits an hour for its client and can be asked for again for " +
			"10 seconds after that.\n\n" +
			"It keeps 64 MiB of capabilities, specifications and results in all, and 24 MiB of one component, client or host; what is " +
			"beyond that is refused and counted. A component has 1000 capabilities at most. A large message is read while no other of " +
			"its host is, and four at a time.\n\n" +
			"Capabilities of components that name an unknown registry are refused: name its file with --registry. None is fetched.",
		Flags:  commandFlags("supervisor"),
		Action: func(c *cli.Context) error { return runSupervisor(c, con) },
	}
}

// runSupervisor turns flags and config into a supervisor and runs it.
func runSupervisor(c *cli.Context, con *console) error {
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
	opt.Log = con.logger()
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
