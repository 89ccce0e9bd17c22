package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

var storeExamples = []example{
	{"list the stored logs by type, probe and day", "tstatrepo store list parquet:/srv/tstat"},
	{"check that all logs of Tstat are stored", "tstatrepo store verify --probe turin --against /var/lib/tstat parquet:/srv/tstat"},
	{"the same for logs that import-bulk anonymized", "tstatrepo store verify --probe turin --against /var/lib/tstat --anonymize tstat,key-base64=anonymize.key parquet:/srv/tstat"},
	{"check that all stored rows can be read and are unchanged", "tstatrepo store verify --deep parquet:/srv/tstat"},
	{"merge the small files of closed days", "tstatrepo store compact parquet:/srv/tstat"},
	{"remove rows older than 400 days", "tstatrepo store prune --keep 400d postgres://tstat@localhost/tstat"},
}

func storeCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "store",
		Usage:     "list, verify, compact, prune and repair a store",
		ArgsUsage: "list|verify|compact|prune|repair URL",
		Category:  groupAlso,
		Description: "Works on the store at URL, a destination of import-bulk. Imports can run at the same time.\n\n" +
			"list prints the stored logs by type, probe and day. verify checks that each log has the rows of its record and, with --against, that the " +
			"logs of a source are stored. compact merges the files of closed days of parquet: stores. prune removes the " +
			"rows of old days. repair removes rows of parquet: stores that are stored twice.\n\n" +
			"See 'tstatrepo man store'.",
		Flags:  commandFlags("store"),
		Action: func(c *cli.Context) error { return runStore(c, con) },
	}
}

// storeRun is one run of the command store.
type storeRun struct{ *config.Store }

// runStore runs the store command with options from flags and config.
func runStore(c *cli.Context, con *console.Console) error {
	var opt bulk.Options
	cfg, err := configure(c, con, func(cfg *config.Config, p *config.Problems) {
		opt = cfg.Store.Options(p, c.Args().First(), c.IsSet)
	})
	if cfg == nil {
		return err
	}
	s := storeRun{&cfg.Store}
	opt.StateDir = cfg.StateDir
	if c.NArg() != 2 {
		return hint.Add(hint.Usagef("store needs an action and the URL of a store"), "for example: tstatrepo store list parquet:/srv/tstat")
	}
	action, url := c.Args().Get(0), c.Args().Get(1)
	if s.Quiet {
		con.Quiet()
	}
	opt.Log = con.Logger()
	so := stores.Options{ReadOnly: true, Log: opt.Log, RetryTimeout: opt.RetryTimeout}
	st, err := stores.Open(c.Context, url, so)
	if err != nil {
		return orInterrupt(c.Context, err)
	}
	// A store without records is an error, because its URL may be mistyped. Such a URL
	// must not be listed as an empty store, pass verification or create a store.
	err = checkAnyRecord(c.Context, st)
	if err == nil && action != "list" && action != "verify" && !s.DryRun {
		so.ReadOnly = false
		st.Close()
		if st, err = stores.Open(c.Context, url, so); err != nil {
			return orInterrupt(c.Context, err)
		}
	}
	if err == nil {
		err = s.run(c.Context, con, c.App.Writer, action, st, opt)
	}
	return orInterrupt(c.Context, errors.Join(err, st.Close()))
}

// checkAnyRecord returns an error if m has no records.
func checkAnyRecord(ctx context.Context, m store.Manager) error {
	found := errors.New("found")
	switch err := m.Records(ctx, func(store.Record) error { return found }); {
	case err == nil:
		return hint.Add(fmt.Errorf("%s: nothing was ever stored there", m), "is the URL right?")
	case !errors.Is(err, found):
		return err
	}
	return nil
}

// run performs the given action on m.
func (s storeRun) run(ctx context.Context, con *console.Console, stdout io.Writer, action string, m store.Manager, opt bulk.Options) error {
	filter := upkeep.Filter{Wants: opt.Wants, Probe: s.Probe}
	switch action {
	case "list":
		inv, err := upkeep.List(ctx, m, filter)
		if err != nil {
			return err
		}
		return s.report(stdout, inv, func(w io.Writer) error { return writeInventory(w, inv) })
	case "verify":
		return s.verify(ctx, con, stdout, m, filter, opt)
	case "compact":
		return s.compact(ctx, con, stdout, m, opt)
	case "repair":
		return s.repair(ctx, con, stdout, m)
	}
	res, err := m.Prune(ctx, upkeep.Before(time.Now(), time.Duration(s.Keep)), s.DryRun)
	out := struct {
		store.PruneResult
		DryRun bool `json:"dry_run,omitempty"`
	}{res, s.DryRun}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		if s.DryRun || con.Terminal() && !s.Quiet {
			verb := "pruned"
			if s.DryRun {
				verb = "would prune"
			}
			fmt.Fprintf(w, "%s %s, %s", verb, console.Plural(res.Files, "file"), console.Plural(res.Rows, "row"))
			if res.Bytes > 0 {
				fmt.Fprintf(w, ", %s", console.Bytes(res.Bytes))
			}
			fmt.Fprintln(w)
		}
		return nil
	})
	return errors.Join(err, rerr)
}

