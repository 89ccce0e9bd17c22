package config

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Store holds the settings of the store command.
type Store struct {
	Selection
	Probe   string
	Against []string
	Anonymization
	Rows
	Keep         Duration
	TargetSize   Size
	Closed       Duration
	Deep         bool
	DryRun       bool
	Jobs         int
	RetryTimeout Duration
	Output
}

func defaultStore() Store {
	return Store{
		Selection: defaultSelection(), RetryTimeout: defaultImport().RetryTimeout,
		TargetSize: store.DefaultTargetSize, Closed: Duration(store.DefaultClosedAfter),
	}
}

// storeActions lists the actions of the store command. Each has the settings that it
// accepts and that not every action accepts.
var storeActions = []struct {
	name     string
	settings []string
}{
	{"list", []string{"type", "since", "until", "probe", "timezone", "json"}},
	{"verify", []string{"against", "anonymize", "source-is", "where", "sample", "select", "deep", "type", "exclude", "match", "since", "until", "probe", "timezone", "include-open", "settle", "jobs", "json", "progress-interval"}},
	{"compact", []string{"target-size", "closed-after", "dry-run", "jobs", "json", "progress-interval"}},
	{"prune", []string{"keep", "dry-run", "json"}},
	{"repair", []string{"dry-run", "json"}},
}

// StoreActions returns the names of the actions of store.
func StoreActions() []string {
	var names []string
	for _, a := range storeActions {
		names = append(names, a.name)
	}
	return names
}

// settings returns the settings in the order in which the help lists them.
func (s *Store) settings() []*Setting {
	const (
		verify  = "Verify"
		compact = "Compact"
		prune   = "Prune"
		files   = "Which files"
	)
	return []*Setting{
		{Name: "against", Group: verify, Value: &s.Against, Complete: "dir",
			Usage: "verify: compare with the finished logs in `SOURCE` that import-bulk would import"},
		{Name: "anonymize", Group: verify, Value: &s.Anonymize, Empty: "the sources are compared as they are",
			Usage: "verify: compare with sources that import-bulk anonymized by `MODE`[,OPTION...]"},
		{Name: "source-is", Group: verify, Value: &s.SourceIs, Complete: "clear anonymized", Empty: "as in log_tcp_complete of the same folder",
			Usage: "verify: with --anonymize, treat addresses as `clear|anonymized` in log types that have no column for this"},
		{Name: "where", Group: verify, Value: &s.Where, Empty: "all rows",
			Usage: "verify: compare with the rows that import-bulk stored for `EXPRESSION`"},
		{Name: "sample", Group: verify, Value: &s.Sample, Empty: "all flows",
			Usage: "verify: compare with the rows that import-bulk stored for a sample of `1/N`"},
		{Name: "select", Group: verify, Value: &s.Select, Empty: "all columns", Complete: logColumns,
			Usage: "verify: compare with logs of which import-bulk stored these `COLUMNS`"},
		{Name: "match", Group: verify, Value: &s.Match, Empty: "the names that Tstat uses",
			Usage: "verify: read sources that match `GLOB[=TYPE]` as logs, as import-bulk does"},
		{Name: "exclude", Group: verify, Value: &s.Exclude, Empty: "none",
			Usage: "verify: skip sources that match `GLOB`, as import-bulk does"},
		{Name: "deep", Group: verify, Value: &s.Deep,
			Usage: "verify: read all stored data"},
		{Name: "include-open", Group: verify, Value: &s.IncludeOpen,
			Usage: "verify: include files that Tstat may still write to"},
		{Name: "settle", Group: verify, Value: &s.Settle,
			Usage: "verify: include the newest folder once nothing in it has changed for `DURATION`"},
		{Name: "target-size", Group: compact, Value: &s.TargetSize,
			Usage: "compact: write files of about `SIZE`"},
		{Name: "closed-after", Group: compact, Value: &s.Closed,
			Usage: "compact: merge days that ended, and got their last file, at least `DURATION` ago"},
		{Name: "keep", Group: prune, Value: &s.Keep, Empty: "none; prune needs it",
			Usage: "prune: remove rows of days that ended more than `DURATION` ago, like 400d"},
		{Name: "dry-run", Group: groupOutput, Value: &s.DryRun,
			Usage: "compact, prune, repair: show what would be done, and change nothing"},
		{Name: "type", Group: files, Value: &s.Types, Empty: "all", Complete: logTypes,
			Usage: "list, verify: select log types that match `GLOB`, like 'log_tcp_*'"},
		{Name: "since", Group: files, Value: &s.Since,
			Usage: "list, verify: select log folders that start at `TIME` or later: " + timeForms},
		{Name: "until", Group: files, Value: &s.Until,
			Usage: "list, verify: select log folders that start before `TIME`; same forms as --since"},
		{Name: "probe", Group: files, Value: &s.Probe, Empty: "all; with --against, the host name up to the first dot",
			Usage: "list, verify: select logs of the probe `NAME`"},
		{Name: "timezone", Group: files, Value: &s.Timezone, Complete: completion.Zones,
			Usage: "list, verify: read folder names of sources, --since and --until in time zone `ZONE`: Local, UTC or like Europe/Rome"},
		{Name: "jobs", Group: groupOutput, Value: &s.Jobs, Empty: "the number of CPUs, at most 4",
			Usage: "compact, verify: process `N` days or source files at a time"},
		{Name: "retry-timeout", Group: groupOutput, Value: &s.RetryTimeout,
			Usage: "retry for `DURATION` while a database is unavailable"},
		s.json("print the summary as JSON on stdout"),
		s.progressInterval(),
		s.quiet(),
	}
}

