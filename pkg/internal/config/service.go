package config

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/service"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Service checks the settings of serve and returns them as the options of a
// service. A reload of the settings passes the same shared state again.
func (c *Config) Service(p *Problems, shared *service.Shared) service.Options {
	s := &c.Serve
	opt := service.Options{Shared: shared, StateDir: c.StateDir, Drain: time.Duration(s.Drain), TLS: s.TLS()}
	for _, sec := range c.Sections {
		if sec.isReadBy("serve") {
			absolute(p, sec)
		}
	}
	networks, err := peer.ParseNetworks(s.Allow)
	if err != nil {
		p.add("allow", "%v", err)
	}
	if s.TLS().Enabled() {
		if _, err := s.TLS().Client(); err != nil { // reads the files
			p.add("tls-cert", "%v", err)
		}
	}
	opt.Clients = s.listenOptions(p, "clients", networks, s.Clients...)
	if s.Admin != "" {
		opt.Admin = s.listenOptions(p, "admin", networks, s.Admin)
		if a := &opt.Admin[0]; a.Local() && !slices.Contains(s.TLSFor, "admin") {
			a.TLS = peer.TLS{}
		}
	}
	s.check(p)
	if opt.Registries, err = mplane.NewRegistries(s.Registries...); err != nil {
		p.add("registry", "%v", err)
	}
	opt.Allowed = s.checkRoles(p)
	if s.Supervisor != "" {
		opt.Supervisor = &wire.Dialer{URL: s.Supervisor, TLS: s.TLS(), Identity: cmp.Or(s.Identity, s.ownIdentity())}
		conn, err := opt.Supervisor.Open()
		p.usage("supervisor", err)
		if err == nil {
			conn.Close()
		}
	}
	opt.Repository = repository.Options{
		Logs: c.collectLog(p, shared), Streaming: c.collectStreaming(p, shared), RRD: c.collectRRD(p, shared),
		Host: s.host(), Scheduled: s.Accept == "scheduled", SystemID: s.SystemID, Log: shared.Log,
	}
	if len(p.errs) == 0 && opt.Repository.Streaming != nil && opt.Repository.Logs != nil && opt.Repository.Logs.Math.Import.Anonymizes() {
		shared.Log.Warn("live lines are delivered as they arrive, not anonymized like logs", "section", "collect-streaming",
			"hint", "let the probes anonymize them (anonymize of [probe]), or set listen = []")
	}
	opt.RRDTo = dest.Redact(s.CollectRRD.To)
	opt.Known = c.remoteProbes(p)
	if opt.Probe = c.Probe.options(c, p, s.Network); opt.Probe != nil {
		opt.Probe.Log = shared.Log
	}
	if r := &opt.Repository; len(p.errs) == 0 && r.Logs == nil && r.Streaming == nil && r.RRD == nil && opt.Probe == nil {
		p.hint = cmp.Or(p.hint, "set listen in [collect-log], [collect-streaming] or [collect-rrd], or log-folder or rrd-folder in [probe]")
		p.Add("nothing to serve: all endpoints and the probe's side are off")
	}
	return opt
}

// check checks the accept, tls-for and drain-timeout settings.
func (s *Serve) check(p *Problems) {
	if s.Accept != "always" && s.Accept != "scheduled" {
		p.add("accept", "%q is not always or scheduled", s.Accept)
	}
	if s.Accept == "scheduled" && s.Supervisor == "" && len(s.Clients) == 0 {
		p.add("accept", "scheduled needs `supervisor` or `clients`: nobody else can send a specification")
	}
	for _, word := range s.TLSFor {
		if word != "admin" && !slices.Contains(endpointWords, word) {
			p.add("tls-for", "%q is not rrd, streaming, log or admin", word)
		}
	}
	atLeast(p, "drain-timeout", s.Drain, Duration(time.Second))
}

// checkRoles checks the authorization settings and returns the roles; nil allows
// everything.
func (s *Serve) checkRoles(p *Problems) *mplane.Roles {
	allowed := s.Authorization.check(p)
	if allowed != nil && s.Supervisor != "" && !strings.HasPrefix(s.Supervisor, "https:") {
		p.add("authorize", "needs a supervisor with a certificate (https://)")
	}
	if allowed != nil && len(s.Clients) > 0 && s.CA == "" {
		p.add("authorize", "needs client certificates (`tls-ca`): without, everybody could take any name")
	}
	return allowed
}

// ownIdentity returns the default name of this service at a supervisor without TLS. A
// repository and a probe on one machine need different names, because our supervisor has
// a queue of specifications for each name. The supervisor of the reference implementation
// ignores names and has one queue.
func (s *Serve) ownIdentity() string {
	if len(s.CollectLog.Listen)+len(s.CollectStreaming.Listen)+len(s.CollectRRD.Listen) == 0 {
		return hostProbe() + ".probe"
	}
	return hostProbe() + "." + s.SystemID
}

