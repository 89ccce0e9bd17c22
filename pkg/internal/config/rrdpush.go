package config

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// Points holds the settings that rrd-push and [collect-rrd] share: those for receiving
// RRD points from other machines, naming metrics and storing points.
type Points struct {
	Network
	To           string
	Prefix       string
	Names        string
	NamesFile    string
	KeepNegative bool
	RetryTimeout Duration
	Spool        Size
	MaxMetrics   int
}

func defaultPoints() Points {
	return Points{
		Prefix:       "tstat",
		Names:        "default",
		RetryTimeout: Duration(10 * time.Second),
		Spool:        256 << 20,
		MaxMetrics:   rrdpush.DefaultMaxMetrics,
	}
}

// retry returns the settings that apply while the destination is unavailable.
func (r *Points) retry() []*Setting {
	return []*Setting{
		{Name: "retry-timeout", Group: groupDestination, Value: &r.RetryTimeout,
			Usage: "retry for `DURATION` while the destination is unavailable, then spool the points"},
		{Name: "spool", Group: groupDestination, Value: &r.Spool,
			Usage: "spool at most `SIZE` of points on disk while the destination is unavailable"},
	}
}

// naming returns the settings for the names of metrics.
func (r *Points) naming() []*Setting {
	const names = "Names"
	return []*Setting{
		{Name: "prefix", Group: names, Value: &r.Prefix,
			Usage: "begin each metric path with `PATH`"},
		{Name: "names", Group: names, Value: &r.Names, Complete: strings.Join(rrdfile.Namings, " "),
			Usage: "name metrics by `MODE`: default, upstream (the names of mPlane's importer) or raw (file names)"},
		{Name: "names-file", Group: names, Value: &r.NamesFile, Complete: "file",
			Usage: "read other names for histograms and indexes from TOML `FILE`"},
	}
}

func (r *Points) keepNegative() *Setting {
	return &Setting{Name: "keep-negative", Group: groupSource, Value: &r.KeepNegative,
		Usage: "send negative percentiles too; Tstat writes them where it has no samples"}
}

func (r *Points) maxMetrics() *Setting {
	return &Setting{Name: "max-metrics", Group: GroupNetwork, Value: &r.MaxMetrics,
		Usage: "store at most `N` metrics of each probe; points of further metrics are left out and counted"}
}

var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// check checks the settings and returns them as a target. Target.Dest is nil if r.To is
// invalid.
func (r *Points) check(p *Problems) rrdpush.Target {
	if !validPrefix.MatchString(r.Prefix) {
		p.add("prefix", "%q is not a path of letters, digits, _ and - joined by dots", r.Prefix)
	}
	to, err := rrdpush.ParseDest(r.To)
	p.destination("to", r.To, err)
	var table *rrdfile.Table
	if r.NamesFile != "" {
		if table, err = rrdfile.ReadTable(r.NamesFile); err != nil {
			p.add("names-file", "%v", err)
		} else if r.Names != "default" {
			p.add("names-file", "is for `names` default")
		}
	}
	naming, ok := rrdfile.NamingOf(r.Names, table)
	if !ok {
		p.add("names", "%q is not one of %s", r.Names, strings.Join(rrdfile.Namings, ", "))
	} else if to != nil {
		if naming, ok = to.NamingOf(r.Names, table); !ok {
			p.add("names", "%s has no labels, which a Prometheus needs", r.Names)
		}
	}
	atLeast(p, "retry-timeout", r.RetryTimeout, 0)
	atLeast(p, "spool", r.Spool, 0)
	within(p, "max-metrics", r.MaxMetrics, 1, 1_000_000)
	if to != nil && len(r.Listen) > 0 && strings.HasPrefix(r.To, "http") {
		p.add("to", "must be a Graphite or Prometheus: a repository wants the names of files")
	}
	return rrdpush.Target{
		Dest: to, Prefix: r.Prefix, Naming: naming, Mode: r.Names, Negative: r.KeepNegative,
		TLS: r.TLS(), RetryTimeout: time.Duration(r.RetryTimeout), SpoolSize: int64(r.Spool),
	}
}

// RRDPush holds the settings of rrd-push.
type RRDPush struct {
	Points
	Sources     []string
	Probe       string
	Since       string
	Reader      string
	Every       Duration
	DryRun      bool
	ListMetrics bool
	Output
}

func defaultRRDPush() RRDPush {
	r := RRDPush{Points: defaultPoints(), Reader: rrdfile.Go}
	r.To = "whisper:./whisper"
	return r
}

