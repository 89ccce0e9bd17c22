package command

import (
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// serve holds the settings of serve.
type serve struct {
	network
	supervisor string
	identity   string
	clients    []string
	address    string
	accept     string
	admin      string
	drain      duration
	systemID   string
	registries []string
	roles      []string
	grants     []string
	tlsFor     []string

	collectLog       importBulk
	collectStreaming streamCmd
	collectRRD       rrdPush
	remoteProbes     []*remoteProbe
}

// remoteProbe is a probe that sends to us.
type remoteProbe struct {
	name      string
	timezone  string
	addresses []string
}

func defaultServe() serve {
	s := serve{
		accept:   "always",
		admin:    ":9099",
		drain:    duration(30 * time.Second),
		systemID: repository.DefaultSystemID,
		tlsFor:   slices.Clone(endpointWords),

		collectLog: defaultImportBulk(), collectStreaming: defaultStream(), collectRRD: defaultRRDPush(),
	}
	s.collectLog.network.listen, s.collectLog.to = []string{":3000"}, nil
	s.collectStreaming.listen, s.collectStreaming.to = []string{":9001"}, nil
	s.collectRRD.network.listen, s.collectRRD.to = []string{":9000"}, ""
	return s
}

// sections are [serve], which has flags, and those for the file only.
func (s *serve) sections() []section {
	return []section{
		{name: "serve", settings: s.settings()},
		{name: "collect-log", command: "serve", settings: s.logSettings()},
		{name: "collect-streaming", command: "serve", settings: s.streamingSettings()},
		{name: "collect-rrd", command: "serve", settings: s.rrdSettings()},
		{name: "remote-probe", command: "serve", settings: new(remoteProbe).settings(), add: func() []*setting {
			p := &remoteProbe{}
			s.remoteProbes = append(s.remoteProbes, p)
			return p.settings()
		}},
	}
}

// settings is the table of flags and keys, in the order of the help.
func (s *serve) settings() []*setting {
	const (
		mplane = "mPlane"
		run    = "Running"
	)
	own := []*setting{
		{name: "supervisor", group: mplane, value: &s.supervisor, empty: "none",
			usage: "register at the supervisor with this `URL`, like https://supervisor:8889/"},
		{name: "clients", group: mplane, value: &s.clients, empty: "off",
			usage: "wait for clients and supervisors on `ADDRESS`; without a host that is the loopback address"},
		{name: "identity", group: mplane, value: &s.identity, empty: "host name and --system-id; without endpoints host name and probe",
			usage: "`NAME` to give to a supervisor without TLS; those of the reference implementation ignore it"},
		{name: "system-id", group: mplane, value: &s.systemID,
			usage: "System_ID of the repository's capabilities, any `TEXT`"},
		{name: "address", group: mplane, value: &s.address, empty: "that of each endpoint; the host name where one listens on all",
			usage: "`HOST` where probes reach the endpoints, part of the capabilities"},
		{name: "registry", group: mplane, value: &s.registries, complete: "file", empty: "the core registry and Tstat's are built in",
			usage: "know the elements of this registry `FILE` too"},
		{name: "role", group: mplane, value: &s.roles,
			usage: "give an identity its roles, `IDENTITY=ROLE,ROLE`"},
		{name: "authorize", group: mplane, value: &s.grants, empty: "everything, to everybody",
			usage: "let roles use the capabilities whose label contains a text, `TEXT=ROLE,ROLE`; the last one that fits counts"},

		{name: "accept", group: run, value: &s.accept, complete: "always scheduled",
			usage: "`WHEN` the endpoints are open: always, or scheduled (while a specification is active)"},
		{name: "admin", group: run, value: &s.admin,
			usage: "serve a page, /metrics, /-/healthy and /-/ready on `ADDRESS`; an empty one turns it off"},
		{name: "drain-timeout", group: run, value: &s.drain,
			usage: "when stopped, wait `DURATION` at most for what is under way"},
	}
	for _, set := range s.network.settings("") {
		if set.name != "listen" {
			own = append(own, set)
		}
	}
	return append(own, &setting{name: "tls-for", group: "Network", value: &s.tlsFor, complete: strings.Join(endpointWords, " ") + " admin",
		usage: "the `ENDPOINT` that uses the certificates, if there are any: rrd, streaming, log or admin; old exporters of lines and old math_probes know no TLS; " +
			"an admin address that others can reach always uses them"})
}

// endpointWords are the endpoints in tls-for.
var endpointWords = []string{"rrd", "streaming", "log"}

// pick returns the settings of a table with the given names.
func pick(from []*setting, names ...string) []*setting {
	var list []*setting
	for _, name := range names {
		i := slices.IndexFunc(from, func(s *setting) bool { return s.name == name })
		list = append(list, from[i])
	}
	return list
}

func (s *serve) logSettings() []*setting {
	b := &s.collectLog
	return append([]*setting{
		{name: "listen", value: &b.network.listen,
			usage: "take logs of MATH probes (DBStream's math_probe, or tstatrepo) on these addresses; [] turns repository-collect_log off"},
		{name: "to", value: &b.to, complete: "dir", empty: "parquet:logs in the state folder",
			usage: "store the rows there, see import-bulk"},
	}, pick(b.settings(), "allow-callback", "folder-length", "type", "since", "timezone", "layout", "poll", "jobs", "memory", "rate", "max-rejects", "adopt", "keep", "compact")...)
}

func (s *serve) streamingSettings() []*setting {
	c := &s.collectStreaming
	return append([]*setting{
		{name: "listen", value: &c.listen,
			usage: "take live lines of exporters on these addresses; [] turns repository-collect_streaming off"},
		{name: "to", value: &c.to, empty: "file:live in the state folder",
			usage: "hand the lines to these consumers, see stream"},
	}, pick(c.settings(), "to-optional", "format", "select", "layout", "max-connections", "idle-timeout", "max-line", "queue", "retry-max")...)
}

func (s *serve) rrdSettings() []*setting {
	r := &s.collectRRD
	return append([]*setting{
		{name: "listen", value: &r.network.listen,
			usage: "take points of RRDs (mPlane's indirect export) on these addresses; [] turns repository-collect_rrd off"},
		{name: "to", value: &r.to, complete: "dir", empty: "whisper:whisper in the state folder",
			usage: "send the points there, see rrd-push"},
	}, pick(r.settings(), "prefix", "names", "names-file", "keep-negative", "retry-timeout", "spool", "max-metrics")...)
}

func (p *remoteProbe) settings() []*setting {
	return []*setting{
		{name: "name", value: &p.name,
			usage: "name of a probe that sends to this repository, part of the identity of what it sends"},
		{name: "timezone", value: &p.timezone, empty: "that of [collect-log]",
			usage: "zone of its folder names, UTC or like Europe/Rome"},
		{name: "addresses", value: &p.addresses,
			usage: "networks and addresses it connects from, if it has no certificate; one with a certificate has the name in that"},
	}
}

var serveExamples = []example{
	{"the three endpoints, everything into files of the state folder", "tstatrepo serve"},
	{"the repository of a site", "tstatrepo serve --config /etc/tstatrepo/tstatrepo.toml --supervisor https://supervisor:8889/"},
	{"check the configuration", "tstatrepo serve --check-config --config /etc/tstatrepo/tstatrepo.toml"},
}

func serveCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:     "serve",
		Usage:    "run the repository proxy of Tstat at mPlane",
		Category: groupProduct,
		Description: "Runs endpoints for finished logs (MATH), live lines and points of RRDs in one process, and offers them at an " +
			"mPlane supervisor. Sections of the config file say where each listens and where it stores what arrives; a " +
			"section [probe] is the probe's side. Without --supervisor and --clients it runs the endpoints only.\n\n" +
			"Without --config it reads " + serviceFile + " if that exists. SIGHUP reads it again, SIGTERM ends serve " +
			"cleanly.\n\n" +
			"'tstatrepo man serve' and 'tstatrepo man toml' say more.",
		Flags:  commandFlags("serve"),
		Action: func(c *cli.Context) error { return runServe(c, con) },
	}
}

// runServe turns flags and config into a running service.
func runServe(c *cli.Context, con *console.Console) error {
	// Until it is ready there is nothing to reload, but it must not end either.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	if done, err := printOld(c); done {
		return err
	}
	if c.NArg() > 0 {
		return usagef("serve takes no arguments, got %q", c.Args().First())
	}
	load := func(former *service) (*service, error) {
		cfg, p, err := loadConfig(c, con)
		if err != nil {
			return nil, err
		}
		svc := cfg.serve.service(cfg, p, con, former)
		return svc, p.err(c.Command.Name)
	}
	svc, err := load(nil)
	if err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, svc.cfg); done {
		return err
	}
	return svc.run(c.Context, hup, load)
}
