package bulk

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	destination "github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Options say what Run imports and how. The zero value of a field means its
// default.
type Options struct {
	// Sources are log trees, log folders, log files, compressed or not, or "-".
	Sources []string
	// Remote are sources other than files and folders.
	Remote []Source
	// Stores are where the rows go; every file goes to all of them. Run does
	// not close them.
	Stores []Destination

	Probe string // name of the probe; required, see store.ValidProbe
	// ProbeGuessed says that nobody chose Probe. Then a text that a store has
	// as that of another probe ends the run with an error.
	ProbeGuessed bool
	Location     *time.Location // zone of the folder names; nil: time.Local
	Stdin        io.Reader      // what "-" reads

	Types       []string      // globs over log types; none: all
	Since       time.Time     // folder time, inclusive; zero: no limit
	Until       time.Time     // folder time, exclusive; zero: no limit
	Folder      string        // names the log folder of "-" and of files outside one
	Layout      string        // Tstat version of headerless files, see tstat.ReaderOptions
	IncludeOpen bool          // import files that may still grow
	Settle      time.Duration // age at which the newest folder counts as finished; 0: 2h
	Replace     bool          // store again what is stored already
	// AcceptDamaged stores the good part of compressed files that are damaged.
	AcceptDamaged bool
	// Exclude are globs over log types, and over files and folders by their
	// paths below the source: what matches one is left out.
	Exclude []string
	// Match takes files for logs that have other names, or are in other folders.
	Match []Match

	Jobs int // files at a time; 0: as many as cores that this process may use
	// Limits bound this run and others together, with Jobs and Rate; nil: this
	// one only.
	Limits *Limits
	// Peer returns the name of the peer that the files come from, among those that
	// share Limits. It is called for each file; nil: all files are from one peer.
	Peer       func() string
	MaxRejects int     // a file with more rejects, and more than 1 % of its lines, is not stored; nor is one with rejects and no row
	Rate       float64 // MiB of source text a second, all workers together; 0: no limit
	// RetryTimeout is how long a store is retried that fails for a reason that
	// may pass, like a server that restarts. 0: not at all.
	RetryTimeout time.Duration
	// ClaimTime is how long files stay claimed in a store.Claimer if this
	// process dies; 0: DefaultClaimTime.
	ClaimTime time.Duration
	DryRun    bool          // say what would be imported
	Follow    bool          // go on with new folders until ctx ends
	Poll      time.Duration // how often Follow looks; 0: 10s

	// Wake makes Follow look at once; nil: never.
	Wake <-chan struct{}

	// Passed is called after each pass of Follow, with the sums so far and why
	// not everything is stored; Filed after each file.
	Passed func(*Summary, error)
	Filed  func(total TypeSummary)
	// PassedOver is called after each scan of the sources with what looks like
	// logs and is not read; nil: never. Summary has it too.
	PassedOver func(PassedOver)
	// Waits is called when a store becomes unavailable, with the state of all
	// stores; nil disables the call.
	Waits func(stores []StoreSummary, err error)

	StateDir string       // locks and reject files
	Log      *slog.Logger // warnings and, with Follow, news; nil: none
	Progress Progress     // nil: none
}

// Defaults of Options.
const (
	DefaultMaxRejects = 100
	DefaultSettle     = 2 * time.Hour
	DefaultPoll       = 10 * time.Second
)

// Progress is told how far a run is. Its methods are called from several
// goroutines.
type Progress interface {
	// Total announces how many files and bytes on disk there are to import.
	Total(files int, bytes int64)
	// Add reports bytes read and rows stored since the last call.
	Add(bytes, rows int64)
}

// Validate checks everything but the stores, so that none is made for a run
// that cannot begin. Its errors are usage errors.
func (o *Options) Validate() error {
	var errs []error
	if err := store.ValidProbe(o.Probe); err != nil {
		errs = append(errs, err)
	}
	if len(o.Sources) == 0 && len(o.Remote) == 0 {
		errs = append(errs, errors.New("no source"))
	}
	if o.Jobs < 0 {
		errs = append(errs, errors.New("jobs: less than 0"))
	}
	if o.Rate < 0 {
		errs = append(errs, errors.New("rate: less than 0"))
	}
	if o.Settle < 0 {
		errs = append(errs, errors.New("settle: less than 0"))
	}
	if !o.Since.IsZero() && !o.Until.IsZero() && !o.Since.Before(o.Until) {
		errs = append(errs, errors.New("since is not before until"))
	}
	if o.Folder != "" && !tstat.IsFolder(o.Folder) {
		errs = append(errs, fmt.Errorf("folder %q: want YYYY_MM_DD_HH_MM.out", o.Folder))
	}
	for _, glob := range o.Types {
		if _, err := path.Match(glob, ""); err != nil {
			errs = append(errs, fmt.Errorf("type %q: bad pattern", glob))
		} else if !slices.ContainsFunc(tstat.Types(), func(t *tstat.LogType) bool { return matches(glob, t.Name) }) {
			errs = append(errs, hint.New(fmt.Sprintf("type %q matches no log type", glob), knownTypes()))
		}
	}
	for _, glob := range o.Exclude {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			errs = append(errs, fmt.Errorf("exclude %q: bad pattern", glob))
		}
	}
	for _, m := range o.Match {
		if err := m.check(); err != nil {
			errs = append(errs, fmt.Errorf("match: %w", err))
		}
	}
	if o.Layout != "" && !slices.ContainsFunc(tstat.Types(), func(t *tstat.LogType) bool {
		return slices.Contains(t.Versions(), o.Layout)
	}) {
		errs = append(errs, hint.New(fmt.Sprintf("layout %q is unknown", o.Layout), knownLayouts()))
	}
	stdin := 0
	var missing []error
	for _, s := range o.Sources {
		if s == "-" {
			stdin++
		} else if _, err := os.Stat(s); err != nil {
			missing = append(missing, destination.MissingSource(s, err, kindsOfSources))
		}
	}
	if len(missing) == len(o.Sources) && len(o.Remote) == 0 { // else the others are imported
		errs = append(errs, missing...)
	}
	switch {
	case stdin > 1:
		errs = append(errs, errors.New("source - is given twice"))
	case stdin == 1 && (len(o.Types) != 1 || tstat.TypeByName(o.Types[0]) == nil):
		errs = append(errs, errors.New("source - needs `type` with the name of one log type"))
	case stdin == 1 && o.Follow:
		errs = append(errs, errors.New("source - cannot be followed"))
	}
	if len(errs) == 0 {
		return nil
	}
	return hint.AsUsage(errors.Join(errs...))
}

// knownTypes and knownLayouts list what there is, for hints.
func knownTypes() string {
	var names []string
	for _, t := range tstat.Types() {
		names = append(names, t.Name)
	}
	return "known: " + strings.Join(names, ", ")
}

func knownLayouts() string {
	var names []string
	for _, t := range tstat.Types() {
		names = append(names, t.Versions()...)
	}
	slices.Sort(names)
	return "known: " + strings.Join(slices.Compact(names), ", ")
}

func matches(glob, name string) bool {
	ok, _ := path.Match(glob, name) // the pattern was checked
	return ok
}
