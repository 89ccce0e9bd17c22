package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// rrdPush holds the settings of rrd-push.
type rrdPush struct {
	sources      []string
	to           string
	probe        string
	prefix       string
	names        string
	namesFile    string
	since        string
	reader       string
	every        duration
	keepNegative bool
	dryRun       bool
	retryTimeout duration
	spool        size
	network      network
	maxMetrics   int
	listMetrics  bool
	json         bool
	metricsFile  string
	verbose      bool
	quiet        bool
}

func defaultRRDPush() rrdPush {
	return rrdPush{
		to:           "whisper:./whisper",
		prefix:       "tstat",
		names:        "default",
		reader:       rrdfile.Go,
		retryTimeout: duration(10 * time.Second),
		spool:        256 << 20,
		maxMetrics:   rrdpush.DefaultMaxMetrics,
	}
}

// settings is the table of flags and keys, in the order of the help.
func (r *rrdPush) settings() []*setting {
	const (
		dest    = "Destination"
		source  = "Source"
		names   = "Names"
		reports = "Output"
	)
	return slices.Concat([]*setting{
		{name: "sources", group: source, value: &r.sources,
			usage: "what to push when the command line names no source"},

		{name: "to", group: dest, value: &r.to, complete: urls(rrdpush.Schemes),
			usage: "send the points to `URL`: " + rrdpush.Schemes.String() + " (lines on stdout)"},
		{name: "retry-timeout", group: dest, value: &r.retryTimeout,
			usage: "retry for `DURATION` while the destination is unavailable, then spool the points"},
		{name: "spool", group: dest, value: &r.spool,
			usage: "keep at most `SIZE` of points on disk while the destination is unavailable"},
		{name: "dry-run", group: dest, value: &r.dryRun,
			usage: "print what would be sent as lines on stdout, and remember nothing"},

		{name: "since", group: source, value: &r.since, empty: "what is new; all at first",
			usage: "push points of `TIME` and later, sent before or not: 2006-01-02, 2006-01-02T15:04, RFC 3339, today, yesterday, or a duration before now like 7d or 12h"},
		{name: "reader", group: source, value: &r.reader, complete: strings.Join(rrdfile.Modes, " "),
			usage: "decode RRDs with `READER`: go, librrd (if the program was built with it), or both, which sends nothing if one value differs"},
		{name: "every", group: source, value: &r.every, empty: "once",
			usage: "push every `DURATION` until interrupted"},
		{name: "keep-negative", group: source, value: &r.keepNegative,
			usage: "send negative percentiles too, which Tstat writes where it had no samples"},

		{name: "probe", group: names, value: &r.probe, empty: "host name up to the first dot; with --listen that of the client certificate",
			usage: "`NAME` of the probe that wrote the RRDs, the second part of every path"},
		{name: "prefix", group: names, value: &r.prefix,
			usage: "`PATH` in front of the probe's name"},
		{name: "names", group: names, value: &r.names, complete: strings.Join(rrdfile.Namings, " "),
			usage: "`MODE` of names: default, upstream (exactly those of mPlane's importer) or raw (file names)"},
		{name: "names-file", group: names, value: &r.namesFile, complete: "file",
			usage: "TOML `FILE` with other names for histograms and indexes"},
	}, r.network.settings("take points of other probes (mPlane's indirect export, HTTP)"), []*setting{
		{name: "max-metrics", group: "Network", value: &r.maxMetrics,
			usage: "store at most `N` metrics of each probe; points of others are left out and counted"},

		{name: "list-metrics", group: reports, value: &r.listMetrics,
			usage: "print file, metric and unit of each RRD on stdout, and send nothing"},
		{name: "json", group: reports, value: &r.json,
			usage: "print the summary, or the list of metrics, as JSON on stdout"},
		{name: "metrics-file", group: reports, value: &r.metricsFile, complete: "file",
			usage: "write Prometheus metrics to `FILE` (*.prom for node_exporter)"},
		{name: "verbose", group: reports, value: &r.verbose,
			usage: "print the summary even if stderr is not a terminal"},
		{name: "quiet", group: reports, value: &r.quiet,
			usage: "print warnings and errors only"},
	})
}