// host returns the host name under which probes reach the endpoints, or "" if each
// endpoint listens on an address that names its host.
func (s *Serve) host() string {
	if s.Address != "" {
		return s.Address
	}
	for _, list := range [][]string{s.CollectLog.Listen, s.CollectStreaming.Listen, s.CollectRRD.Listen} {
		for _, addr := range list {
			if host, _, _ := net.SplitHostPort(addr); host == "0.0.0.0" || host == "::" {
				name, _ := os.Hostname()
				return name
			}
		}
	}
	return ""
}

// join copies the allowed networks of s to n, the network settings of an endpoint. It
// also copies the certificates if tls-for names the endpoint.
func (s *Serve) join(n *Network, endpoint string) {
	n.Allow = s.Allow
	if slices.Contains(s.TLSFor, endpoint) {
		n.Cert, n.Key, n.CA = s.Cert, s.Key, s.CA
	}
}

// collectLog returns the options of repository-collect_log, or nil if this endpoint is
// off.
func (c *Config) collectLog(p *Problems, shared *service.Shared) *repository.LogsOptions {
	b := &c.Serve.CollectLog
	if len(b.To) == 0 { // set even if the endpoint is off, so that Changes sees no change
		b.To = []string{"parquet:" + filepath.Join(c.StateDir, "logs")}
	}
	if len(b.Listen) == 0 {
		return nil
	}
	p, done := p.in("collect-log", c.section("collect-log").Settings)
	defer done()
	c.Serve.join(&b.Network, "log")
	opt := b.check(p)
	for _, to := range b.To {
		if stores.IsPrinted(to) || mathproto.IsURL(to) {
			p.add("to", "%s is for import-bulk only", dest.Redact(to))
		}
	}
	opt.Probe, opt.Jobs = "repository", b.files(true) // each stream names its probe
	m := b.checkMath(p)
	if len(p.errs) > 0 {
		return nil
	}
	opt.StateDir, opt.Log = c.StateDir, shared.Log
	logs, err := b.Repository(m, opt, "math.json")
	if err != nil {
		p.hint = cmp.Or(p.hint, hint.Of(err))
		p.Add("[collect-log]: %s", withoutFlags(err.Error()))
	}
	logs.Math.Probes = shared.Probes
	if err := b.Adopted(&logs); err != nil {
		p.add("adopt", "%v", err)
	}
	return &logs
}

// collectStreaming returns the options of repository-collect_streaming, or nil if this
// endpoint is off.
func (c *Config) collectStreaming(p *Problems, shared *service.Shared) *stream.Options {
	l := &c.Serve.CollectStreaming
	if len(l.To)+len(l.ToOptional) == 0 {
		l.To = []string{"file:" + filepath.Join(c.StateDir, "live")}
	}
	if len(l.Listen) == 0 {
		return nil
	}
	p, done := p.in("collect-streaming", c.section("collect-streaming").Settings)
	defer done()
	c.Serve.join(&l.Network, "streaming")
	l.Drain = c.Serve.Drain
	opt := l.options(p)
	l.checkFormat(p, &opt)
	l.checkLimits(p)
	opt.Name, opt.StateDir, opt.Probes = "serve", c.StateDir, shared.Probes
	opt.Log, opt.Stdout, opt.Stderr = shared.Log, os.Stdout, os.Stderr
	return &opt
}

// collectRRD returns the options of repository-collect_rrd, or nil if this endpoint is
// off.
func (c *Config) collectRRD(p *Problems, shared *service.Shared) *rrdpush.EndpointOptions {
	r := &c.Serve.CollectRRD
	r.To = cmp.Or(r.To, "whisper:"+filepath.Join(c.StateDir, "whisper"))
	if len(r.Listen) == 0 {
		return nil
	}
	p, done := p.in("collect-rrd", c.section("collect-rrd").Settings)
	defer done()
	c.Serve.join(&r.Network, "rrd")
	target := r.check(p)
	listen := r.listeners(p)
	if target.Dest == nil {
		return nil
	}
	target.StateDir, target.Stdout, target.Log = c.StateDir, os.Stdout, shared.Log
	return &rrdpush.EndpointOptions{Target: target, Listen: listen, Probes: shared.Probes, MaxMetrics: r.MaxMetrics}
}

// remoteProbes returns the probes that the [[remote-probe]] tables describe.
func (c *Config) remoteProbes(p *Problems) []peer.Probe {
	tables := c.section("remote-probe").Added
	var list []peer.Probe
	for n, r := range c.Serve.RemoteProbes {
		p, done := p.in("remote-probe", tables[n])
		if err := store.ValidProbe(r.Name); err != nil {
			p.add("name", "%v", err)
		}
		if slices.ContainsFunc(list, func(o peer.Probe) bool { return o.Name == r.Name }) {
			p.add("name", "names %s twice", r.Name)
		}
		probe := peer.Probe{Name: r.Name}
		if r.Timezone != "" {
			probe.Location = location(p, r.Timezone)
		}
		var err error
		if probe.Networks, err = peer.ParseNetworks(r.Addresses); err != nil {
			p.add("addresses", "%v", err)
		}
		list = append(list, probe)
		done()
	}
	return list
}
