package rrdpush

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/remotewrite"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// Dest is a parsed destination of points; see ParseDest.
type Dest struct {
	text   string
	scheme string // "graphite", "whisper", "http", "https", "prometheus" or "-"
	addr   string // host:port of graphite
	pickle bool
	tls    bool
	url    string // of http and https
	dir    string // of whisper
	schema string // storage-schemas.conf of whisper
	server remotewrite.Server

	timeout time.Duration
	// creates is the server's limit on new metrics per minute. 0 means no limit; -1
	// means that the destination does not state one.
	creates int
}

// Schemes lists the URL forms of destinations.
var Schemes = dest.Schemes{"graphite://HOST:2003", "graphite+tls://", "graphite+pickle://HOST:2004", "graphite+pickle+tls://",
	"whisper:DIR", "prometheus+http://HOST:9090/api/v1/write", "prometheus+https://", "http://REPOSITORY:9000", "https://", "-"}

// ParseDest parses a destination:
//
//	graphite://HOST[:2003][?new-metrics-per-minute=N][&timeout=1m], also
//	graphite+tls://, graphite+pickle://HOST[:2004], graphite+pickle+tls://
//	whisper:DIR[?schemas=FILE], or a bare DIR
//	prometheus+http://HOST[:9090][/PATH], prometheus+https://   see remotewrite.ParseURL
//	http://HOST:PORT, https://HOST:PORT   another tstatrepo's endpoint
//	-                                     lines on standard output
func ParseDest(text string) (*Dest, error) {
	d := &Dest{text: text, creates: -1}
	if err := d.parse(); err != nil {
		return nil, err
	}
	return d, nil
}

// String returns the text of the destination without secrets.
func (d *Dest) String() string { return dest.Redact(d.text) }

func (d *Dest) parse() error {
	scheme, rest := dest.Split(d.text)
	err := Schemes.CheckPath(d.text)
	switch {
	case err != nil:
		return err
	case d.text == "-":
		d.scheme = "-"
		return nil
	case scheme == "" || scheme == "whisper":
		return d.parseFolder(rest)
	case !Schemes.Has(scheme):
		return hint.Usage("unknown scheme "+scheme, "known: "+Schemes.String())
	}
	if strings.HasPrefix(scheme, "prometheus+") {
		d.scheme = "prometheus"
		d.server, err = remotewrite.ParseURL(d.text)
		return err
	}
	u, err := dest.Parse(d.text)
	if err != nil {
		return err
	}
	if u.User != nil {
		return hint.Usage("it has a user name", "certificates tell who you are: `tls-cert` and `tls-key`")
	}
	port := "2003"
	if d.pickle = strings.Contains(scheme, "+pickle"); d.pickle {
		port = "2004"
	}
	addrs, err := u.Addrs(port)
	example := "for example " + scheme + "://localhost:" + port
	if err != nil {
		return hint.Add(err, example)
	}
	if len(addrs) > 1 {
		return hint.Usage("it has several hosts", example)
	}
	if u.Path != "" {
		return hint.Usage("it has a path", "")
	}
	if scheme == "http" || scheme == "https" {
		d.scheme, d.url = scheme, scheme+"://"+u.Hosts
		return u.Options.Check("option")
	}
	d.scheme, d.addr, d.tls = "graphite", addrs[0], strings.HasSuffix(scheme, "+tls")
	return d.parseOptions(u.Options)
}

func (d *Dest) parseFolder(rest string) error {
	dir, options, err := dest.ParsePath(rest)
	if err != nil {
		return err
	}
	if dir == "" {
		return hint.Usage("it names no folder", "for example whisper:/srv/whisper")
	}
	d.scheme, d.dir, d.schema = "whisper", dir, options["schemas"]
	return options.Check("option", "schemas")
}

func (d *Dest) parseOptions(o dest.Options) error {
	if err := o.Check("option", "new-metrics-per-minute", "timeout"); err != nil {
		return err
	}
	var err error
	if value, ok := o["new-metrics-per-minute"]; ok {
		if d.creates, err = strconv.Atoi(value); err != nil || d.creates < 0 {
			return hint.Usage(fmt.Sprintf("new-metrics-per-minute: %q is not a whole number", value), "0 means all at once")
		}
	}
	if value, ok := o["timeout"]; ok {
		if d.timeout, err = time.ParseDuration(value); err != nil || d.timeout <= 0 {
			return hint.Usage(fmt.Sprintf("timeout: %q is not a duration like 90s", value), "")
		}
	}
	return nil
}

// remote reports whether the destination is a server, which can be down.
func (d *Dest) remote() bool {
	return d.scheme == "graphite" || d.scheme == "http" || d.scheme == "https" || d.labels()
}

// labels reports whether metrics at the destination have labels.
func (d *Dest) labels() bool { return d.scheme == "prometheus" }

// NamingOf returns the function that names metrics in the given mode: that of
// rrdfile.LabelNamingOf if metrics at the destination have labels, or else that of
// rrdfile.NamingOf. It returns false for unknown modes.
func (d *Dest) NamingOf(mode string, t *rrdfile.Table) (rrdfile.Naming, bool) {
	if d.labels() {
		return rrdfile.LabelNamingOf(mode, t)
	}
	return rrdfile.NamingOf(mode, t)
}

// exports reports whether the destination is another tstatrepo's endpoint. Such an
// endpoint receives names of files instead of names of metrics.
func (d *Dest) exports() bool { return d.scheme == "http" || d.scheme == "https" }

// Prints reports whether the destination is standard output.
func (d *Dest) Prints() bool { return d.scheme == "-" }

// key returns the identity of the destination in state files. It contains no secrets.
func (d *Dest) key() string {
	switch d.scheme {
	case "graphite":
		return "graphite://" + d.addr // the same for all protocols
	case "whisper":
		return "whisper:" + d.dir
	case "prometheus":
		return d.server.Key()
	}
	return d.url
}

// name returns the destination for messages, in one line. It contains no secrets.
func (d *Dest) name() string {
	name, _, _ := strings.Cut(d.key(), "\n")
	return name
}

// openSink returns a new sink for the destination of t.
func (t *Target) openSink() (graphite.Sink, error) {
	d := t.Dest
	switch d.scheme {
	case "-":
		return &printer{w: t.Stdout}, nil
	case "whisper":
		return graphite.NewWhisper(graphite.WhisperOptions{Dir: d.dir, Schemas: d.schema, RetryTimeout: t.RetryTimeout, Log: t.Log})
	case "graphite":
		opt := graphite.CarbonOptions{Addr: d.addr, Pickle: d.pickle, Timeout: d.timeout, RetryTimeout: t.RetryTimeout}
		if d.tls {
			opt.TLS = &t.TLS
		}
		return graphite.NewCarbon(opt), nil
	case "prometheus":
		opt := remotewrite.Options{Server: d.server, Peers: t.Peers, RetryTimeout: t.RetryTimeout, Log: t.Log, LeftOut: t.leftOut}
		if !opt.TLS.Enabled() {
			opt.TLS = t.TLS
		}
		return remotewrite.New(opt)
	}
	return newExporter(d.url, t.TLS, t.Peers, t.RetryTimeout)
}
