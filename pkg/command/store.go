package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// storeCmd holds the settings of store.
type storeCmd struct {
	bulk       importBulk // what verify reads, and what all commands share
	against    []string
	keep       duration
	targetSize size
	closed     duration
	deep       bool
	dryRun     bool
}

func defaultStoreCmd() storeCmd {
	return storeCmd{bulk: defaultImportBulk(), targetSize: store.DefaultTargetSize, closed: duration(store.DefaultClosedAfter)}
}

// storeActions are the words after store, and the settings that only they
// know.
var storeActions = []struct {
	name     string
	settings []string
}{
	{"list", []string{"type", "since", "until", "probe", "timezone", "json"}},
	{"verify", []string{"against", "deep", "type", "exclude", "since", "until", "probe", "timezone", "include-open", "settle", "jobs", "json", "progress-interval"}},
	{"compact", []string{"target-size", "closed-after", "dry-run", "jobs", "json", "progress-interval"}},
	{"prune", []string{"keep", "dry-run", "json"}},
	{"repair", []string{"dry-run", "json"}},
}

func storeActionNames() []string {
	var names []string
	for _, a := range storeActions {
		names = append(names, a.name)
	}
	return names
}

// settings is the table of flags and keys, in the order of the help.
func (s *storeCmd) settings() []*setting {
	const (
		verify  = "Verify"
		compact = "Compact"
		prune   = "Prune"
		files   = "Which files"
		reports = "Output"
	)
	b := &s.bulk
	list := []*setting{
		{name: "against", group: verify, value: &s.against, complete: "dir",
			usage: "verify: compare with the finished logs in `SOURCE`, as import-bulk would take them"},
		{name: "exclude", group: verify, value: &b.exclude, empty: "none",
			usage: "verify: leave out sources that match `GLOB`, as import-bulk does"},
		{name: "deep", group: verify, value: &s.deep,
			usage: "verify: read everything that is stored"},
		{name: "include-open", group: verify, value: &b.includeOpen,
			usage: "verify: also files that Tstat may still write to"},
		{name: "settle", group: verify, value: &b.settle,
			usage: "verify: the newest folder is finished when nothing in it changed for `DURATION`"},
		{name: "target-size", group: compact, value: &s.targetSize,
			usage: "compact: make files of about `SIZE`"},
		{name: "closed-after", group: compact, value: &s.closed,
			usage: "compact: only days that ended, and whose newest file was stored, `DURATION` ago or earlier"},
		{name: "keep", group: prune, value: &s.keep, empty: "nothing is pruned without",
			usage: "prune: remove rows of days that ended more than `DURATION` ago, like 400d"},
		{name: "dry-run", group: reports, value: &s.dryRun,
			usage: "compact, prune, repair: only say what would be done"},
		{name: "type", group: files, value: &b.types, empty: "all",
			usage: "list, verify: log types that match `GLOB`, like 'log_tcp_*'"},
		{name: "since", group: files, value: &b.since,
			usage: "list, verify: folders of `TIME` or later: 2006-01-02, 2006-01-02T15:04, RFC 3339, today, yesterday, or a duration before now like 7d or 12h"},
		{name: "until", group: files, value: &b.until,
			usage: "list, verify: folders before `TIME`, written like that of --since"},
		{name: "probe", group: files, value: &b.probe, empty: "all; with --against the host name up to the first dot",
			usage: "list, verify: what the probe `NAME` wrote"},
		{name: "timezone", group: files, value: &b.timezone,
			usage: "list, verify: `ZONE` of the sources' folder names and of --since and --until: Local, UTC or like Europe/Rome"},
		{name: "jobs", group: reports, value: &b.jobs, empty: "count of CPUs, at most 4",
			usage: "compact, verify: work on `N` days or source files at a time"},
		{name: "retry-timeout", group: reports, value: &b.retryTimeout,
			usage: "retry for `DURATION` while a database is unavailable"},
	}
	return append(list, pick(b.settings(), "json", "progress-interval", "quiet")...)
}

