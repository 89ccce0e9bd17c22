package rrdpush

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// Redact returns a destination without its password.
func Redact(dest string) string {
	if u, err := url.Parse(dest); err == nil {
		return u.Redacted()
	}
	return dest
}

// Dest is a destination that ParseDest has understood.
type Dest struct {
	text   string
	scheme string // "graphite", "whisper", "http", "https" or "-"
	addr   string // host:port of graphite
	pickle bool
	tls    bool
	url    string // of http and https
	dir    string // of whisper
	schema string // storage-schemas.conf of whisper

	timeout time.Duration
	// creates is how many new metrics the server takes a minute: 0 all, -1
	// not said.
	creates int
}

const destHint = "known: graphite://HOST:2003, graphite+tls://, graphite+pickle://HOST:2004, graphite+pickle+tls://, " +
	"whisper:DIR, http(s)://REPOSITORY:9000 and -"

// ParseDest reads a destination:
//
//	graphite://HOST[:2003][?new-metrics-per-minute=N][&timeout=1m], also
//	graphite+tls://, graphite+pickle://HOST[:2004], graphite+pickle+tls://
//	whisper:DIR[?schemas=FILE], or a bare DIR
//	http://HOST:PORT, https://HOST:PORT   another tstatrepo's endpoint
//	-                                     lines on standard output
func ParseDest(dest string) (*Dest, error) {
	fail := func(advice, format string, args ...any) (*Dest, error) {
		return nil, hint.Usage(fmt.Sprintf(format, args...), advice)
	}
	d := &Dest{text: dest, creates: -1}
	scheme, rest, ok := strings.Cut(dest, ":")
	if !ok || strings.ContainsAny(scheme, "/.") {
		scheme, rest = "whisper", dest
	}
	switch {
	case dest == "-":
		d.scheme = "-"
		return d, nil
	case scheme == "whisper":
		d.scheme = "whisper"
		dir, query, _ := strings.Cut(rest, "?")
		values, err := url.ParseQuery(query)
		if err != nil || dir == "" {
			return fail("for example whisper:/srv/whisper", "it names no folder")
		}
		for key := range values {
			if key != "schemas" {
				return fail("known: schemas", "unknown parameter %s", key)
			}
		}
		d.dir, d.schema = dir, values.Get("schemas")
		return d, nil
	case !slices.Contains([]string{"graphite", "graphite+tls", "graphite+pickle", "graphite+pickle+tls", "http", "https"}, scheme):
		return fail(destHint, "unknown scheme %s", scheme)
	}
	u, err := url.Parse(dest)
	if err != nil || u.Hostname() == "" {
		return fail("for example "+scheme+"://localhost:2003", "it is no URL of a host")
	}
	if u.User != nil {
		return fail("certificates tell who you are: `tls-cert` and `tls-key`", "it has a user name")
	}
	if scheme == "http" || scheme == "https" {
		d.scheme, d.url = scheme, scheme+"://"+u.Host
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			return fail("the path is always "+exportPath, "it has a path")
		}
		return d, nil
	}
	d.scheme = "graphite"
	d.pickle, d.tls = strings.Contains(scheme, "+pickle"), strings.HasSuffix(scheme, "+tls")
	port := u.Port()
	if port == "" {
		port = "2003"
		if d.pickle {
			port = "2004"
		}
	}
	d.addr = net.JoinHostPort(u.Hostname(), port)
	if u.Path != "" && u.Path != "/" {
		return fail("", "it has a path")
	}
	for key, values := range u.Query() {
		value := values[0]
		switch key {
		case "new-metrics-per-minute":
			if d.creates, err = strconv.Atoi(value); err != nil || d.creates < 0 {
				return fail("0 means all at once", "new-metrics-per-minute: %q is not a whole number", value)
			}
		case "timeout":
			if d.timeout, err = time.ParseDuration(value); err != nil || d.timeout <= 0 {
				return fail("", "timeout: %q is not a duration like 90s", value)
			}
		default:
			return fail("known: new-metrics-per-minute, timeout", "unknown parameter %s", key)
		}
	}
	return d, nil
}

// remote tells whether the destination is a peer that can be away.
func (d *Dest) remote() bool {
	return d.scheme == "graphite" || d.scheme == "http" || d.scheme == "https"
}

// exports tells whether the destination is an endpoint that wants the names of
// files, not of metrics.
func (d *Dest) exports() bool { return d.scheme == "http" || d.scheme == "https" }

// Prints tells whether the destination is standard output.
func (d *Dest) Prints() bool { return d.scheme == "-" }

// key tells destinations apart in names of state files.
func (d *Dest) key() string {
	switch d.scheme {
	case "graphite":
		return "graphite://" + d.addr // however it is spoken to
	case "whisper":
		return "whisper:" + d.dir
	}
	return d.url
}

// open returns the sink.
func (d *Dest) open(files peer.TLS, peers peer.Networks, retry time.Duration, stdout io.Writer, log *slog.Logger) (graphite.Sink, error) {
	switch d.scheme {
	case "-":
		return &printer{w: stdout}, nil
	case "whisper":
		return graphite.NewWhisper(graphite.WhisperOptions{Dir: d.dir, Schemas: d.schema, Log: log})
	case "graphite":
		opt := graphite.CarbonOptions{Addr: d.addr, Pickle: d.pickle, Timeout: d.timeout, RetryTimeout: retry}
		if d.tls {
			opt.TLS = &files
		}
		return graphite.NewCarbon(opt), nil
	}
	return newExporter(d.url, files, peers, retry)
}