var rrdPushExamples = []example{
	{"all RRDs into Whisper files below ./whisper, no server needed", "tstatrepo rrd-push /rrdfiles"},
	{"show what would be sent", "tstatrepo rrd-push --dry-run --since 2024-05-01 /rrdfiles"},
	{"list the names of the metrics", "tstatrepo rrd-push --list-metrics --probe polito1 /rrdfiles"},
	{"several folders, and one file", "tstatrepo rrd-push --to graphite://graphite:2003 /rrdfiles /other /old/tcp_rtt_avg_in.avg.rrd"},
	{"every five minutes from cron; silent unless something is wrong", "*/5 * * * * tstatrepo rrd-push --to graphite://graphite:2003 --probe polito1 /rrdfiles"},
	{"the same with a systemd timer", "systemd-run --unit rrd-push --on-calendar '*:0/5' tstatrepo rrd-push --to graphite://graphite:2003 --probe polito1 /rrdfiles"},
	{"as a service", "tstatrepo rrd-push --every 5m --to graphite://graphite:2003 /rrdfiles"},
	{"to a carbon that creates 50 metrics a minute", "tstatrepo rrd-push --every 1m --to 'graphite://graphite:2003?new-metrics-per-minute=50' /rrdfiles"},
	{"to a Prometheus", "tstatrepo rrd-push --every 5m --to prometheus+http://prometheus:9090/api/v1/write /rrdfiles"},
	{"to a Mimir with a tenant", "tstatrepo rrd-push --to 'prometheus+https://tstat@mimir/api/v1/push?password-file=/etc/tstatrepo/password&header=X-Scope-OrgID:tstat' /rrdfiles"},
	{"to the repository, which knows the probe by its certificate", "tstatrepo rrd-push --to https://repository:9000 --tls-cert probe.pem --tls-key probe.key --tls-ca ca.pem /rrdfiles"},
	{"the repository's side", "tstatrepo rrd-push --listen 0.0.0.0:9000 --tls-cert repo.pem --tls-key repo.key --tls-ca ca.pem --to graphite://localhost:2003"},
}

func rrdPushCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "rrd-push",
		Usage:     "push the points of Tstat's RRDs into Graphite or Prometheus",
		ArgsUsage: "SOURCE...",
		Category:  groupProduct,
		Description: "Reads the RRD files of each SOURCE, a folder or an .rrd file, and sends their points to Graphite, Whisper files, " +
			"Prometheus or another tstatrepo. The first push sends all history, later pushes what is new. Tstat's files are " +
			"neither locked nor changed.\n\n" +
			"With --listen it accepts points that other probes send with tstatrepo or mPlane's exporter.\n\n" +
			"'tstatrepo man rrd-push' has names, labels and what each server needs.",
		Flags:  commandFlags("rrd-push"),
		Action: func(c *cli.Context) error { return runRRDPush(c, con) },
	}
}

// runRRDPush turns flags and config into the options of a pusher or an
// endpoint, runs it and reports its result.
func runRRDPush(c *cli.Context, con *console.Console) error {
	cfg, p, err := loadConfig(c, con)
	if err != nil {
		return err
	}
	r := &cfg.rrdPush
	if c.Args().Present() {
		r.sources = c.Args().Slice()
	}
	opt := r.options(p)
	listen := r.network.listeners(p)
	if err := p.err(c.Command.Name); err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	if r.quiet {
		con.Quiet()
	}
	opt.StateDir, opt.Stdout, opt.Log = cfg.stateDir, c.App.Writer, con.Logger()
	if len(listen) > 0 {
		if len(r.sources) > 0 {
			return usagef("rrd-push takes a SOURCE or --listen, not both")
		}
		return r.serve(c.Context, rrdpush.EndpointOptions{Target: opt.Target, Listen: listen, MaxMetrics: r.maxMetrics})
	}
	if len(r.sources) == 0 {
		return hint.Add(usagef("rrd-push needs a SOURCE: a folder of RRDs or an .rrd file"), "for example: tstatrepo rrd-push /rrdfiles")
	}
	opt.Sources = r.sources
	if r.listMetrics {
		list, err := rrdpush.List(opt)
		return errors.Join(err, r.printMetrics(c.App.Writer, list))
	}
	push, err := rrdpush.New(opt)
	if err != nil {
		return err
	}
	var sum *rrdpush.Summary
	for sum, err = range push.Run(c.Context) {
		if r.metricsFile == "" || r.every == 0 || c.Context.Err() != nil {
			continue
		}
		if err := writePushMetrics(r.metricsFile, opt.Probe, sum, err, time.Now()); err != nil {
			opt.Log.Warn("metrics file was not written", "err", err)
		}
	}
	if r.every != 0 {
		err = context.Cause(c.Context)
	}
	err = orInterrupt(c.Context, errors.Join(err, push.Close()))
	err = errors.Join(err, r.report(c.App.Writer, con, sum))
	if r.metricsFile != "" && !r.dryRun && r.every == 0 {
		err = errors.Join(err, writePushMetrics(r.metricsFile, opt.Probe, sum, err, time.Now()))
	}
	return err
}