// settings returns the table of settings, in the order in which the help lists them.
func (r *RRDPush) settings() []*Setting {
	return slices.Concat([]*Setting{
		{Name: "sources", Group: groupSource, Value: &r.Sources,
			Usage: "push these sources if the command line names none"},

		{Name: "to", Group: groupDestination, Value: &r.To, Complete: completeURLs(rrdpush.Schemes),
			Usage: "send the points to `URL`: " + rrdpush.Schemes.String() + " (lines on stdout)"},
	}, r.retry(), []*Setting{
		{Name: "dry-run", Group: groupDestination, Value: &r.DryRun,
			Usage: "print what would be sent as lines on stdout, and send nothing"},

		{Name: "since", Group: groupSource, Value: &r.Since, Empty: "new points; in the first push all points",
			Usage: "push points of `TIME` and later, even if they were sent before: " + timeForms},
		{Name: "reader", Group: groupSource, Value: &r.Reader, Complete: strings.Join(rrdfile.Modes, " "),
			Usage: "decode RRDs with `READER`: go, librrd (if the program was built with it), or both, which sends nothing if a value differs"},
		{Name: "every", Group: groupSource, Value: &r.Every, Empty: "once",
			Usage: "push every `DURATION` until interrupted"},
		r.keepNegative(),

		{Name: "probe", Group: "Names", Value: &r.Probe, Empty: "host name up to the first dot; with --listen, the name in the client certificate",
			Usage: "use `NAME`, the name of the probe, as the second part of each metric path"},
	}, r.naming(), []*Setting{
		{Name: "listen", Group: GroupNetwork, Value: &r.Listen, Empty: "off",
			Usage: "accept points of other probes (mPlane's indirect export, HTTP)" + onAddress},
	}, r.peers(), []*Setting{
		r.maxMetrics(),

		{Name: "list-metrics", Group: groupOutput, Value: &r.ListMetrics,
			Usage: "print file, metric and unit of each RRD on stdout, and send nothing"},
		r.json("print the summary, or the list of metrics, as JSON on stdout"),
		r.metricsFile(),
		r.verbose(),
		r.quiet(),
	})
}

// Options checks the settings and returns the options of a pusher. If there are
// listeners, rrd-push runs an endpoint instead of a pusher; the endpoint sends to
// opt.Target. Arguments replace r.Sources.
func (r *RRDPush) Options(p *Problems, args []string) (opt rrdpush.Options, listeners []peer.Options) {
	if len(args) > 0 {
		r.Sources = args
	}
	if r.Probe == "" && len(r.Listen) == 0 {
		r.Probe = hostProbe()
	}
	if r.Probe != "" || len(r.Listen) == 0 {
		checkProbeName(p, r.Probe)
	}
	target := r.Points.check(p)
	target.Probe = r.Probe
	p.usage("reader", rrdfile.CheckMode(r.Reader))
	if r.Every != 0 {
		atLeast(p, "every", r.Every, Duration(time.Second))
	}
	if slices.Contains(r.Sources, "") {
		p.Add("a SOURCE must not be empty")
	}
	listens := len(r.Listen) > 0
	p.exclude([]pair{
		{r.Quiet, r.Verbose, "quiet", "verbose"},
		{r.Every != 0, r.DryRun, "every", "dry-run"},
		{r.ListMetrics, r.DryRun, "list-metrics", "dry-run"},
		{r.ListMetrics, r.Every != 0, "list-metrics", "every"},
		{r.ListMetrics, r.Since != "", "list-metrics", "since"},
		{r.ListMetrics, r.MetricsFile != "", "list-metrics", "metrics-file"},
		{listens, r.ListMetrics, "listen", "list-metrics"},
		{listens, r.DryRun, "listen", "dry-run"},
		{listens, r.Every != 0, "listen", "every"},
		{listens, r.Since != "", "listen", "since"},
		{listens, r.MetricsFile != "", "listen", "metrics-file"},
	})
	if r.JSON && !r.ListMetrics && (r.DryRun || target.Dest != nil && target.Dest.Prints()) {
		p.add("json", "cannot be combined with lines on stdout")
	}
	return rrdpush.Options{
		Target: target, Sources: r.Sources,
		Since:  timeSetting(p, "since", r.Since, time.Local),
		Every:  time.Duration(r.Every),
		DryRun: r.DryRun,
		Reader: r.Reader,
	}, r.listeners(p)
}
