package command

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/probe"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// probeSettings are those of [probe], which is for the file only.
type probeSettings struct {
	name      string
	systemID  string
	logFolder string
	rrdFolder string
	folders   []string
	peers     []string
	protocol  string
	tlsFor    []string
	every     duration
	listen    []string
	advertise string
	stream    string
	types     []string
	settle    duration
	timezone  string
}

// exporterLabels are the words of tls-for.
var exporterLabels = map[string]string{"rrd": probe.RRD, "streaming": probe.Streaming, "log": probe.Log}

func defaultProbe() probeSettings {
	s := probeSettings{
		protocol: "plain",
		tlsFor:   []string{"rrd", "streaming", "log"},
		every:    duration(probe.DefaultEvery),
		listen:   []string{":3001"},
		stream:   probe.DefaultStream,
		settle:   duration(bulk.DefaultSettle),
		timezone: "Local",
	}
	for _, n := range probe.Loopback {
		s.peers = append(s.peers, n.String())
	}
	return s
}

func (s *probeSettings) settings() []*setting {
	return []*setting{
		{name: "name", value: &s.name, empty: "host name up to the first dot",
			usage: "name of this probe, part of the identity of what it sends"},
		{name: "system-id", value: &s.systemID, empty: "the capabilities have no such parameter",
			usage: "value of the parameter System_ID of the capabilities; to be set where the supervisor is the reference implementation, which without it may give to a repository what is meant for the probe"},
		{name: "log-folder", value: &s.logFolder, complete: "dir", empty: "tstat-exporter_streaming and tstat-exporter_log are off",
			usage: "folder where Tstat writes its log folders"},
		{name: "rrd-folder", value: &s.rrdFolder, complete: "dir", empty: "tstat-exporter_rrd is off",
			usage: "folder where Tstat writes its RRDs"},
		{name: "folders", value: &s.folders, complete: "dir", empty: "log-folder",
			usage: "folders that a specification may name as log.folder, and what is below them"},
		{name: "peers", value: &s.peers,
			usage: "networks that the repository.url of a specification may lead to"},
		{name: "stream-protocol", value: &s.protocol, complete: "plain ack",
			usage: "how lines are streamed: plain, which old repositories know, or ack, which loses none if the repository crashes (tstatrepo-ack(7))"},
		{name: "tls-for", value: &s.tlsFor, complete: "rrd streaming log",
			usage: "the exporters that use the certificates of [serve], if there are any; old repositories have TLS for rrd only"},
		{name: "every", value: &s.every,
			usage: "look at the RRDs so often"},
		{name: "listen", value: &s.listen,
			usage: "addresses where repositories fetch logs, one for each that is exported to at a time; [] turns tstat-exporter_log off"},
		{name: "advertise", value: &s.advertise, empty: "that of listen, on the way to the repository",
			usage: "HOST:PORT that repositories are told to fetch logs from"},
		{name: "stream", value: &s.stream,
			usage: "names of the streams of logs; {probe} and {type} stand for the name of the probe and the log type"},
		{name: "type", value: &s.types, empty: "all",
			usage: "log types that tstat-exporter_log offers (globs); an old repository on DBStream takes log_tcp_complete only"},
		{name: "settle", value: &s.settle,
			usage: "the logs of the newest folder are finished when nothing in it changed for so long"},
		{name: "timezone", value: &s.timezone,
			usage: "zone of the folder names: Local, UTC or like Europe/Rome"},
	}
}

// options checks the settings and returns the options of the probe, nil if
// there is none. The certificates and networks are those of the service.
func (s *probeSettings) options(cfg *config, p *problems, n network) *probe.Options {
	if s.logFolder == "" && s.rrdFolder == "" {
		return nil
	}
	told := len(p.errs) > 0 // perhaps of a path that is not absolute
	p, done := p.of("probe", cfg.section("probe").settings)
	defer done()
	if s.name == "" {
		host, _ := os.Hostname()
		s.name = fitProbe(host)
	}
	opt := &probe.Options{
		Name: s.name, SystemID: s.systemID, LogFolder: s.logFolder, RRDFolder: s.rrdFolder, Folders: s.folders,
		TLS: n.tls(), Ack: s.protocol == "ack", Every: time.Duration(s.every), Advertise: s.advertise,
		Stream: s.stream, Types: s.types, Settle: time.Duration(s.settle), Location: location(p, s.timezone),
		StateDir: cfg.stateDir,
	}
	err := store.ValidProbe(s.name)
	if err != nil {
		p.add("name", "%v", err)
	}
	if opt.Peers, err = peer.ParseNetworks(s.peers); err != nil {
		p.add("peers", "%v", err)
	} else if len(opt.Peers) == 0 {
		p.add("peers", "must name a network")
	}
	if s.protocol != "plain" && s.protocol != "ack" {
		p.add("stream-protocol", "%q is not plain or ack", s.protocol)
	}
	for _, word := range s.tlsFor {
		label, ok := exporterLabels[word]
		if !ok {
			p.add("tls-for", "%q is not rrd, streaming or log", word)
		}
		opt.TLSFor = append(opt.TLSFor, label)
	}
	if s.advertise != "" && len(s.listen) > 1 {
		p.add("advertise", "is one address, and cannot lead to each of the %d of listen", len(s.listen))
	}
	atLeast(p, "every", s.every, duration(time.Second))
	atLeast(p, "settle", s.settle, duration(time.Second))
	if s.logFolder != "" {
		n.listen = s.listen
		if !slices.Contains(s.tlsFor, "log") {
			n.cert, n.key, n.caPEM = "", "", ""
		}
		opt.Listen = n.listeners(p)
	}
	if told || len(p.errs) > 0 {
		return nil
	}
	if _, err := probe.New(*opt); err != nil {
		p.errs = append(p.errs, fmt.Errorf("[probe]: %w", err))
	}
	return opt
}
