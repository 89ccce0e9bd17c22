package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
	"github.com/tstatrepo/tstatrepo/pkg/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/store"
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
			usage: "push points of `TIME` and later, sent before or not: 2006-01-02, 2006-01-02T15:04, RFC 3339, today, yesterday, or 7d and 12h for so long ago"},
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
	{"see first what would be sent", "tstatrepo rrd-push --dry-run --since 2024-05-01 /rrdfiles"},
	{"see what the metrics are called", "tstatrepo rrd-push --list-metrics --probe polito1 /rrdfiles"},
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

func rrdPushCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "rrd-push",
		Usage:     "push the points of Tstat's RRDs into Graphite or Prometheus",
		ArgsUsage: "SOURCE...",
		Category:  groupProduct,
		Description: "Reads the RRD files in each SOURCE, a folder or an .rrd file, and sends their points to a Graphite server, into Whisper files, to a Prometheus, or to " +
			"another tstatrepo. The first push sends all history, later ones what is new. The position in a file is kept for its folder, so SOURCE may be the folder or the file. " +
			"Subfolders are not read. If files of two folders have the same metric, the first is sent and the others are counted. Tstat is never disturbed: its files " +
			"are not locked, not mapped and not changed. Unchanged files are not read.\n\n" +
			"Each point comes from the finest archive that still holds its time. Unfinished steps wait for the next " +
			"push. Unknown and infinite values are left out. A file whose last update is before the last point sent was " +
			"recreated or replaced: it is reported and sent from its start. A point is named PREFIX.PROBE.NAME; bytes in it that are not " +
			"printable ASCII, and / \\ ; ~ \" ', become _.\n\n" +
			"RRDs are decoded in Go. With --reader librrd, librrd decodes them, about three times slower. --reader both compares each value " +
			"of the two before anything is sent. At the first difference it ends with exit status 1 and names file, data source and " +
			"point. 'tstatrepo --version' lists the readers of the program. make build includes librrd where it is installed.\n\n" +
			"Points that a server does not accept are kept on disk and sent first next time; the exit status is then 75. A " +
			"batch of 200,000 points counts as sent when the server has read all of it, because carbon does not confirm more. The batch may be " +
			"sent again after a crash; a repeated point replaces itself.\n\n" +
			"carbon-cache: Debian's creates 50 new metrics a minute and silently drops others; raise " +
			"MAX_CREATES_PER_MINUTE, or add ?new-metrics-per-minute=50 and push often: the other metrics are sent later. The first " +
			"push sends 25 fewer, because carbon creates 20 metrics of its own from the same budget. All metrics have " +
			"arrived if carbon.agents.*.droppedCreates stayed 0; if not, push again with --since. " +
			"Retentions of storage-schemas.conf must begin with the RRDs' step (300s unless Tstat was told otherwise) and " +
			"be as long as the oldest point is old. Debian's are 60s:1d,5m:30d,1h:3y: points every 300 s fill a fifth of the 60 s slots, " +
			"too few to be averaged, and are gone after a day; points older than 3 years are dropped, with a warning here. With a MAX_CACHE_SIZE that fills, it drops up to 64 KiB of what it has " +
			"just read; --since sends that again. ENABLE_TAGS = False saves it from asking for " +
			"a web server. go-carbon (not tried by us): max-creates-per-second limits likewise. VictoriaMetrics: give it " +
			"-graphiteListenAddr, and a -retentionPeriod beyond its month; points sent twice count once with " +
			"-dedup.minScrapeInterval=1ms.\n\n" +
			"prometheus+http://HOST:9090/api/v1/write and prometheus+https:// send remote writes (protocol 1.0) to Prometheus, VictoriaMetrics, " +
			"Mimir or Thanos. Options: USER@ in front of the host with ?password-file=FILE, or ?bearer-token-file=FILE; ca=FILE, cert=FILE and key=FILE " +
			"in place of --tls-ca, --tls-cert and --tls-key; header=NAME:VALUE (several with commas, like header=X-Scope-OrgID:tenant); " +
			"headers-file=FILE with one NAME: VALUE per line, for secret headers; timeout=1m of a request. Files are read for each request.\n\n" +
			"There, the metric is PREFIX_HISTOGRAM: the histogram's name in the file name, without direction and cloud. For example, tcp_rtt_avg_in.prc95.rrd is " +
			"tstat_tcp_rtt_avg{direction=\"in\",percentile=\"95\",probe=\"polito1\"}. The label names do not change between versions. They are: " +
			"probe; direction (in, out, local, c2s, s2c); cloud (yes for _c, no for _nc); then one of statistic (avg, min, max, var, stdev), " +
			"percentile (the number in the file name), and index (a number, or other), beside which name is the meaning of the index if it has one (uTP), as in --names-file; " +
			"source (of the second and later data sources of a file). " +
			"File names that are not of Tstat's form, and all with --names raw, become PREFIX_rrd{file=\"NAME\"}. Each file has a series of its own. " +
			"--names upstream has no labels and is refused.\n\n" +
			"A server that refuses one point stores nothing of the request, so tstatrepo sends the request again without that point. Points that are left out " +
			"are counted by reason and reported with an example and the server's answer; they do not change the exit status. too_old and out_of_order: " +
			"Prometheus without storage.tsdb.out_of_order_time_window accepts no point older than an hour before its newest point or, in a series, older than the last. " +
			"All history needs a window and a retention (--storage.tsdb.retention.time) as long; otherwise push only new points, with --since. Points that Prometheus has already may be out of order too. " +
			"ahead: more than 10 minutes ahead of this machine's clock; one such point makes Prometheus refuse those of today. ignored: VictoriaMetrics acknowledges what is " +
			"beyond its -retentionPeriod and drops it; its vm_rows_ignored_total counts them, with those of other clients (in a cluster, on vmstorage). " +
			"refused: all other reasons, like a second value for the same time. After 2,000 requests for a batch of 200,000 points, all points of the same time are left out with a refused one. " +
			"An answer 500 without a known reason is retried for --retry-timeout; then the points that cause it are left out if the server accepts others; otherwise all wait in the spool. " +
			"Prometheus writes what it has accepted to its log at once; VictoriaMetrics can lose the last seconds when it is killed.\n\n" +
			"Whisper files keep what Tstat's RRDs keep (600 steps, 700 of 6, 775 of 24 and 797 or more of 288), or what " +
			"whisper:DIR?schemas=FILE says, a storage-schemas.conf. graphite-web and carbonapi read these files.\n\n" +
			"With --listen it accepts points that other probes send with tstatrepo or mPlane's exporter, " +
			"instead of reading a folder. Points are left out and counted if Tstat writes no RRD of their name, if their probe has more " +
			"than --max-metrics, or if their time is more than a day ahead of this machine's clock.",
		Flags:  commandFlags("rrd-push"),
		Action: func(c *cli.Context) error { return runRRDPush(c, con) },
	}
}

