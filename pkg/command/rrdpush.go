package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
)

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
			"Prometheus or another tstatrepo. The first push sends all points, later pushes send new points. Tstat's files are " +
			"neither locked nor changed.\n\n" +
			"With --listen it accepts points that other probes send with tstatrepo or mPlane's exporter.\n\n" +
			"See 'tstatrepo man rrd-push' for names, labels and the requirements of each server.",
		Flags:  commandFlags("rrd-push"),
		Action: func(c *cli.Context) error { return runRRDPush(c, con) },
	}
}

// rrdPush is one run of rrd-push.
type rrdPush struct{ *config.RRDPush }

// runRRDPush runs the rrd-push command: it runs a pusher or an endpoint, with
// options from flags and config, and reports the result.
func runRRDPush(c *cli.Context, con *console.Console) error {
	var opt rrdpush.Options
	var listen []peer.Options
	cfg, err := configure(c, con, func(cfg *config.Config, p *config.Problems) {
		opt, listen = cfg.RRDPush.Options(p, c.Args().Slice())
	})
	if cfg == nil {
		return err
	}
	r := rrdPush{&cfg.RRDPush}
	if r.Quiet {
		con.Quiet()
	}
	opt.StateDir, opt.Stdout, opt.Log = cfg.StateDir, c.App.Writer, con.Logger()
	if len(listen) > 0 {
		if len(r.Sources) > 0 {
			return hint.Usagef("rrd-push takes a SOURCE or --listen, not both")
		}
		return r.serve(c.Context, rrdpush.EndpointOptions{Target: opt.Target, Listen: listen, MaxMetrics: r.MaxMetrics})
	}
	if len(r.Sources) == 0 {
		return hint.Add(hint.Usagef("rrd-push needs a SOURCE: a folder of RRDs or an .rrd file"), "for example: tstatrepo rrd-push /rrdfiles")
	}
	if r.ListMetrics {
		list, err := rrdpush.List(opt)
		return errors.Join(err, r.printMetrics(c.App.Writer, list))
	}
	push, err := rrdpush.New(opt)
	if err != nil {
		return err
	}
	var sum *rrdpush.Summary
	for sum, err = range push.Run(c.Context) {
		if r.MetricsFile == "" || r.Every == 0 || c.Context.Err() != nil {
			continue
		}
		if err := metricsFile(r.MetricsFile).WritePush(opt.Probe, sum, err, time.Now()); err != nil {
			opt.Log.Warn("metrics file not written", "err", err)
		}
	}
	if r.Every != 0 {
		err = context.Cause(c.Context)
	}
	err = orInterrupt(c.Context, errors.Join(err, push.Close()))
	err = errors.Join(err, r.report(c.App.Writer, con, sum))
	if r.MetricsFile != "" && !r.DryRun && r.Every == 0 {
		err = errors.Join(err, metricsFile(r.MetricsFile).WritePush(opt.Probe, sum, err, time.Now()))
	}
	return err
}

// serve receives points from other probes until a signal arrives.
func (r rrdPush) serve(ctx context.Context, opt rrdpush.EndpointOptions) error {
	e, err := rrdpush.NewEndpoint(opt)
	if err != nil {
		return err
	}
	opt.Log.Info("listening", "address", strings.Join(e.Addrs(), " "))
	err = errors.Join(e.Run(ctx), orInterrupt(ctx, ctx.Err()))
	if r.JSON {
		err = errors.Join(err, console.WriteJSON(opt.Stdout, e.Stats()))
	}
	return err
}

// printMetrics prints a list of metrics as a table, or as a JSON array.
func (r rrdPush) printMetrics(w io.Writer, list []rrdpush.Listed) error {
	if r.JSON {
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

// report prints sum to stdout as JSON if --json is given. It prints sum to the console
// as text with --verbose, and also on a terminal without --json. The text is suppressed
// by --quiet.
func (r rrdPush) report(stdout io.Writer, con *console.Console, sum *rrdpush.Summary) error {
	if r.JSON {
		if err := console.WriteJSON(stdout, sum); err != nil {
			return err
		}
	}
	if r.Quiet || !r.Verbose && (!con.Terminal() || r.JSON) {
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
