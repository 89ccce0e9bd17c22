package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// importBulk holds the settings of import-bulk.
type importBulk struct {
	sources          []string
	to               []string
	stream           string
	streamType       string // log type of the rows that go to it; "" if its name tells
	retryTimeout     duration
	probe            string
	replace          bool
	acceptDamaged    bool
	dryRun           bool
	types            []string
	exclude          []string
	since, until     string
	timezone         string
	folder           string
	layout           string
	includeOpen      bool
	settle           duration
	follow           bool
	poll             duration
	jobs             int
	memory           size
	rate             float64
	maxRejects       int
	json             bool
	metricsFile      string
	progressInterval duration
	verbose          bool
	quiet            bool

	network       network
	allowCallback []string
	folderLength  duration
	advertise     string
	adopt         string

	keep    duration
	compact bool
	keeper  *upkeep.Keeper // with --follow, while it runs

	probeGiven bool // probe is not the default
}

// claimTime is that of bulk.Options. Tests make it short.
var claimTime time.Duration

func defaultImportBulk() importBulk {
	return importBulk{
		to: []string{"parquet:./tstat"},
		// A server restarts in less.
		retryTimeout: duration(5 * time.Minute),
		timezone:     "Local",
		settle:       duration(bulk.DefaultSettle),
		poll:         duration(bulk.DefaultPoll),
		memory:       300 << 20,
		maxRejects:   bulk.DefaultMaxRejects,
		folderLength: duration(mathproto.DefaultFolderLength),
	}
}

// importSchemes returns the kinds of destinations: stores and the MATH
// repository.
func importSchemes() dest.Schemes {
	return append(stores.Schemes(), "math://host:port", "math+tls://host:port")
}

// settings is the table of flags and keys, in the order of the help.
func (b *importBulk) settings() []*setting {
	const (
		dest    = "Destination"
		source  = "Source"
		limits  = "Limits"
		reports = "Output"
	)
	return slices.Concat([]*setting{
		{name: "sources", group: source, value: &b.sources,
			usage: "what to import when the command line names no source"},

		{name: "to", group: dest, value: &b.to, complete: urls(importSchemes()),
			usage: "store the rows in `URL`: " + stores.Schemes().String() + "; or serve them to the MATH repository math://host:port"},
		{name: "probe", group: dest, value: &b.probe, empty: "host name up to the first dot; of a MATH stream its name",
			usage: "`NAME` of the probe that wrote the logs, part of the identity of every row"},
		{name: "stream", group: dest, value: &b.stream, empty: "{probe}_{type}",
			usage: "`NAME` of DBStream's table, or of the stream of --to math://; {probe} and {type} stand for those of each file"},
		{name: "retry-timeout", group: dest, value: &b.retryTimeout,
			usage: "retry for `DURATION` while a database is unavailable; with --follow, without limit"},
		{name: "replace", group: dest, value: &b.replace,
			usage: "store again what is stored already"},
		{name: "accept-damaged", group: dest, value: &b.acceptDamaged,
			usage: "store the good part of damaged compressed files"},
		{name: "dry-run", group: dest, value: &b.dryRun,
			usage: "only say what would be imported"},

		{name: "type", group: source, value: &b.types, empty: "all",
			usage: "import log types that match `GLOB`, like 'log_tcp_*'"},
		{name: "exclude", group: source, value: &b.exclude, empty: "none",
			usage: "leave out log types, files and folders that match `GLOB`, like '*.bak' or 'old/*'"},
		{name: "since", group: source, value: &b.since,
			usage: "import folders of `TIME` or later: 2006-01-02, 2006-01-02T15:04, RFC 3339, today, yesterday, or a duration before now like 7d or 12h"},
		{name: "until", group: source, value: &b.until,
			usage: "import folders before `TIME`, written like that of --since"},
		{name: "timezone", group: source, value: &b.timezone,
			usage: "`ZONE` of folder names and of --since and --until: Local, UTC or like Europe/Rome"},
		{name: "folder", group: source, value: &b.folder, empty: "time of the first row",
			usage: "log folder `NAME` for '-' and files outside of one, like 2006_01_02_15_04.out"},
		{name: "layout", group: source, value: &b.layout, empty: "that of the header or of the number of columns",
			usage: "Tstat `VERSION` of files without header"},
		{name: "include-open", group: source, value: &b.includeOpen,
			usage: "import files that Tstat may still write to"},
		{name: "settle", group: source, value: &b.settle,
			usage: "the newest folder is finished when nothing in it changed for `DURATION`"},
		{name: "follow", group: source, value: &b.follow,
			usage: "go on with new folders until interrupted"},
		{name: "poll", group: source, value: &b.poll,
			usage: "look for new folders every `DURATION` with --follow"},

		{name: "keep", group: dest, value: &b.keep, empty: "no rows are removed",
			usage: "with --follow and --listen: remove rows of days that ended more than `DURATION` ago, like 400d, at the start and then daily; see store prune"},
		{name: "compact", group: dest, value: &b.compact,
			usage: "with --follow and --listen: put the files of closed days in parquet: stores together, at the start and then daily; see store compact"},

		{name: "jobs", group: limits, value: &b.jobs, empty: "all CPUs; with MATH or a database at most 4 files at a time",
			usage: "use `N` CPUs: import as many files at a time, and encode few large ones on all of them"},
		{name: "memory", group: limits, value: &b.memory,
			usage: "use about `SIZE` of memory, all files together"},
		{name: "rate", group: limits, value: &b.rate, empty: "no limit",
			usage: "read at most `MIBPS` MiB of text a second"},
		{name: "max-rejects", group: limits, value: &b.maxRejects,
			usage: "do not store a file with more than `N` rejected lines, if they are more than 1% of it; a file whose lines are all rejected is never stored"},

		{name: "json", group: reports, value: &b.json,
			usage: "print the summary as JSON on stdout"},
		{name: "metrics-file", group: reports, value: &b.metricsFile, complete: "file",
			usage: "write Prometheus metrics to `FILE` (*.prom for node_exporter)"},
		{name: "progress-interval", group: reports, value: &b.progressInterval, empty: "off",
			usage: "log the progress every `DURATION` when stderr is not a terminal"},
		{name: "verbose", group: reports, value: &b.verbose,
			usage: "print the summary even if stderr is not a terminal"},
		{name: "quiet", group: reports, value: &b.quiet,
			usage: "print warnings and errors only"},
	}, b.network.settings("take streams of MATH probes or, with --to math://, serve files,"), []*setting{
		{name: "allow-callback", group: "Network", value: &b.allowCallback, empty: "the address that registers a stream",
			usage: "fetch from probes in `NETWORK` only, like 10.0.0.0/8"},
		{name: "folder-length", group: "Network", value: &b.folderLength,
			usage: "Tstat writes to a folder for `DURATION`; used with MATH probes that list what still grows"},
		{name: "advertise", group: "Network", value: &b.advertise, empty: "address and port of --listen",
			usage: "tell the repository of --to math:// to fetch from `HOST:PORT`"},
		{name: "adopt", group: "Network", value: &b.adopt, complete: "dir", empty: "nothing",
			usage: "take over what DBStream's math_repo had, whose outDir is `DIR`: its streams, and what it stored, see tstatrepo-migrate(7)"},
	})
}

