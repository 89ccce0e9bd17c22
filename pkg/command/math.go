package command

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/textfile"
)

// logListening logs the addresses on which the process listens.
func logListening(log *slog.Logger, addrs []string) {
	for _, a := range addrs {
		log.Info("listening", "address", a)
	}
}

// runProbe serves the logs in a folder to a repository.
func (b *importBulk) runProbe(c *cli.Context, m config.Math, opt bulk.Options) error {
	if err := opt.Validate(); err != nil {
		return err
	}
	probe, err := mathproto.NewExporter(b.ExporterOptions(m, opt))
	if err != nil {
		return err
	}
	logListening(opt.Log, probe.Addrs())
	err = errors.Join(probe.Run(c.Context), orInterrupt(c.Context, c.Context.Err()))
	if b.JSON {
		err = errors.Join(err, console.WriteJSON(c.App.Writer, probe.Stats()))
	}
	return err
}

// runRepository imports logs from probes until it is interrupted.
func (b *importBulk) runRepository(c *cli.Context, con *console.Console, m config.Math, opt bulk.Options) error {
	_, port, _ := net.SplitHostPort(m.Listeners[0].Addr) // the address is already validated
	logs, err := b.Repository(m, opt, "math-"+port+".json")
	if err != nil {
		return err
	}
	if err := b.Adopted(&logs); err != nil {
		return err
	}
	prog, stop := con.Progress(time.Duration(b.ProgressInterval), b.Quiet || con.Terminal())
	if prog != nil {
		logs.Math.Import.Progress = endless{prog}
	}
	var repo *repository.Logs
	metrics := metricsFile(b.MetricsFile)
	metrics.Former = metrics.Successes()
	runs := streamRuns{}
	logs.Math.OnPass = func(stream string, sum *bulk.Summary, failure error) {
		if b.MetricsFile == "" {
			return
		}
		// Copy the summary, because the import continues to update it.
		runs.record(stream, textfile.Run{Summary: bulk.Merge([]*bulk.Summary{sum}), Failure: failure, Ended: time.Now()}, repo.Stats())
		if err := metrics.WriteImports(textfile.ByProbe(runs), repo.Keeper.Stats()); err != nil {
			opt.Log.Warn("metrics file not written", "err", err)
		}
	}
	if repo, err = repository.NewLogs(c.Context, logs); err != nil {
		stop()
		return err
	}
	logListening(opt.Log, repo.Addrs())
	err = errors.Join(repo.Run(c.Context), orInterrupt(c.Context, c.Context.Err()))
	stop()
	sums := repo.Summaries()
	if len(sums) == 0 {
		return err
	}
	sum := bulk.Merge(sums)
	return b.finish(con, sum, errors.Join(err, b.report(c.App.Writer, con, sum)))
}

// streamRuns holds the last pass over each stream of a MATH repository.
type streamRuns map[string]textfile.Run

// record records a pass over a stream. It forgets streams that are not among the
// registered ones: the failure of a removed stream would count for its probe for ever.
func (r streamRuns) record(stream string, run textfile.Run, registered []mathproto.StreamStats) {
	r[stream] = run
	known := map[string]bool{}
	for _, s := range registered {
		known[s.StreamName] = true
	}
	maps.DeleteFunc(r, func(name string, _ textfile.Run) bool { return !known[name] })
}

// endless is a bulk.Progress for an import whose total is unknown.
type endless struct{ bulk.Progress }

func (endless) Total(int, int64) {}