var storeExamples = []example{
	{"list what is stored per log type, probe and day", "tstatrepo store list parquet:/srv/tstat"},
	{"check that everything is stored that Tstat wrote", "tstatrepo store verify --probe turin --against /var/lib/tstat parquet:/srv/tstat"},
	{"check that everything stored can be read and is unchanged", "tstatrepo store verify --deep parquet:/srv/tstat"},
	{"merge the small files of closed days", "tstatrepo store compact parquet:/srv/tstat"},
	{"remove rows older than 400 days", "tstatrepo store prune --keep 400d postgres://tstat@localhost/tstat"},
}

func storeCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "store",
		Usage:     "list, verify, compact, prune and repair what is stored",
		ArgsUsage: "list|verify|compact|prune|repair URL",
		Category:  groupAlso,
		Description: "Works on the store at URL, a destination of import-bulk. Imports may run at the same time.\n\n" +
			"list prints what is stored. verify checks that each log has the rows of its record and, with --against, that the " +
			"logs of a source are stored. compact merges the files of closed days of parquet: stores. prune removes the " +
			"rows of old days. repair removes rows of parquet: stores that are stored twice.\n\n" +
			"'tstatrepo man store' says more.",
		Flags:  commandFlags("store"),
		Action: func(c *cli.Context) error { return runStore(c, con) },
	}
}

