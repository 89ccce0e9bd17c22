package config

import (
	"os"
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
}

// exporterLabels are the words of tls-for.
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
	return []*Setting{
		{Name: "name", Value: &s.Name, Empty: "host name up to the first dot",
			Usage: "name of this probe, part of the identity of what it sends"},
		{Name: "system-id", Value: &s.SystemID, Empty: "the capabilities have no such parameter",
			Usage: "value of the parameter System_ID of the capabilities; to be set where the supervisor is the reference implementation, which without it may give to a repository what is meant for the probe"},
		{Name: "log-folder", Value: &s.LogFolder, Complete: "dir", Empty: "tstat-exporter_streaming and tstat-exporter_log are off",
			Usage: "folder where Tstat writes its log folders"},
		{Name: "rrd-folder", Value: &s.RRDFolder, Complete: "dir", Empty: "tstat-exporter_rrd is off",
			Usage: "folder where Tstat writes its RRDs"},
		{Name: "folders", Value: &s.Folders, Complete: "dir", Empty: "log-folder",
			Usage: "folders that a specification may name as log.folder, and what is below them"},
		{Name: "peers", Value: &s.Peers,
			Usage: "networks that the repository.url of a specification may lead to"},
		{Name: "stream-protocol", Value: &s.Protocol, Complete: "plain ack",
			Usage: "how lines are streamed: plain, which old repositories know, or ack, which loses none if the repository crashes (tstatrepo-ack(7))"},
		{Name: "tls-for", Value: &s.TLSFor, Complete: "rrd streaming log",
			Usage: "the exporters that use the certificates of [serve], if there are any; old repositories have TLS for rrd only"},
		{Name: "every", Value: &s.Every,
			Usage: "look at the RRDs so often"},
		{Name: "listen", Value: &s.Listen,
			Usage: "addresses where repositories fetch logs, one for each that is exported to at a time; [] turns tstat-exporter_log off"},
		{Name: "advertise", Value: &s.Advertise, Empty: "that of listen, on the way to the repository",
			Usage: "HOST:PORT that repositories are told to fetch logs from"},
		{Name: "stream", Value: &s.Stream,
			Usage: "names of the streams of logs; {probe} and {type} stand for the name of the probe and the log type"},
		{Name: "type", Value: &s.Types, Empty: "all",
			Usage: "log types that tstat-exporter_log offers (globs); an old repository on DBStream takes log_tcp_complete only"},
		{Name: "settle", Value: &s.Settle,
			Usage: "the logs of the newest folder are finished when nothing in it changed for so long"},
		{Name: "timezone", Value: &s.Timezone,
			Usage: "zone of the folder names: Local, UTC or like Europe/Rome"},
	}
}

// options checks the settings and returns the options of the probe, or nil if
// none is configured. n holds the certificates and networks of the service.
func (s *Probe) options(cfg *Config, p *Problems, n Network) *exporter.Options {
	if s.LogFolder == "" && s.RRDFolder == "" {
		return nil
	}
	told := len(p.errs) > 0 // the error may be about a relative path
	p, done := p.in("probe", cfg.section("probe").Settings)
	defer done()
	if s.Name == "" {
		host, _ := os.Hostname()
		s.Name = fitProbe(host)
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