// report prints result as JSON if --json is given, and otherwise calls the function text.
func (s storeRun) report(stdout io.Writer, result any, text func(io.Writer) error) error {
	if !s.JSON {
		return text(stdout)
	}
	return console.WriteJSON(stdout, result)
}

func (s storeRun) repair(ctx context.Context, con *console.Console, stdout io.Writer, m store.Manager) error {
	if !m.Properties().Compacts {
		return hint.Usage(fmt.Sprintf("%s has nothing to repair", m), "parquet: stores have; see what store verify says of others")
	}
	res, err := m.Repair(ctx, s.DryRun)
	out := struct {
		store.RepairResult
		DryRun bool `json:"dry_run,omitempty"`
	}{res, s.DryRun}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		if s.DryRun || con.Terminal() && !s.Quiet {
			verb := "removed"
			if s.DryRun {
				verb = "would remove"
			}
			fmt.Fprintf(w, "%s %s of %s that were stored twice\n", verb, console.Plural(res.Rows, "row"), console.Plural(res.Logs, "log"))
		}
		return nil
	})
	return errors.Join(err, rerr)
}

func (s storeRun) compact(ctx context.Context, con *console.Console, stdout io.Writer, m store.Manager, opt bulk.Options) error {
	if !m.Properties().Compacts {
		return hint.Usage(fmt.Sprintf("%s has no files to compact", m), "parquet: stores have")
	}
	co := store.CompactOptions{TargetSize: int64(s.TargetSize), ClosedAfter: time.Duration(s.Closed), DryRun: s.DryRun, Jobs: opt.Jobs}
	prog, stop := con.Progress(time.Duration(s.ProgressInterval), s.Quiet)
	if prog != nil {
		co.Total, co.Done = prog.Total, prog.Add
	}
	started := time.Now()
	res, err := m.Compact(ctx, co)
	stop()
	out := struct {
		store.CompactResult
		Seconds float64 `json:"seconds"`
		DryRun  bool    `json:"dry_run,omitempty"`
	}{res, time.Since(started).Seconds(), s.DryRun}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		if s.DryRun || con.Terminal() && !s.Quiet {
			verb := "compacted"
			if s.DryRun {
				verb = "would compact"
			}
			if res.Days+res.Failed == 0 {
				fmt.Fprintf(w, "nothing is due: %s ended or got a file less than --closed-after %s ago, %s without two files to put together\n",
					console.Plural(res.Open, "day"), s.Closed, console.Plural(res.Whole, "day"))
				return nil
			}
			fmt.Fprintf(w, "%s %s: %s (%s) into %d\n", verb, console.Plural(res.Days, "day"), console.Plural(res.Files, "file"), console.Bytes(res.Bytes), res.Into)
		}
		return nil
	})
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("%s not compacted", console.Plural(res.Failed, "day"))
	}
	return errors.Join(err, rerr)
}

// writeInventory prints one line for each log type, probe and day, then the transforms
// and gaps.
func writeInventory(out io.Writer, inv *upkeep.Inventory) error {
	shown := []bool{true, true, true, inv.Total.Stored > 0, inv.Total.Pruned > 0, inv.Total.Gaps > 0, inv.Total.Damaged > 0}
	row := func(cells []string, numbers ...string) []string {
		for i, n := range numbers {
			if shown[i] {
				cells = append(cells, n)
			}
		}
		return cells
	}
	table := [][]string{row([]string{"type", "probe", "day"}, "files", "rows", "text", "stored", "pruned", "gaps", "damaged")}
	for _, d := range append(inv.Days, inv.Total) {
		table = append(table, row([]string{console.Printable(cmp.Or(d.Type, "total")), console.Printable(d.Probe), d.Date},
			console.Count(d.Files), console.Count(d.Rows), console.Bytes(d.Text), console.Bytes(d.Stored), console.Count(d.Pruned), console.Count(d.Gaps), console.Count(d.Damaged)))
	}
	if _, err := io.WriteString(out, console.Table(table, 3)); err != nil {
		return err
	}
	for _, transform := range slices.Sorted(maps.Keys(inv.Transforms)) {
		if _, err := fmt.Fprintf(out, "transform of %s: %s\n", console.Plural(inv.Transforms[transform], "file"), console.Printable(transform)); err != nil {
			return err
		}
	}
	const layout = "2006-01-02 15:04"
	for _, g := range inv.Gaps {
		if _, err := fmt.Fprintf(out, "gap: %s of %s: %s missing between %s and %s (UTC)\n", console.Printable(g.Type), console.Printable(g.Probe),
			console.Plural(g.Missing, "folder"), g.After.Format(layout), g.Before.Format(layout)); err != nil {
			return err
		}
	}
	return nil
}