// runRRDPush turns flags and config into the options of a pusher or an
// endpoint, runs it and reports its result.
func runRRDPush(c *cli.Context, con *console) error {
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
		con.level.Set(max(con.level.Level(), slog.LevelWarn))
	}
	opt.StateDir, opt.Stdout, opt.Log = cfg.stateDir, c.App.Writer, con.logger()
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
		err = errors.Join(err, writeJSON(opt.Stdout, e.Stats()))
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
		return writeJSON(w, append([]rrdpush.Listed{}, list...))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FILE\tMETRIC\tUNIT")
	for _, l := range list {
		unit := cmp.Or(l.Unit, "-")
		if l.LeftOut != "" {
			unit += "  (left out: " + l.LeftOut + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", printable(l.File), cmp.Or(l.Series(), "-"), unit)
	}
	return t.Flush()
}

// report prints the summary where it is wanted.
func (r *rrdPush) report(stdout io.Writer, con *console, sum *rrdpush.Summary) error {
	if r.json {
		if err := writeJSON(stdout, sum); err != nil {
			return err
		}
	}
	if r.quiet || !r.verbose && (!con.tty || r.json) {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d points of %s (%d unchanged, %d new) of probe %s in %.1f s\n",
		sum.Points, plural(sum.Files, "file"), sum.Unchanged, sum.New, sum.Probe, sum.Seconds)
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
		fmt.Fprintf(&b, "%s wait in the spool\n", byteText(sum.Spooled))
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
