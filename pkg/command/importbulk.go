package command

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/textfile"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// importBulk is one run of import-bulk.
type importBulk struct {
	config.ImportBulk
	keeper *upkeep.Keeper // set by run with --follow
}

// claimTime is the value of bulk.Options.ClaimTime; 0 selects the default. Tests set a
// shorter time.
var claimTime time.Duration

var importBulkExamples = []example{
	{"all logs of this probe into Parquet files below ./tstat", "tstatrepo import-bulk /var/lib/tstat"},
	{"TCP logs of May, as probe turin", "tstatrepo import-bulk --probe turin --type 'log_tcp_*' --since 2024-05-01 --until 2024-06-01 /data/turin"},
	{"with the addresses of customers anonymized as Tstat does it", "tstatrepo import-bulk --anonymize tstat,key-file=/etc/tstatrepo/anonymize.key,networks=/etc/tstat/customers /var/lib/tstat"},
	{"show what would be imported", "tstatrepo import-bulk --dry-run /var/lib/tstat"},
	{"one log from a pipe", "zcat log_tcp_complete.gz | tstatrepo import-bulk --type log_tcp_complete --folder 2024_05_01_12_00.out -"},
	{"large transfers only, and five columns of them", "tstatrepo import-bulk --type log_tcp_complete --where 's_bytes_all > 1e9' --select c_ip,s_ip,s_bytes_all,first,c_tls_SNI /data/turin"},
	{"try an expression: print the selected rows as JSON", "tstatrepo import-bulk --to - --type log_udp_complete --where 's_ip in 10.0.0.0/8' /data/turin"},
	{"into PostgreSQL", "tstatrepo import-bulk --to postgres://tstat@localhost/tstat /var/lib/tstat"},
	{"into a cluster of ClickHouse, through either of two nodes", "tstatrepo import-bulk --to 'clickhouse://tstat@a,b/tstat?cluster=tstat&password-file=/etc/tstatrepo/password' /var/lib/tstat"},
	{"into DBStream, in windows of ten minutes", "tstatrepo import-bulk --to 'dbstream://dbs@localhost/dbs?schema=dbs_ts0&window=600s' --type log_tcp_complete --stream polito_tcp /var/lib/tstat"},
	{"the logs of a stream from a MATH probe, once", "tstatrepo import-bulk --to parquet:/srv/tstat math://probe:3001/polito_tcp"},
	{"the repository of MATH probes", "tstatrepo import-bulk --listen 0.0.0.0:3000 --allow 10.0.0.0/8 --to 'dbstream://dbs@localhost/dbs?schema=dbs_ts0'"},
	{"a MATH probe", "tstatrepo import-bulk --to math://repository:3000 --stream polito_tcp --type log_tcp_complete --listen 0.0.0.0:3001 --allow 10.0.0.0/8 /var/lib/tstat"},
	{"every hour from cron; silent unless something is wrong", "tstatrepo import-bulk --config /etc/tstatrepo/tstatrepo.toml /var/lib/tstat"},
}

// flagList returns the settings as a list of flags: "--a, --b or --c".
func flagList(settings []string) string {
	last := len(settings) - 1
	return "--" + strings.Join(settings[:last], ", --") + " or --" + settings[last]
}

func importBulkCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "import-bulk",
		Usage:     "import log folders and files into a store",
		UsageText: "[flags] SOURCE...\n--listen [ADDRESS]:PORT [flags]\n--to math://HOST:PORT --listen [ADDRESS]:PORT [flags] FOLDER",
		Category:  groupProduct,
		Description: "The first form imports the logs of each SOURCE: a folder with log folders below it, a log folder, a log file, '-' for " +
			"one log on standard input, or math://host:port/STREAM of a MATH probe. Every log is stored exactly once, however " +
			"often it is imported, also from files compressed with gzip, zstd, xz, bzip2 or lz4. The newest folder is left for a later run, because Tstat may still write to it.\n\n" +
			"The second form is the repository of MATH probes, which register there. It does not take " +
			flagList(config.RefusedByRepository()) + ".\n\n" +
			"The third form is a MATH probe, which serves the logs of FOLDER to a repository. It does not take " +
			flagList(config.RefusedByProbe()) + ". Both run until they are interrupted.\n\n" +
			"See 'tstatrepo man import-bulk' and 'tstatrepo man stores'.",
		Flags:  commandFlags("import-bulk"),
		Action: func(c *cli.Context) error { return runImportBulk(c, con) },
	}
}