var importBulkExamples = []example{
	{"all logs of this probe into Parquet files below ./tstat", "tstatrepo import-bulk /var/lib/tstat"},
	{"TCP logs of May, as probe turin", "tstatrepo import-bulk --probe turin --type 'log_tcp_*' --since 2024-05-01 --until 2024-06-01 /data/turin"},
	{"show what would be imported", "tstatrepo import-bulk --dry-run /var/lib/tstat"},
	{"one log from a pipe", "zcat log_tcp_complete.gz | tstatrepo import-bulk --type log_tcp_complete --folder 2024_05_01_12_00.out -"},
	{"into PostgreSQL", "tstatrepo import-bulk --to postgres://tstat@localhost/tstat /var/lib/tstat"},
	{"into a cluster of ClickHouse, through either of two nodes", "tstatrepo import-bulk --to 'clickhouse://tstat@a,b/tstat?cluster=tstat&password-file=/etc/tstatrepo/password' /var/lib/tstat"},
	{"into DBStream, in windows of ten minutes", "tstatrepo import-bulk --to 'dbstream://dbs@localhost/dbs?schema=dbs_ts0&window=600s' --type log_tcp_complete --stream polito_tcp /var/lib/tstat"},
	{"once, what a MATH probe has of a stream", "tstatrepo import-bulk --to parquet:/srv/tstat math://probe:3001/polito_tcp"},
	{"the repository of MATH probes", "tstatrepo import-bulk --listen 0.0.0.0:3000 --allow 10.0.0.0/8 --to 'dbstream://dbs@localhost/dbs?schema=dbs_ts0'"},
	{"a MATH probe", "tstatrepo import-bulk --to math://repository:3000 --stream polito_tcp --type log_tcp_complete --listen 0.0.0.0:3001 --allow 10.0.0.0/8 /var/lib/tstat"},
	{"every hour from cron; silent unless something is wrong", "tstatrepo import-bulk --config /etc/tstatrepo/tstatrepo.toml /var/lib/tstat"},
}

func importBulkCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "import-bulk",
		Usage:     "import log folders and files into a store",
		ArgsUsage: "SOURCE...",
		Category:  groupProduct,
		Description: "Imports the logs of each SOURCE: a folder with log folders below it, a log folder, a log file, '-' for " +
			"one log on standard input, or math://host:port/STREAM of a MATH probe. Every log is stored exactly once, however " +
			"often it is imported, also from files compressed with gzip, zstd, xz, bzip2 or lz4. The newest folder is left for a later run, because Tstat may still write to it.\n\n" +
			"With --listen it is the repository of MATH probes, which register there. With --to math:// it is a probe itself. " +
			"Both run until they are interrupted.\n\n" +
			"'tstatrepo man import-bulk' and 'tstatrepo man stores' say more.",
		Flags:  commandFlags("import-bulk"),
		Action: func(c *cli.Context) error { return runImportBulk(c, con) },
	}
}