// serve takes points of other probes until a signal comes.
func (r *rrdPush) serve(ctx context.Context, opt rrdpush.EndpointOptions) error {
	e, err := rrdpush.NewEndpoint(opt)
	if err != nil {
		return err
	}
	opt.Log.Info("listening", "address", strings.Join(e.Addrs(), " "))
	err = errors.Join(e.Run(ctx), orInterrupt(ctx, ctx.Err()))
	if r.json {
		err = errors.Join(err, console.WriteJSON(opt.Stdout, e.Stats()))
	}
	return err
}

var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// options checks the settings and turns them into the options of a pusher.
func (r *rrdPush) options(p *problems) rrdpush.Options {
	if r.probe == "" && len(r.network.listen) == 0 {
		host, _ := os.Hostname()
		r.probe = fitProbe(host)
		if r.probe == "" {
			p.add("probe", "must be given, since this machine has no host name")
		}
	}
	if r.probe != "" {
		if err := store.ValidProbe(r.probe); err != nil {
			p.add("probe", "%v", err)
		}
	}
	if !validPrefix.MatchString(r.prefix) {
		p.add("prefix", "%q is no path of letters, digits, _ and - joined by dots", r.prefix)
	}
	p.usage("reader", rrdfile.CheckMode(r.reader))
	to, err := rrdpush.ParseDest(r.to)
	p.destination("to", r.to, err)
	var table *rrdfile.Table
	if r.namesFile != "" {
		if table, err = rrdfile.ReadTable(r.namesFile); err != nil {
			p.add("names-file", "%v", err)
		} else if r.names != "default" {
			p.add("names-file", "is for --names default")
		}
	}
	naming, ok := rrdfile.NamingOf(r.names, table)
	if !ok {
		p.add("names", "%q is none of %s", r.names, strings.Join(rrdfile.Namings, ", "))
	} else if to != nil {
		if naming, ok = to.NamingOf(r.names, table); !ok {
			p.add("names", "%s has no labels, which a Prometheus needs", r.names)
		}
	}
	if r.every != 0 {
		atLeast(p, "every", r.every, duration(time.Second))
	}
	atLeast(p, "retry-timeout", r.retryTimeout, 0)
	atLeast(p, "spool", r.spool, 0)
	within(p, "max-metrics", r.maxMetrics, 1, 1_000_000)
	if slices.Contains(r.sources, "") {
		p.errs = append(p.errs, errors.New("a SOURCE must not be empty"))
	}
	for _, pair := range []struct {
		first, second bool
		name, other   string
	}{
		{r.quiet, r.verbose, "quiet", "verbose"},
		{r.every != 0, r.dryRun, "every", "dry-run"},
		{r.listMetrics, r.dryRun, "list-metrics", "dry-run"},
		{r.listMetrics, r.every != 0, "list-metrics", "every"},
		{r.listMetrics, r.since != "", "list-metrics", "since"},
		{r.listMetrics, r.metricsFile != "", "list-metrics", "metrics-file"},
		{len(r.network.listen) > 0, r.listMetrics, "listen", "list-metrics"},
		{len(r.network.listen) > 0, r.dryRun, "listen", "dry-run"},
		{len(r.network.listen) > 0, r.every != 0, "listen", "every"},
		{len(r.network.listen) > 0, r.since != "", "listen", "since"},
		{len(r.network.listen) > 0, r.metricsFile != "", "listen", "metrics-file"},
	} {
		if pair.first && pair.second {
			p.add(pair.name, "cannot be combined with --%s", pair.other)
		}
	}
	if to != nil && len(r.network.listen) > 0 && strings.HasPrefix(r.to, "http") {
		p.add("to", "must be a Graphite or Prometheus: a repository wants the names of files")
	}
	if r.json && !r.listMetrics && (r.dryRun || to != nil && to.Prints()) {
		p.add("json", "cannot be combined with lines on stdout")
	}
	return rrdpush.Options{
		Target: rrdpush.Target{
			Dest: to, Probe: r.probe, Prefix: r.prefix, Naming: naming, Mode: r.names, Negative: r.keepNegative,
			TLS: r.network.tls(), RetryTimeout: time.Duration(r.retryTimeout), SpoolSize: int64(r.spool),
		},
		Since:  timeSetting(p, "since", r.since, time.Local),
		Every:  time.Duration(r.every),
		DryRun: r.dryRun,
		Reader: r.reader,
	}
}