// runImportBulk runs the import-bulk command: it runs bulk.Run, a MATH probe or a
// MATH repository with options from flags and config, and reports the result.
func runImportBulk(c *cli.Context, con *console.Console) error {
	if done, err := printOld(c); done {
		return err
	}
	var opt bulk.Options
	var math config.Math
	cfg, err := configure(c, con, func(cfg *config.Config, p *config.Problems) {
		opt = cfg.ImportBulk.Options(p, c.Args().Slice())
		math = cfg.ImportBulk.Math(p)
	})
	if cfg == nil {
		return err
	}
	b := importBulk{cfg.ImportBulk, nil}
	opt.StateDir, opt.ClaimTime = cfg.StateDir, claimTime
	if len(b.Sources) == 0 && !b.IsRepository() {
		return hint.Add(hint.Usagef("import-bulk needs a SOURCE: a folder, a log file, '-' or math://host:port/STREAM"),
			"for example: tstatrepo import-bulk /var/lib/tstat")
	}
	if b.Quiet {
		con.Quiet()
	}
	opt.Log = con.Logger()
	opt.Stdin = c.App.Reader
	if b.IsProbe() {
		return b.runProbe(c, math, opt)
	}

	// Make the GC run more often to stay below --memory. The limit is 90% of it,
	// because the runtime does not manage all of the process's memory.
	debug.SetMemoryLimit(int64(b.Memory) / 10 * 9)
	if b.IsRepository() {
		return b.runRepository(c, con, math, opt)
	}
	if err := b.Split(&opt); err != nil {
		return err
	}
	if err := opt.Validate(); err != nil {
		return err
	}
	if b.MetricsFile != "" && b.Follow {
		opt.OnPass = func(sum *bulk.Summary, failure error) {
			if err := metricsFile(b.MetricsFile).WriteImports(map[string]textfile.Run{b.Probe: {Summary: sum, Failure: failure, Ended: time.Now()}}, b.keeper.Stats()); err != nil {
				opt.Log.Warn("metrics file not written", "err", err)
			}
		}
	}
	if opt.ProbeGuessed && (b.Follow || b.isWatched(con)) {
		opt.Log.Info("probe named after the host", "probe", b.Probe, "hint", "name another one with `probe`")
	}
	sum, err := b.run(c.Context, con, opt)
	if b.Follow && err == nil {
		err = c.Context.Err() // only a signal ends --follow
	}
	err = orInterrupt(c.Context, err)
	if sum != nil && sum.Left > 0 && !b.Follow && !slices.Contains(b.Sources, "-") && errors.As(err, new(interruptError)) {
		err = hint.Add(err, fmt.Sprintf("left: %s, %s; the next run continues with them", console.Plural(sum.Left, "file"), console.Bytes(sum.LeftBytes)))
	}
	if sum != nil && !b.Follow && !b.DryRun && !b.isWatched(con) {
		warnOpen(opt.Log, sum)
	}
	if sum != nil {
		err = errors.Join(err, b.report(c.App.Writer, con, sum))
	}
	if b.MetricsFile != "" && !b.DryRun && !b.Follow {
		err = errors.Join(err, metricsFile(b.MetricsFile).WriteImports(map[string]textfile.Run{b.Probe: {Summary: sum, Failure: err, Ended: time.Now()}}, nil))
	}
	return b.finish(con, sum, err)
}

// finish returns the error with which the command ends. If lines were rejected and err
// is nil, it returns a rejectsError. If lines were rejected and err is not nil, it
// prints the rejectsError and returns err.
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

// run opens the stores, runs the import and closes the stores.
func (b *importBulk) run(ctx context.Context, con *console.Console, opt bulk.Options) (sum *bulk.Summary, err error) {
	to, err := b.Destinations(opt)
	if err != nil {
		return nil, err
	}
	for _, d := range to {
		opt.Stores = append(opt.Stores, d)
	}
	prog, stop := con.Progress(time.Duration(b.ProgressInterval), b.Quiet)
	opt.Progress = prog
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if b.Follow {
		b.keeper = upkeep.New(b.Upkeep(opt.Log))
		var keeping sync.WaitGroup
		keeping.Go(func() { b.keeper.Run(ctx) })
		defer keeping.Wait()
	}
	sum, err = bulk.Run(ctx, opt)
	stop()
	cancel()
	for _, d := range to {
		err = errors.Join(err, d.Close()) // Close makes the last commits durable
	}
	return sum, err
}
