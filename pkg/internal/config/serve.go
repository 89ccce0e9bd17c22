package config

import (
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// Serve holds the settings of serve except those of [probe].
type Serve struct {
	Network
	Supervisor string
	Identity   string
	Clients    []string
	Address    string
	Accept     string
	Admin      string
	Drain      Duration
	SystemID   string
	Registries []string
	Authorization
	TLSFor []string

	CollectLog       Import
	CollectStreaming Lines
	CollectRRD       Points
	RemoteProbes     []*RemoteProbe
}

// RemoteProbe is a probe that sends to this repository.
type RemoteProbe struct {
	Name      string
	Timezone  string
	Addresses []string
}

func defaultServe() Serve {
	s := Serve{
		Accept:   "always",
		Admin:    ":9099",
		Drain:    Duration(30 * time.Second),
		SystemID: repository.DefaultSystemID,
		TLSFor:   slices.Clone(endpointWords),

		CollectLog: defaultImport(), CollectStreaming: defaultLines(), CollectRRD: defaultPoints(),
	}
	s.CollectLog.Listen, s.CollectStreaming.Listen, s.CollectRRD.Listen = []string{":3000"}, []string{":9001"}, []string{":9000"}
	return s
}

// sections are [serve], which has flags, and those for the file only.
func (s *Serve) sections() []Section {
	return []Section{
		{Name: "serve", Settings: s.settings()},
		{Name: "collect-log", Command: "serve", Settings: s.logSettings()},
		{Name: "collect-streaming", Command: "serve", Settings: s.streamingSettings()},
		{Name: "collect-rrd", Command: "serve", Settings: s.rrdSettings()},
		{Name: "remote-probe", Command: "serve", Settings: new(RemoteProbe).settings(), Add: func() []*Setting {
			p := &RemoteProbe{}
			s.RemoteProbes = append(s.RemoteProbes, p)
			return p.settings()
		}},
	}
}

// endpointWords are the endpoints that tls-for may name.
var endpointWords = []string{"rrd", "streaming", "log"}

// settings is the table of flags and keys, in the order of the help.
func (s *Serve) settings() []*Setting {
	const run = "Running"
	return slices.Concat([]*Setting{
		{Name: "supervisor", Group: groupMPlane, Value: &s.Supervisor, Empty: "none",
			Usage: "register at the supervisor with this `URL`, like https://supervisor:8889/"},
		{Name: "clients", Group: groupMPlane, Value: &s.Clients, Empty: "off",
			Usage: "wait for clients and supervisors" + onAddress},
		{Name: "identity", Group: groupMPlane, Value: &s.Identity, Empty: "host name and --system-id; without endpoints host name and probe",
			Usage: "`NAME` to give to a supervisor without TLS; those of the reference implementation ignore it"},
		{Name: "system-id", Group: groupMPlane, Value: &s.SystemID,
			Usage: "System_ID of the repository's capabilities, any `TEXT`"},
		{Name: "address", Group: groupMPlane, Value: &s.Address, Empty: "that of each endpoint; the host name where one listens on all",
			Usage: "`HOST` where probes reach the endpoints, part of the capabilities"},
		registries(groupMPlane, &s.Registries),
	}, s.Authorization.settings("everything, to everybody"), []*Setting{
		{Name: "accept", Group: run, Value: &s.Accept, Complete: "always scheduled",
			Usage: "`WHEN` the endpoints are open: always, or scheduled (while a specification is active)"},
		{Name: "admin", Group: run, Value: &s.Admin,
			Usage: "serve a page, /metrics, /-/healthy and /-/ready on `ADDRESS`; an empty one turns it off"},
		{Name: "drain-timeout", Group: run, Value: &s.Drain,
			Usage: "when stopped, wait `DURATION` at most for what is under way"},
	}, s.peers(), []*Setting{
		{Name: "tls-for", Group: GroupNetwork, Value: &s.TLSFor, Complete: strings.Join(endpointWords, " ") + " admin",
			Usage: "the `ENDPOINT` that uses the certificates, if there are any: rrd, streaming, log or admin; old exporters of lines and old math_probes know no TLS; " +
				"an admin address that others can reach always uses them"},
	})
}

func (s *Serve) logSettings() []*Setting {
	b := &s.CollectLog
	return slices.Concat([]*Setting{
		{Name: "listen", Value: &b.Listen,
			Usage: "take logs of MATH probes (DBStream's math_probe, or tstatrepo) on these addresses; [] turns repository-collect_log off"},
		{Name: "to", Value: &b.To, Complete: "dir", Empty: "parquet:logs in the state folder",
			Usage: "store the rows there, see import-bulk"},
	}, b.math(), []*Setting{b.types(), b.since(), b.timezone(), b.layout(), b.poll()}, b.limits(), []*Setting{b.adopt()}, b.retention())
}

func (s *Serve) streamingSettings() []*Setting {
	c := &s.CollectStreaming
	return slices.Concat([]*Setting{
		{Name: "listen", Value: &c.Listen,
			Usage: "take live lines of exporters on these addresses; [] turns repository-collect_streaming off"},
		{Name: "to", Value: &c.To, Empty: "file:live in the state folder",
			Usage: "hand the lines to these sinks, see stream"},
	}, c.format(), c.connections(), []*Setting{c.maxLine(), c.queue(), c.retryMax()})
}

func (s *Serve) rrdSettings() []*Setting {
	r := &s.CollectRRD
	return slices.Concat([]*Setting{
		{Name: "listen", Value: &r.Listen,
			Usage: "take points of RRDs (mPlane's indirect export) on these addresses; [] turns repository-collect_rrd off"},
		{Name: "to", Value: &r.To, Complete: "dir", Empty: "whisper:whisper in the state folder",
			Usage: "send the points there, see rrd-push"},
	}, r.naming(), []*Setting{r.keepNegative()}, r.retry(), []*Setting{r.maxMetrics()})
}

func (p *RemoteProbe) settings() []*Setting {
	return []*Setting{
		{Name: "name", Value: &p.Name,
			Usage: "name of a probe that sends to this repository, part of the identity of what it sends"},
		{Name: "timezone", Value: &p.Timezone, Empty: "that of [collect-log]",
			Usage: "zone of its folder names, UTC or like Europe/Rome"},
		{Name: "addresses", Value: &p.Addresses,
			Usage: "networks and addresses it connects from, if it has no certificate; one with a certificate has the name in that"},
	}
}
