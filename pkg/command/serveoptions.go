package command

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/admin"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// service checks the settings and returns what they ask for. What is wrong
// is added to p. A former service is the one that runs: what all its parts
// share is not made again.
func (s *serve) service(cfg *config, p *problems, con *console.Console, former *service) *service {
	svc := &service{cfg: cfg, con: con, started: time.Now()}
	if former != nil {
		svc.log, svc.probes, svc.roles = former.log, former.probes, former.roles
	} else {
		svc.recent = admin.NewRecent(con.Logger().Handler(), recentNotices)
		svc.log, svc.probes, svc.roles = slog.New(svc.recent), new(peer.Probes), new(mplane.Roles)
	}
	for _, sec := range cfg.sections {
		if sec.of("serve") {
			absolute(p, sec)
		}
	}
	networks, err := peer.ParseNetworks(s.allow)
	if err != nil {
		p.add("allow", "%v", err)
	}
	if s.tls().Enabled() {
		if _, err := s.tls().Client(); err != nil { // reads the files
			p.add("tls-cert", "%v", err)
		}
	}
	svc.clients = s.listenOptions(p, "clients", networks, s.clients...)
	if s.admin != "" {
		svc.admin = s.listenOptions(p, "admin", networks, s.admin)
		if a := &svc.admin[0]; a.Local() && !slices.Contains(s.tlsFor, "admin") {
			a.TLS = peer.TLS{}
		}
	}
	if s.accept != "always" && s.accept != "scheduled" {
		p.add("accept", "%q is not always or scheduled", s.accept)
	}
	if s.accept == "scheduled" && s.supervisor == "" && len(s.clients) == 0 {
		p.add("accept", "scheduled needs --supervisor or --clients: nobody else can send a specification")
	}
	for _, word := range s.tlsFor {
		if word != "admin" && !slices.Contains(endpointWords, word) {
			p.add("tls-for", "%q is not rrd, streaming, log or admin", word)
		}
	}
	atLeast(p, "drain-timeout", s.drain, duration(time.Second))
	if svc.registries, err = mplane.NewRegistries(s.registries...); err != nil {
		p.add("registry", "%v", err)
	}
	svc.allowed = roles(p, s.roles, s.grants)
	if svc.allowed != nil && s.supervisor != "" && !strings.HasPrefix(s.supervisor, "https:") {
		p.add("authorize", "needs a supervisor with a certificate (https://)")
	}
	if svc.allowed != nil && len(s.clients) > 0 && s.caPEM == "" {
		p.add("authorize", "needs client certificates (--tls-ca): without, everybody could take any name")
	}
	if s.supervisor != "" {
		svc.supervisor = &wire.Dialer{URL: s.supervisor, TLS: s.tls(), Identity: cmp.Or(s.identity, s.ownIdentity())}
		conn, err := svc.supervisor.Open()
		p.usage("supervisor", err)
		if err == nil {
			conn.Close()
		}
	}
	svc.repository = repository.Options{
		Logs: s.logs(cfg, p, svc), Streaming: s.streaming(cfg, p, svc), RRD: s.rrd(cfg, p, svc),
		Host: s.host(), Scheduled: s.accept == "scheduled", SystemID: s.systemID, Log: svc.log,
	}
	svc.known = s.known(cfg, p)
	if svc.probe = cfg.probe.options(cfg, p, s.network); svc.probe != nil {
		svc.probe.Log = svc.log
	}
	if r := &svc.repository; len(p.errs) == 0 && r.Logs == nil && r.Streaming == nil && r.RRD == nil && svc.probe == nil {
		p.hint = cmp.Or(p.hint, "set listen in [collect-log], [collect-streaming] or [collect-rrd], or log-folder or rrd-folder in [probe]")
		p.errs = append(p.errs, errors.New("nothing to serve: all endpoints and the probe's side are off"))
	}
	if former == nil { // else when all is known to be right
		svc.probes.Replace(svc.known)
		svc.roles.Replace(svc.allowed)
	}
	return svc
}

// ownIdentity returns what a service calls itself where it has no certificate.
// Repository and probe on one machine need different names: our supervisor has
// a queue of specifications for each name. Supervisors of the reference
// implementation ignore the name and have one queue for all.
func (s *serve) ownIdentity() string {
	host, _ := os.Hostname()
	if len(s.collectLog.network.listen)+len(s.collectStreaming.listen)+len(s.collectRRD.network.listen) == 0 {
		return fitProbe(host) + ".probe"
	}
	return fitProbe(host) + "." + s.systemID
}

// host is where probes reach the endpoints, "" where these tell.
func (s *serve) host() string {
	if s.address != "" {
		return s.address
	}
	for _, list := range [][]string{s.collectLog.network.listen, s.collectStreaming.listen, s.collectRRD.network.listen} {
		for _, addr := range list {
			if host, _, _ := net.SplitHostPort(addr); host == "0.0.0.0" || host == "::" {
				name, _ := os.Hostname()
				return name
			}
		}
	}
	return ""
}

// join lets an endpoint have the networks of all, and the certificates if it
// is one of --tls-for.
func (s *serve) join(n *network, endpoint string) {
	n.allow = s.allow
	if slices.Contains(s.tlsFor, endpoint) {
		n.cert, n.key, n.caPEM = s.cert, s.key, s.caPEM
	}
}