// runImportBulk turns flags and config into the options of one bulk.Run and
// reports its result.
func runImportBulk(c *cli.Context, con *console.Console) error {
	if done, err := printOld(c); done {
		return err
	}
	cfg, p, err := loadConfig(c, con)
	if err != nil {
		return err
	}
	b := &cfg.importBulk
	if c.Args().Present() {
		b.sources = c.Args().Slice()
	}
	b.probeGiven = b.probe != ""
	opt := b.options(p)
	roles := b.checkMath(p)
	opt.StateDir = cfg.stateDir
	if err := p.err(c.Command.Name); err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	if len(b.sources) == 0 && !b.isRepository() {
		return hint.Add(usagef("import-bulk needs a SOURCE: a folder, a log file, '-' or math://host:port/STREAM"),
			"for example: tstatrepo import-bulk /var/lib/tstat")
	}
	if b.quiet {
		con.Quiet()
	}
	opt.Log = con.Logger()
	opt.Stdin = c.App.Reader
	if b.isProbe() {
		return b.runProbe(c, roles, opt)
	}

	// Let the GC work harder rather than exceed --memory; leave 10% for memory
	// that it does not manage.
	debug.SetMemoryLimit(int64(b.memory) / 10 * 9)
	if b.isRepository() {
		return b.runRepository(c, con, roles, opt)
	}
	if err := b.split(&opt); err != nil {
		return err
	}
	if err := opt.Validate(); err != nil {
		return err
	}
	if b.metricsFile != "" && b.follow {
		opt.Passed = func(sum *bulk.Summary, failure error) {
			if err := writeMetrics(b.metricsFile, oneRun(b.probe, sum, failure, time.Now()), b.keeper.Stats()); err != nil {
				opt.Log.Warn("metrics file was not written", "err", err)
			}
		}
	}
	if opt.ProbeGuessed && (b.follow || b.isWatched(con)) {
		opt.Log.Info("the probe is named after the host", "probe", b.probe, "hint", "name another one with `probe`")
	}
	sum, err := b.run(c.Context, con, opt)
	if b.follow && err == nil {
		err = c.Context.Err() // only a signal ends --follow
	}
	err = orInterrupt(c.Context, err)
	if sum != nil && sum.Left > 0 && !b.follow && !slices.Contains(b.sources, "-") && errors.As(err, new(interruptError)) {
		err = hint.Add(err, fmt.Sprintf("left: %s, %s; the next run continues with them", console.Plural(sum.Left, "file"), console.Bytes(sum.LeftBytes)))
	}
	if sum != nil && !b.follow && !b.dryRun && !b.isWatched(con) {
		warnOpen(opt.Log, sum)
	}
	if sum != nil {
		err = errors.Join(err, b.report(c.App.Writer, con, sum))
	}
	if b.metricsFile != "" && !b.dryRun && !b.follow {
		err = errors.Join(err, writeMetrics(b.metricsFile, oneRun(b.probe, sum, err, time.Now()), nil))
	}
	return b.finish(con, sum, err)
}

// finish returns the error that ends the command: rejected lines are one.
func (b *importBulk) finish(con *console.Console, sum *bulk.Summary, err error) error {
	if sum != nil && sum.Total.Rejects > 0 {
		rejects := rejectsError{sum.Total.Rejects, sum.RejectFile}
		if err == nil {
			return rejects
		}
		con.Fail(rejects)
	}
	return err
}

// run opens the stores, imports and closes them.
func (b *importBulk) run(ctx context.Context, con *console.Console, opt bulk.Options) (sum *bulk.Summary, err error) {
	var to []*stores.Destination
	for _, dest := range b.to {
		d, err := stores.NewDestination(dest, stores.Options{
			// Each of these files is open in every store.
			Memory:     int64(b.memory) / int64(opt.Jobs*len(b.to)),
			Files:      opt.Jobs,
			Cores:      b.jobs,
			ReadOnly:   b.dryRun,
			Log:        opt.Log,
			Stream:     b.stream,
			StreamType: b.streamType,
		})
		if err != nil {
			return nil, err
		}
		to = append(to, d)
		opt.Stores = append(opt.Stores, d)
	}
	prog, stop := con.Progress(time.Duration(b.progressInterval), b.quiet)
	opt.Progress = prog
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if b.follow {
		b.keeper = upkeep.New(b.upkeep(opt.Log))
		var keeping sync.WaitGroup
		keeping.Go(func() { b.keeper.Run(ctx) })
		defer keeping.Wait()
	}
	sum, err = bulk.Run(ctx, opt)
	stop()
	cancel()
	for _, d := range to {
		err = errors.Join(err, d.Close()) // which makes the last commits durable
	}
	return sum, err
}

// upkeep returns what is to be done to the stores beside the import.
func (b *importBulk) upkeep(log *slog.Logger) upkeep.Options {
	return upkeep.Options{To: b.to, Keep: time.Duration(b.keep), Compact: b.compact, RetryTimeout: time.Duration(b.retryTimeout), Log: log}
}