// printMetrics prints a list of metrics: a table, or a JSON array.
func (r *rrdPush) printMetrics(w io.Writer, list []rrdpush.Listed) error {
	if r.json {
		return console.WriteJSON(w, append([]rrdpush.Listed{}, list...))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FILE\tMETRIC\tUNIT")
	for _, l := range list {
		unit := cmp.Or(l.Unit, "-")
		if l.LeftOut != "" {
			unit += "  (left out: " + l.LeftOut + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", console.Printable(l.File), cmp.Or(l.Series(), "-"), unit)
	}
	return t.Flush()
}

// report prints the summary where it is wanted.
func (r *rrdPush) report(stdout io.Writer, con *console.Console, sum *rrdpush.Summary) error {
	if r.json {
		if err := console.WriteJSON(stdout, sum); err != nil {
			return err
		}
	}
	if r.quiet || !r.verbose && (!con.Terminal() || r.json) {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d points of %s (%d unchanged, %d new) of probe %s in %.1f s\n",
		sum.Points, console.Plural(sum.Files, "file"), sum.Unchanged, sum.New, sum.Probe, sum.Seconds)
	for _, l := range []struct {
		n    int64
		text string
	}{
		{sum.Unknown, "unknown values left out"},
		{sum.NotFinite, "infinite values left out"},
		{sum.Negative, "negative percentiles left out (--keep-negative)"},
		{sum.Old, "points older than the 3 years that Debian's carbon keeps by default"},
		{sum.TooOld, "points older than the destination keeps or accepts left out"},
		{sum.Disorder, "points out of order left out by the server"},
		{sum.Ahead, "points ahead of the clock left out"},
		{sum.Refused, "points refused by the server for other reasons"},
		{sum.Ignored, "points beyond its retention ignored by the server"},
		{sum.Unnamed, "files without a name left out (--names default)"},
		{sum.Recreated, "files older than the last point sent, sent from their start"},
		{sum.Shared, "files share the name of another"},
		{sum.Waiting, "new metrics wait for the next run"},
		{sum.Failed, "files could not be read"},
	} {
		if l.n > 0 {
			fmt.Fprintf(&b, "%d %s\n", l.n, l.text)
		}
	}
	if sum.Spooled > 0 {
		fmt.Fprintf(&b, "%s wait in the spool\n", console.Bytes(sum.Spooled))
	}
	_, err := io.WriteString(con, b.String())
	return err
}

const pushMetricPrefix = "tstatrepo_rrd_push_"

// writePushMetrics replaces file by metrics of the push that ended with sum
// and failure, for the textfile collector of node_exporter.
func writePushMetrics(file, probe string, sum *rrdpush.Summary, failure error, now time.Time) error {
	reg := prometheus.NewRegistry()
	gauge := func(name, help string, value float64) {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: pushMetricPrefix + name, Help: help}, []string{"probe"})
		reg.MustRegister(g)
		g.WithLabelValues(probe).Set(value)
	}
	const success = "last_success_timestamp_seconds"
	seconds := float64(now.UnixMilli()) / 1000
	succeeded, last := 1.0, seconds
	if failure != nil {
		succeeded, last = 0, formerSuccess(file, pushMetricPrefix+success, probe)
	}
	if last > 0 {
		gauge(success, "When a push of the probe last succeeded.", last)
	}
	gauge("last_run_timestamp_seconds", "When the last push ended.", seconds)
	gauge("last_run_success", "1 if the last push succeeded.", succeeded)
	if sum != nil {
		gauge("last_run_duration_seconds", "How long the last push took.", sum.Seconds)
		gauge("last_run_files", "RRD files found by the last push.", float64(sum.Files))
		gauge("last_run_points", "Points sent by the last push.", float64(sum.Points))
		gauge("last_run_failed_files", "Files that the last push could not read.", float64(sum.Failed))
		gauge("last_run_recreated_files", "Files older than the last point sent, sent from their start.", float64(sum.Recreated))
		gauge("last_run_not_finite_points", "Infinite values left out.", float64(sum.NotFinite))
		gauge("last_run_waiting_metrics", "New metrics that the last push left for later.", float64(sum.Waiting))
		gauge("last_run_too_old_points", "Points older than the destination keeps or accepts.", float64(sum.TooOld))
		gauge("last_run_out_of_order_points", "Points that the server refused since they are out of order.", float64(sum.Disorder))
		gauge("last_run_refused_points", "Points that the server refused or ignored for other reasons, or that are ahead of the clock.", float64(sum.Refused+sum.Ignored+sum.Ahead))
		gauge("spooled_bytes", "Points on disk that the destination has not taken.", float64(sum.Spooled))
	}
	return writeTextfile(file, reg)
}
