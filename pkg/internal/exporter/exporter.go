// Package exporter implements the probe's side of the mPlane export. With the
// capabilities tstat-exporter_rrd, tstat-exporter_streaming and tstat-exporter_log, a
// client makes this probe send its RRDs, live log lines and finished logs to a
// repository. Labels, parameters, metadata and results are those of tstat.py, a component
// of the mPlane project.
package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Labels of the capabilities of a probe.
const (
	RRD       = "tstat-exporter_rrd"
	Streaming = "tstat-exporter_streaming"
	Log       = "tstat-exporter_log"
)

// Defaults of Options.
const (
	DefaultEvery  = time.Minute
	DefaultStream = "{probe}_{type}"
)

// Loopback contains the loopback networks, the default of Options.Peers.
var Loopback = peer.Networks{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// Options configures what a probe exports, and to which repositories.
type Options struct {
	Name string // of the probe, see store.ValidProbe
	// SystemID is the value of the parameter System_ID. If it is empty, the
	// capabilities lack the parameter, as in the documentation of mPlane.
	SystemID string

	// LogFolder is where Tstat writes its log folders; "" turns off
	// tstat-exporter_streaming and tstat-exporter_log.
	LogFolder string
	// RRDFolder is where Tstat writes its RRDs; "" turns off
	// tstat-exporter_rrd.
	RRDFolder string
	// Folders are the folders that log.folder may name, including their
	// subfolders; empty: the LogFolder.
	Folders []string
	// Peers are the allowed networks of repository.url; empty: Loopback.
	Peers peer.Networks

	TLS peer.TLS // for connections to repositories
	// TLSFor are the labels of the exporters that use TLS.
	TLSFor []string
	// Ack makes tstat-exporter_streaming use the acknowledged mode, see
	// tstatrepo-ack(7).
	Ack bool

	Every time.Duration // interval of scans of the RRDs; 0: 1m
	// Listen are the addresses where repositories fetch logs: one for each
	// concurrent export. If empty, tstat-exporter_log is not offered.
	Listen    []peer.Options
	Advertise string   // see mathproto.ExporterOptions
	Stream    string   // see mathproto.ExporterOptions; "": {probe}_{type}
	Types     []string // globs that select the logs of tstat-exporter_log; empty: all
	Settle    time.Duration

	// Anonymize rewrites logs and lines before they leave the probe; nil: they are
	// exported unchanged. If Anonymize is set, SourceIs must not be Unknown: it says
	// whether addresses have already been anonymized in lines that have no flag for this.
	Anonymize *anonymize.Anonymizer
	SourceIs  anonymize.Source

	Location *time.Location // zone of folder names; nil: time.Local
	StateDir string
	Log      *slog.Logger
}

// Exporter runs the three exporters of a probe. It is safe for concurrent use.
type Exporter struct {
	Options
	log         *slog.Logger
	minute      time.Duration // unit of log.time; shorter in tests
	drain       time.Duration // how long a repository may take to accept the lines in flight at the end
	retry       time.Duration // how long a batch of points is retried
	resumeDelay time.Duration // delay before a resumed export is retried
	lookup      func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu      sync.Mutex
	running []*export

	watch watch // of the folders of Tstat
}

// New returns an Exporter whose Services a component can offer. The folders in opt need
// not exist.
func New(opt Options) (*Exporter, error) {
	if len(opt.Folders) == 0 && opt.LogFolder != "" {
		opt.Folders = []string{opt.LogFolder}
	}
	if len(opt.Peers) == 0 {
		opt.Peers = Loopback
	}
	opt.Every = cmp.Or(opt.Every, DefaultEvery)
	opt.Stream = cmp.Or(opt.Stream, DefaultStream)
	opt.Location = cmp.Or(opt.Location, time.Local)
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	p := &Exporter{
		Options: opt, log: opt.Log, minute: time.Minute, drain: drain, retry: retryFor, resumeDelay: resumeDelay, lookup: net.DefaultResolver.LookupNetIP,
	}
	return p, opt.check()
}

// check returns all errors in the options.
func (o *Options) check() error {
	errs := []error{store.ValidProbe(o.Name), mathproto.CheckStreams(o.Stream, o.Name)}
	if o.LogFolder == "" && o.RRDFolder == "" {
		errs = append(errs, errors.New("a probe needs a folder with logs or RRDs"))
	}
	for _, dir := range slices.Concat([]string{o.LogFolder, o.RRDFolder}, o.Folders) {
		if dir != "" && !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("folder %q is not an absolute path", dir))
		}
	}
	if o.SystemID != "" {
		c, err := mplane.ParseConstraint(mplane.String, o.SystemID)
		if id, ok := c.Single(); err != nil || !ok || id != o.SystemID {
			errs = append(errs, fmt.Errorf("System_ID %q is not a single value", o.SystemID))
		}
	}
	for _, glob := range o.Types {
		if _, err := path.Match(glob, ""); err != nil {
			errs = append(errs, fmt.Errorf("%q is not a glob", glob))
		}
	}
	if o.Anonymize != nil && o.SourceIs == anonymize.Unknown {
		errs = append(errs, errors.New("anonymize needs to know whether addresses are clear: a log that grows cannot tell"))
	}
	if o.Advertise != "" {
		errs = append(errs, mathproto.CheckAdvertise(o.Advertise))
	}
	return errors.Join(errs...)
}