// logs returns the options of repository-collect_log, nil if it is off.
func (s *serve) logs(cfg *config, p *problems, svc *service) *repository.LogsOptions {
	b := &s.collectLog
	if len(b.network.listen) == 0 {
		return nil
	}
	p, done := p.of("collect-log", cfg.section("collect-log").settings)
	defer done()
	if len(b.to) == 0 {
		b.to = []string{"parquet:" + filepath.Join(svc.cfg.stateDir, "logs")}
	}
	s.join(&b.network, "log")
	opt := b.options(p)
	m := b.checkMath(p)
	if len(p.errs) > 0 {
		return nil
	}
	opt.StateDir, opt.Log = svc.cfg.stateDir, svc.log
	logs, err := b.repository(m, opt, "math.json")
	if err != nil {
		p.errs = append(p.errs, err)
	}
	logs.Math.Probes = svc.probes
	if logs.Math.Adopt, logs.Stores.Adopt, err = b.adopted(opt.Location, svc.log); err != nil {
		p.add("adopt", "%v", err)
	}
	return &logs
}

// streaming returns the options of repository-collect_streaming, nil if it is
// off.
func (s *serve) streaming(cfg *config, p *problems, svc *service) *stream.Options {
	c := &s.collectStreaming
	if len(c.listen) == 0 {
		return nil
	}
	p, done := p.of("collect-streaming", cfg.section("collect-streaming").settings)
	defer done()
	if len(c.to)+len(c.toOptional) == 0 {
		c.to = []string{"file:" + filepath.Join(svc.cfg.stateDir, "live")}
	}
	s.join(&c.network, "streaming")
	c.drain = s.drain
	opt := c.options(p)
	opt.Name, opt.StateDir, opt.Probes = "serve", svc.cfg.stateDir, svc.probes
	opt.Log, opt.Stdout, opt.Stderr = svc.log, os.Stdout, os.Stderr
	return &opt
}

// rrd returns the options of repository-collect_rrd, nil if it is off.
func (s *serve) rrd(cfg *config, p *problems, svc *service) *rrdpush.EndpointOptions {
	r := &s.collectRRD
	if len(r.network.listen) == 0 {
		return nil
	}
	p, done := p.of("collect-rrd", cfg.section("collect-rrd").settings)
	defer done()
	r.to = cmp.Or(r.to, "whisper:"+filepath.Join(svc.cfg.stateDir, "whisper"))
	s.join(&r.network, "rrd")
	opt := r.options(p)
	listen := r.network.listeners(p)
	if opt.Dest == nil {
		return nil
	}
	opt.StateDir, opt.Stdout, opt.Log = svc.cfg.stateDir, os.Stdout, svc.log
	return &rrdpush.EndpointOptions{Target: opt.Target, Listen: listen, Probes: svc.probes, MaxMetrics: r.maxMetrics}
}

// known returns the probes of [[remote-probe]].
func (s *serve) known(cfg *config, p *problems) []peer.Probe {
	tables := cfg.section("remote-probe").added
	var list []peer.Probe
	for n, r := range s.remoteProbes {
		p, done := p.of("remote-probe", tables[n])
		if err := store.ValidProbe(r.name); err != nil {
			p.add("name", "%v", err)
		}
		if slices.ContainsFunc(list, func(o peer.Probe) bool { return o.Name == r.name }) {
			p.add("name", "names %s twice", r.name)
		}
		probe := peer.Probe{Name: r.name}
		if r.timezone != "" {
			probe.Location = location(p, r.timezone)
		}
		var err error
		if probe.Networks, err = peer.ParseNetworks(r.addresses); err != nil {
			p.add("addresses", "%v", err)
		}
		list = append(list, probe)
		done()
	}
	return list
}

// absolute checks that every path in a section is absolute: a service has no
// folder of its own.
func absolute(p *problems, sec section) {
	sub := &problems{settings: sec.settings, section: sec.name}
	for _, s := range sec.settings {
		var values []string
		switch v := s.value.(type) {
		case *string:
			values = []string{*v}
		case *[]string:
			values = *v
		}
		for _, v := range values {
			path := v
			switch {
			case s.name == "to" || s.name == "to-optional":
				path = cmp.Or(relativeFile(v), folderOf(v))
			case s.complete != "file" && s.complete != "dir":
				path = ""
			}
			if path != "" && !filepath.IsAbs(path) {
				sub.add(s.name, "%s is not an absolute path", path)
			}
		}
	}
	p.errs = append(p.errs, sub.errs...)
}

// relativeFile returns a relative path of a file that an option of a destination
// names, "" if there is no such path.
func relativeFile(text string) string {
	scheme, rest := dest.Split(text)
	_, options, err := dest.ParsePath(rest)
	if err != nil || scheme == "exec" {
		return ""
	}
	for _, name := range []string{"creds", "schemas"} {
		if f := options[name]; f != "" && !filepath.IsAbs(f) {
			return f
		}
	}
	return ""
}

// folderOf returns the folder of a destination, "" if the destination is not one.
func folderOf(text string) string {
	scheme, rest := dest.Split(text)
	path, _, _ := dest.ParsePath(rest)
	switch {
	case text == "-":
		return ""
	case scheme == "": // a bare path
		return text
	case slices.Contains([]string{"parquet", "copy", "file", "whisper"}, scheme):
		return path
	}
	return ""
}
