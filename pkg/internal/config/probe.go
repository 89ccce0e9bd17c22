package config

import (
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Probe holds the settings of [probe], which has no flags.
type Probe struct {
	Name      string
	SystemID  string
	LogFolder string
	RRDFolder string
	Folders   []string
	Peers     []string
	Protocol  string
	TLSFor    []string
	Every     Duration
	Listen    []string
	Advertise string
	Stream    string
	Types     []string
	Settle    Duration
	Timezone  string
	Anonymization
}

// exporterLabels maps the values of tls-for to the labels of capabilities.
var exporterLabels = map[string]string{"rrd": exporter.RRD, "streaming": exporter.Streaming, "log": exporter.Log}

func defaultProbe() Probe {
	s := Probe{
		Protocol: "plain",
		TLSFor:   []string{"rrd", "streaming", "log"},
		Every:    Duration(exporter.DefaultEvery),
		Listen:   []string{":3001"},
		Stream:   exporter.DefaultStream,
		Settle:   Duration(bulk.DefaultSettle),
		Timezone: "Local",
	}
	for _, n := range exporter.Loopback {
		s.Peers = append(s.Peers, n.String())
	}
	return s
}

func (s *Probe) settings() []*Setting {
	return append([]*Setting{
		{Name: "name", Value: &s.Name, Empty: "host name up to the first dot",
			Usage: "name this probe; the name is stored with everything that the probe sends"},
		{Name: "system-id", Value: &s.SystemID, Empty: "the capabilities lack the parameter",
			Usage: "set the parameter System_ID of the capabilities. Supervisors of the reference implementation need it: without it they may send a repository the specifications of the probe"},
		{Name: "log-folder", Value: &s.LogFolder, Complete: "dir", Empty: "tstat-exporter_streaming and tstat-exporter_log are off",
			Usage: "export the log folders in this folder, Tstat's output folder"},
		{Name: "rrd-folder", Value: &s.RRDFolder, Complete: "dir", Empty: "tstat-exporter_rrd is off",
			Usage: "export the RRDs that Tstat writes to this folder"},
		{Name: "folders", Value: &s.Folders, Complete: "dir", Empty: "log-folder",
			Usage: "allow specifications to name these folders, and folders below them, as log.folder"},
		{Name: "peers", Value: &s.Peers,
			Usage: "allow specifications to name repositories in these networks as repository.url"},
		{Name: "stream-protocol", Value: &s.Protocol, Complete: "plain ack",
			Usage: "send lines with the protocol plain, for old repositories, or ack, which loses no line if the repository crashes; see tstatrepo-ack(7)"},
		{Name: "tls-for", Value: &s.TLSFor, Complete: "rrd streaming log",
			Usage: "use the certificates of [serve] for these exporters; old repositories support TLS for rrd only"},
		{Name: "every", Value: &s.Every,
			Usage: "read the RRDs at this interval"},
		{Name: "listen", Value: &s.Listen,
			Usage: "serve logs to repositories on these addresses, each to one repository at a time; [] turns tstat-exporter_log off"},
		{Name: "advertise", Value: &s.Advertise, Empty: "the port of listen and the local address of connections to the repository",
			Usage: "let repositories fetch logs from this HOST:PORT"},
		{Name: "stream", Value: &s.Stream,
			Usage: "name the streams of logs; {probe} and {type} are replaced by the name of the probe and the log type"},
		{Name: "type", Value: &s.Types, Empty: "all",
			Usage: "offer log types that match these globs in tstat-exporter_log; an old repository on DBStream accepts only log_tcp_complete"},
		{Name: "settle", Value: &s.Settle,
			Usage: "offer the logs of the newest folder once nothing in it has changed for this long"},
		{Name: "timezone", Value: &s.Timezone,
			Usage: "read folder names in this time zone: Local, UTC or like Europe/Rome"},
	}, s.Anonymization.settings(anonymizationTexts{
		where: " in the logs and lines that this probe exports", off: "they are exported as they are",
	})...)
}

// options checks the settings and returns the options of the probe, or nil if no
// probe is configured. n holds the certificates and networks of the service.
func (s *Probe) options(cfg *Config, p *Problems, n Network) *exporter.Options {
	if s.LogFolder == "" && s.RRDFolder == "" {
		return nil
	}
	told := len(p.errs) > 0 // the error may be about a relative path
	p, done := p.in("probe", cfg.section("probe").Settings)
	defer done()
	if s.Name == "" {
		s.Name = hostProbe()
	}
	opt := &exporter.Options{
		Name: s.Name, SystemID: s.SystemID, LogFolder: s.LogFolder, RRDFolder: s.RRDFolder, Folders: s.Folders,
		TLS: n.TLS(), Ack: s.Protocol == "ack", Every: time.Duration(s.Every), Advertise: s.Advertise,
		Stream: s.Stream, Types: s.Types, Settle: time.Duration(s.Settle), Location: location(p, s.Timezone),
		StateDir: cfg.StateDir,
	}
	err := store.ValidProbe(s.Name)
	if err != nil {
		p.add("name", "%v", err)
	}
	if opt.Peers, err = peer.ParseNetworks(s.Peers); err != nil {
		p.add("peers", "%v", err)
	} else if len(opt.Peers) == 0 {
		p.add("peers", "must name a network")
	}
	if s.Protocol != "plain" && s.Protocol != "ack" {
		p.add("stream-protocol", "%q is not plain or ack", s.Protocol)
	}
	for _, word := range s.TLSFor {
		label, ok := exporterLabels[word]
		if !ok {
			p.add("tls-for", "%q is not rrd, streaming or log", word)
		}
		opt.TLSFor = append(opt.TLSFor, label)
	}
	if s.Advertise != "" && len(s.Listen) > 1 {
		p.add("advertise", "is one address, and cannot lead to each of the %d of listen", len(s.Listen))
	}
	opt.Anonymize, opt.SourceIs = s.Anonymization.check(p)
	s.needSource(p)
	if s.Anonymize != "" && s.LogFolder == "" {
		p.add("anonymize", "is for log-folder only: RRDs hold no addresses")
	}
	checkTypes(p, s.Types)
	atLeast(p, "every", s.Every, Duration(time.Second))
	atLeast(p, "settle", s.Settle, Duration(time.Second))
	if s.LogFolder != "" {
		n.Listen = s.Listen
		if !slices.Contains(s.TLSFor, "log") {
			n.Cert, n.Key, n.CA = "", "", ""
		}
		opt.Listen = n.listeners(p)
	}
	if told || len(p.errs) > 0 {
		return nil
	}
	if _, err := exporter.New(*opt); err != nil {
		p.Add("[probe]: %w", err)
	}
	return opt
}
