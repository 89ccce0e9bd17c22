package config

import (
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// Serve holds the settings of the serve command, except those of [probe].
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

// RemoteProbe is a [[remote-probe]] table: a probe that sends to this repository.
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

// sections returns [serve], whose settings also have flags, and the sections that exist
// only in the config file.
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

// endpointWords lists the values of tls-for that name endpoints. The only other value is
// admin.
var endpointWords = []string{"rrd", "streaming", "log"}

// settings returns the settings of [serve], in the order in which the help lists them.
func (s *Serve) settings() []*Setting {
	const run = "Running"
	return slices.Concat([]*Setting{
		{Name: "supervisor", Group: groupMPlane, Value: &s.Supervisor, Empty: "none",
			Usage: "register at the supervisor with this `URL`, like https://supervisor:8889/"},
		{Name: "clients", Group: groupMPlane, Value: &s.Clients, Empty: "off",
			Usage: "accept clients and supervisors" + onAddress},
		{Name: "identity", Group: groupMPlane, Value: &s.Identity, Empty: "host name and --system-id; without endpoints, host name and probe name",
			Usage: "use `NAME` as identity at a supervisor without TLS; the reference implementation ignores it"},
		{Name: "system-id", Group: groupMPlane, Value: &s.SystemID,
			Usage: "set System_ID of the repository's capabilities to `TEXT`"},
		{Name: "address", Group: groupMPlane, Value: &s.Address, Empty: "the address of each endpoint; for an endpoint on all addresses, the host name",
			Usage: "advertise the endpoints to probes at `HOST`"},
		registries(groupMPlane, &s.Registries),
	}, s.Authorization.settings("everybody may use everything"), []*Setting{
		{Name: "accept", Group: run, Value: &s.Accept, Complete: "always scheduled",
			Usage: "open the endpoints `WHEN`: always, or scheduled (while a specification is active)"},
		{Name: "admin", Group: run, Value: &s.Admin,
			Usage: "serve the status page, /metrics, /-/healthy and /-/ready on `ADDRESS`; an empty address turns this off"},
		{Name: "drain-timeout", Group: run, Value: &s.Drain,
			Usage: "when stopped, wait at most `DURATION` to finish work in progress"},
	}, s.peers(), []*Setting{
		{Name: "tls-for", Group: GroupNetwork, Value: &s.TLSFor, Complete: strings.Join(endpointWords, " ") + " admin",
			Usage: "use the certificates for `ENDPOINT`: rrd, streaming, log or admin; old exporters of lines and old math_probes do not support TLS; " +
				"an admin address that other machines can reach always uses them"},
	})
}

func (s *Serve) logSettings() []*Setting {
	b := &s.CollectLog
	return slices.Concat([]*Setting{
		{Name: "listen", Value: &b.Listen,
			Usage: "accept MATH probes (DBStream's math_probe, or tstatrepo) on these addresses; [] turns repository-collect_log off"},
		{Name: "to", Value: &b.To, Complete: "dir", Empty: "parquet:logs in the state folder",
			Usage: "store the rows in these stores, see import-bulk"},
	}, b.math(), []*Setting{b.types(), b.since(), b.timezone(), b.layout(), always(b.poll())[0]}, b.Anonymization.settings(anonymizationTexts{
		off: "addresses and names are stored as they are", unknown: "logs of such types are not stored",
	}), b.Rows.settings(), b.limits(), []*Setting{b.adopt()}, always(b.retention()...))
}

// always removes a condition such as "with --follow: " from the usage of each setting,
// because serve always meets that condition. It changes the settings in list and returns
// them.
func always(list ...*Setting) []*Setting {
	for _, s := range list {
		if _, usage, ok := strings.Cut(s.Usage, ": "); ok && strings.HasPrefix(s.Usage, "with ") {
			s.Usage = usage
		}
	}
	return list
}

func (s *Serve) streamingSettings() []*Setting {
	c := &s.CollectStreaming
	return slices.Concat([]*Setting{
		{Name: "listen", Value: &c.Listen,
			Usage: "accept exporters of live lines on these addresses; [] turns repository-collect_streaming off"},
		{Name: "to", Value: &c.To, Empty: "file:live in the state folder",
			Usage: "deliver the lines to these sinks, see stream"},
	}, c.format(), c.connections(), []*Setting{c.maxLine(), c.queue(), c.retryMax()})
}

func (s *Serve) rrdSettings() []*Setting {
	r := &s.CollectRRD
	return slices.Concat([]*Setting{
		{Name: "listen", Value: &r.Listen,
			Usage: "accept points of RRDs (mPlane's indirect export) on these addresses; [] turns repository-collect_rrd off"},
		{Name: "to", Value: &r.To, Complete: "dir", Empty: "whisper:whisper in the state folder",
			Usage: "send the points to this destination, see rrd-push"},
	}, r.naming(), []*Setting{r.keepNegative()}, r.retry(), []*Setting{r.maxMetrics()})
}

func (p *RemoteProbe) settings() []*Setting {
	return []*Setting{
		{Name: "name", Value: &p.Name,
			Usage: "name a probe that sends to this repository; the name is stored with everything that the probe sends"},
		{Name: "timezone", Value: &p.Timezone, Empty: "the zone of [collect-log]",
			Usage: "read folder names of this probe in this time zone, UTC or like Europe/Rome"},
		{Name: "addresses", Value: &p.Addresses,
			Usage: "recognize the probe by these addresses and networks; a certificate overrides them"},
	}
}