// Options checks the settings for an action of store; action may be "". It returns
// import options, because verify reads its sources as import-bulk does. isSet reports
// whether a flag was given.
func (s *Store) Options(p *Problems, action string, isSet func(string) bool) bulk.Options {
	if slices.Contains(s.Against, "-") {
		p.add("against", "cannot be standard input")
	}
	opt := s.Selection.check(p)
	opt.Sources, opt.MaxRejects, opt.Poll, opt.RetryTimeout = s.Against, bulk.DefaultMaxRejects, bulk.DefaultPoll, time.Duration(s.RetryTimeout)
	opt.Jobs = cmp.Or(s.Jobs, min(runtime.GOMAXPROCS(0), 4)) // compaction needs memory for each job
	s.checkTransform(p, &opt, action, isSet)
	s.checkProbe(p, &opt)
	if slices.Contains(s.Against, "") {
		p.Add("a SOURCE must not be empty")
	}
	atLeast(p, "retry-timeout", s.RetryTimeout, 0)
	if s.ProgressInterval != 0 {
		atLeast(p, "progress-interval", s.ProgressInterval, Duration(time.Second))
	}
	within(p, "jobs", s.Jobs, 0, 1024)
	if s.Keep != 0 {
		atLeast(p, "keep", s.Keep, Duration(24*time.Hour))
	}
	atLeast(p, "target-size", s.TargetSize, 1<<20)
	atLeast(p, "closed-after", s.Closed, 0)
	s.checkAction(p, action, isSet)
	return opt
}

// checkTransform sets the anonymization and the selection in opt. Before verify compares
// sources with stores, it applies both to the sources, as import-bulk did. Without
// sources, verify refuses the flags for anonymization and selection.
func (s *Store) checkTransform(p *Problems, opt *bulk.Options, action string, isSet func(string) bool) {
	switch {
	case len(s.Against) > 0 && (action == "verify" || action == ""):
		opt.Anonymize, opt.SourceIs = s.Anonymization.check(p)
		opt.Selection = s.Rows.check(p, nil)
	case action == "verify": // the configuration file may have them
		for _, name := range []string{"anonymize", "source-is", "where", "sample", "select"} {
			p.refuse("is for `against` only", given{isSet(name), name})
		}
	}
}

// checkProbe sets opt.Probe to the name of the probe whose logs verify compares. By
// default, this is the name of the MATH stream or a name derived from the host name.
func (s *Store) checkProbe(p *Problems, opt *bulk.Options) {
	opt.Probe, opt.ProbeGuessed = s.Probe, s.Probe == "" && pulled(s.Against) == ""
	if opt.Probe == "" {
		opt.Probe = cmp.Or(pulled(s.Against), hostProbe())
	}
	checkProbeName(p, opt.Probe)
	if len(s.Against) > 0 {
		s.Probe = opt.Probe
	}
}

// checkAction adds a problem for an unknown action, for each flag that the action does
// not accept, and for prune without keep.
func (s *Store) checkAction(p *Problems, action string, isSet func(string) bool) {
	if action == "" {
		return
	}
	names := StoreActions()
	i := slices.Index(names, action)
	if i < 0 {
		p.Add("unknown action %q%s", action, hint.DidYouMean(action, names, ""))
		p.hint = "actions are: " + strings.Join(names, ", ")
		return
	}
	known := slices.Clone(storeActions[i].settings)
	for _, a := range storeActions {
		for _, name := range a.settings {
			if !slices.Contains(known, name) && isSet(name) {
				known = append(known, name)
				p.add(name, "is not for store %s", action)
			}
		}
	}
	if action == "prune" && s.Keep == 0 {
		p.add("keep", "must say how long rows stay, like 400d")
	}
}