// runStore turns flags and config into one call for the action.
func runStore(c *cli.Context, con *console.Console) error {
	cfg, p, err := loadConfig(c, con)
	if err != nil {
		return err
	}
	s := &cfg.store
	opt := s.check(c, p)
	opt.StateDir = cfg.stateDir
	if err := p.err(c.Command.Name); err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	if c.NArg() != 2 {
		return hint.Add(usagef("store needs an action and the URL of a store"), "for example: tstatrepo store list parquet:/srv/tstat")
	}
	action, url := c.Args().Get(0), c.Args().Get(1)
	if s.bulk.quiet {
		con.Quiet()
	}
	opt.Log = con.Logger()
	so := stores.Options{ReadOnly: true, Log: opt.Log, RetryTimeout: opt.RetryTimeout}
	st, err := stores.Open(c.Context, url, so)
	if err != nil {
		return orInterrupt(c.Context, err)
	}
	// A mistyped URL must not be listed as empty, pass every verification, or
	// become a store.
	err = anyRecord(c.Context, st)
	if err == nil && action != "list" && action != "verify" && !s.dryRun {
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

// anyRecord returns an error if nothing was ever stored.
func anyRecord(ctx context.Context, m store.Manager) error {
	found := errors.New("there is one")
	switch err := m.Records(ctx, func(store.Record) error { return found }); {
	case err == nil:
		return hint.Add(fmt.Errorf("%s: nothing was ever stored there", m), "is the URL right?")
	case !errors.Is(err, found):
		return err
	}
	return nil
}

// check checks the settings and returns those that verify shares with
// import-bulk.
func (s *storeCmd) check(c *cli.Context, p *problems) bulk.Options {
	probe := s.bulk.probe
	s.bulk.sources = s.against
	if slices.Contains(s.against, "-") {
		p.add("against", "cannot be standard input")
	}
	opt := s.bulk.options(p)
	opt.Jobs = cmp.Or(s.bulk.jobs, min(runtime.GOMAXPROCS(0), 4)) // compaction needs memory for each
	if len(s.against) == 0 {
		s.bulk.probe = probe
	}
	if s.keep != 0 {
		atLeast(p, "keep", s.keep, duration(24*time.Hour))
	}
	atLeast(p, "target-size", s.targetSize, 1<<20)
	atLeast(p, "closed-after", s.closed, 0)
	action := c.Args().First()
	names := storeActionNames()
	known := map[string]bool{}
	for _, a := range storeActions {
		if a.name == action {
			for _, name := range a.settings {
				known[name] = true
			}
		}
	}
	switch {
	case action == "":
		return opt
	case !slices.Contains(names, action):
		p.errs = append(p.errs, fmt.Errorf("unknown action %q%s", action, didYouMean(action, names, "")))
		p.hint = "actions are: " + strings.Join(names, ", ")
		return opt
	}
	for _, a := range storeActions {
		for _, name := range a.settings {
			if !known[name] && c.IsSet(name) {
				known[name] = true
				p.add(name, "is not for store %s", action)
			}
		}
	}
	if action == "prune" && s.keep == 0 {
		p.add("keep", "must say how long rows stay, like 400d")
	}
	return opt
}

// run does the action.
func (s *storeCmd) run(ctx context.Context, con *console.Console, stdout io.Writer, action string, m store.Manager, opt bulk.Options) error {
	filter := upkeep.Filter{Wants: opt.Wants, Probe: s.bulk.probe}
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
	res, err := m.Prune(ctx, upkeep.Before(time.Now(), time.Duration(s.keep)), s.dryRun)
	out := struct {
		store.PruneResult
		DryRun bool `json:"dry_run,omitempty"`
	}{res, s.dryRun}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		if s.dryRun || con.Terminal() && !s.bulk.quiet {
			verb := "pruned"
			if s.dryRun {
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

// report prints a result: as JSON, or as text.
func (s *storeCmd) report(stdout io.Writer, result any, text func(io.Writer) error) error {
	if !s.bulk.json {
		return text(stdout)
	}
	return console.WriteJSON(stdout, result)
}

// writeInventory prints a line per log type, probe and day.
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
	const layout = "2006-01-02 15:04"
	for _, g := range inv.Gaps {
		if _, err := fmt.Fprintf(out, "gap: %s of %s: %s missing between %s and %s (UTC)\n", console.Printable(g.Type), console.Printable(g.Probe),
			console.Plural(g.Missing, "folder"), g.After.Format(layout), g.Before.Format(layout)); err != nil {
			return err
		}
	}
	return nil
}

func (s *storeCmd) verify(ctx context.Context, con *console.Console, stdout io.Writer, m store.Manager, filter upkeep.Filter, opt bulk.Options) error {
	prog, stop := con.Progress(time.Duration(s.bulk.progressInterval), s.bulk.quiet)
	vo := upkeep.VerifyOptions{Filter: filter, Deep: s.deep, Progress: prog}
	if len(s.against) > 0 {
		opt.Progress = prog
		vo.Against = &opt
	}
	rep, err := upkeep.Verify(ctx, m, vo)
	stop()
	if rep == nil {
		return err
	}
	out := struct {
		*upkeep.Report
		Mend map[string]string `json:"mend,omitempty"` // command by kind of finding
	}{rep, map[string]string{}}
	for _, f := range rep.Findings {
		cmd := cmp.Or(f.Mend, mend(f.Kind, m, probeOf(f.Kind, rep.Findings)))
		switch old := out.Mend[f.Kind]; {
		case cmd == "" || strings.Contains(old, cmd):
		case old != "":
			out.Mend[f.Kind] = old + "; " + cmd
		default:
			out.Mend[f.Kind] = cmd
		}
	}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		for _, f := range rep.Findings {
			line := fmt.Sprintf("%-10s", f.Kind)
			if f.Key != (store.Key{}) {
				line += "  " + f.Key.String()
			}
			if f.Kind == upkeep.Rows {
				line += fmt.Sprintf("  %d of %d", f.Counts, f.Rows)
			}
			for _, text := range []string{f.Path, f.In, f.Reason} {
				if text != "" {
					line += "  " + text
				}
			}
			fmt.Fprintln(w, console.Printable(line))
		}
		for _, kind := range slices.Sorted(maps.Keys(out.Mend)) {
			fmt.Fprintf(w, "to mend %s: %s\n", kind, out.Mend[kind])
		}
		if rep.Sources+rep.Unread > 0 {
			fmt.Fprintf(w, "%s, %d stored as they are", console.Plural(rep.Sources, "source file"), rep.Same)
			if rep.Pruned > 0 {
				fmt.Fprintf(w, " (%d pruned since)", rep.Pruned)
			}
			fmt.Fprintln(w)
		}
		writePassed(w, rep.PassedOver)
		if rep.Damaged > 0 {
			fmt.Fprintf(w, "%s of damaged files, of which the good part is stored\n", console.Plural(rep.Damaged, "record"))
		}
		if rep.Uncounted > 0 {
			fmt.Fprintf(w, "%s, whose rows do not tell their file and were not counted\n", console.Plural(rep.Uncounted, "record"))
		} else {
			fmt.Fprintf(w, "%s, %s counted\n", console.Plural(rep.Records, "record"), console.Plural(rep.Rows, "row"))
		}
		return nil
	})
	if errors.Is(err, upkeep.ErrDiffers) {
		n := int64(len(rep.Findings)) + rep.Unread
		err = fmt.Errorf("%s: %w in %s", m, err, console.Plural(n, "place"))
	}
	return errors.Join(err, rerr)
}

// probeOf returns the probe that all findings of a kind are about; PROBE, for
// the user to fill in, if they are about several or none.
func probeOf(kind string, findings []upkeep.Finding) string {
	probe := ""
	for _, f := range findings {
		if f.Kind != kind {
			continue
		}
		if store.ValidProbe(f.Key.Probe) != nil || probe != "" && probe != f.Key.Probe {
			return "PROBE"
		}
		probe = f.Key.Probe
	}
	return probe
}

// mend returns what mends a kind of finding; "" if that depends.
func mend(kind string, m store.Manager, probe string) string {
	_, raw := m.(store.RawStore)
	again := fmt.Sprintf("tstatrepo import-bulk --replace --probe %s --to %s LOG", probe, m)
	if m.Properties().AppendOnly {
		again = "" // it cannot replace rows
	}
	switch kind {
	case upkeep.Missing, upkeep.Different:
		return fmt.Sprintf("tstatrepo import-bulk --probe %s --to %s SOURCE", probe, m)
	case upkeep.Rows, upkeep.Prefix, upkeep.Unsourced, store.Damaged, store.CR:
		return again
	case store.Doubled, store.Unrecorded:
		switch {
		case m.Properties().Compacts:
			return fmt.Sprintf("tstatrepo store repair %s", m)
		case kind == store.Doubled:
			return again
		case raw:
			return fmt.Sprintf("tstatrepo import-bulk --probe %s --to %s SOURCE, or remove the copies", probe, m)
		}
	case store.Unreadable, store.Foreign:
		if !m.Properties().Compacts && !raw {
			return "" // it has no files
		}
		return fmt.Sprintf("move the files out of the store, then tstatrepo import-bulk --probe %s --to %s SOURCE", probe, m)
	}
	return ""
}

func (s *storeCmd) repair(ctx context.Context, con *console.Console, stdout io.Writer, m store.Manager) error {
	if !m.Properties().Compacts {
		return hint.Usage(fmt.Sprintf("%s has nothing to repair", m), "parquet: stores have; see what store verify says of others")
	}
	res, err := m.Repair(ctx, s.dryRun)
	out := struct {
		store.RepairResult
		DryRun bool `json:"dry_run,omitempty"`
	}{res, s.dryRun}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		if s.dryRun || con.Terminal() && !s.bulk.quiet {
			verb := "removed"
			if s.dryRun {
				verb = "would remove"
			}
			fmt.Fprintf(w, "%s %s of %s that were stored twice\n", verb, console.Plural(res.Rows, "row"), console.Plural(res.Logs, "log"))
		}
		return nil
	})
	return errors.Join(err, rerr)
}

func (s *storeCmd) compact(ctx context.Context, con *console.Console, stdout io.Writer, m store.Manager, opt bulk.Options) error {
	if !m.Properties().Compacts {
		return hint.Usage(fmt.Sprintf("%s has no files to compact", m), "parquet: stores have")
	}
	co := store.CompactOptions{TargetSize: int64(s.targetSize), ClosedAfter: time.Duration(s.closed), DryRun: s.dryRun, Jobs: opt.Jobs}
	prog, stop := con.Progress(time.Duration(s.bulk.progressInterval), s.bulk.quiet)
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
	}{res, time.Since(started).Seconds(), s.dryRun}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		if s.dryRun || con.Terminal() && !s.bulk.quiet {
			verb := "compacted"
			if s.dryRun {
				verb = "would compact"
			}
			if res.Days+res.Failed == 0 {
				fmt.Fprintf(w, "nothing is due: %s ended or got a file less than --closed-after %s ago, %s without two files to put together\n",
					console.Plural(res.Open, "day"), s.closed, console.Plural(res.Whole, "day"))
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