// Services returns the capabilities with their implementations.
func (p *Exporter) Services() []component.Service {
	var list []component.Service
	url := mplane.Field{Name: "repository.url", Type: mplane.URL, Text: mplane.None}
	if p.RRDFolder != "" {
		c := p.capability(RRD, "past ... future", url)
		c.Results = []string{"rrdtimestamp", "rrdMetirc", "rrdValue"} // the spelling of the registry
		list = append(list, component.Service{Capability: c, Run: p.run(RRD, p.exportRRD)})
	}
	if p.LogFolder == "" {
		return list
	}
	c := p.capability(Streaming, "now ... future", url,
		mplane.Field{Name: "log.folder", Type: mplane.String, Text: mplane.None},
		mplane.Field{Name: "log.type", Type: mplane.String, Text: mplane.None},
		mplane.Field{Name: "log.time", Type: mplane.Natural, Text: mplane.None})
	list = append(list, component.Service{Capability: c, Run: p.run(Streaming, p.exportLines)})
	if len(p.Listen) > 0 {
		list = append(list, component.Service{Capability: p.capability(Log, "past ... future", url), Run: p.run(Log, p.exportLogs)})
	}
	return list
}

// capability returns a capability of this probe with the scope given by when, and panics
// if the scope is invalid. The capability has the same contents as in tstat.py and hence
// the same token, a digest of the contents. Without a SystemID, its token is that of
// older versions of tstat.py, which have no System_ID.
func (p *Exporter) capability(label, when string, parameters ...mplane.Field) *mplane.Statement {
	scope, err := mplane.ParseScope(when)
	if err != nil {
		panic(err) // the argument is a constant
	}
	system := "tStat-Proxy"
	if p.SystemID != "" {
		system += "-" + p.SystemID
		parameters = append([]mplane.Field{{Name: "System_ID", Type: mplane.String, Text: p.SystemID}}, parameters...)
	}
	return &mplane.Statement{
		Kind: mplane.Capability, Verb: mplane.Measure, Label: label, Registry: mplane.TstatRegistry, When: scope,
		Parameters: parameters,
		Metadata: mplane.Fields{
			{Name: "System_type", Type: mplane.String, Text: "tStat"},
			{Name: "System_ID", Type: mplane.String, Text: system},
			{Name: "System_version", Type: mplane.String, Text: "0.1"},
		},
	}
}

// secure reports whether the exporter with the given label uses TLS.
func (p *Exporter) secure(label string) bool {
	return p.TLS.Enabled() && slices.Contains(p.TLSFor, label)
}

// sink returns the URL of the sink that receives live lines at addr.
func (p *Exporter) sink(addr string) string {
	scheme := "tcp"
	switch {
	case p.Ack && p.secure(Streaming):
		scheme = "ack+tls"
	case p.Ack:
		scheme = "ack"
	case p.secure(Streaming):
		scheme = "tls"
	}
	return scheme + "://" + addr
}
