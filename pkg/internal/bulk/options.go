package bulk

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	destination "github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/filter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Options selects what Run imports and how. Zero values select the defaults.
type Options struct {
	// Sources names log trees, log folders and log files, compressed or
	// not; "-" is Stdin.
	Sources []string
	// Remote lists sources other than files and folders.
	Remote []Source
	// Stores receive the rows: every file is stored in all of them. Run
	// does not close them.
	Stores []Destination

	Probe string // name of the probe; required, see store.ValidProbe
	// ProbeGuessed means that the user did not choose Probe. The run then
	// ends with an error if a store has the text of a file under another
	// probe.
	ProbeGuessed bool
	Location     *time.Location // zone of the folder names; nil: time.Local
	Stdin        io.Reader      // content of the source "-"

	Types       []string      // globs that match log types; nil: all
	Since       time.Time     // folder time, inclusive; zero: no limit
	Until       time.Time     // folder time, exclusive; zero: no limit
	Folder      string        // name of the log folder for "-" and for files outside of log folders
	Layout      string        // Tstat version of headerless files, see tstat.ReaderOptions
	IncludeOpen bool          // import files that may still grow
	Settle      time.Duration // age at which the newest folder counts as finished; 0: 2h
	Replace     bool          // replace files that are already stored
	// AcceptDamaged stores the intact part of damaged compressed files.
	AcceptDamaged bool
	// Exclude lists globs of files and folders to ignore. They match log
	// types, or paths below the source.
	Exclude []string
	// Match assigns log types to files that are not named like logs, or are outside of
	// log folders.
	Match []Match

	// Anonymize rewrites the text of logs before it is parsed or copied;
	// nil disables this. SourceIs states whether addresses are already
	// anonymized in folders whose logs do not record it. With Unknown, the
	// log of TCP flows in the same folder decides.
	Anonymize *anonymize.Anonymizer
	SourceIs  anonymize.Source
	// Anonymizers, unless empty, replaces Anonymize. It holds an anonymizer for each of
	// Stores; a store with a nil anonymizer gets the original text.
	Anonymizers []*anonymize.Anonymizer

	// Selection selects the rows and columns to store; nil selects all. It
	// is not possible with stores that keep files unchanged; see
	// store.RawStore.
	Selection *filter.Selection

	Jobs int // concurrent files; 0: the number of cores that this process may use
	// Limits limits this run together with others; nil means that Jobs and
	// Rate limit only this run.
	Limits *Limits
	// Peer returns the name of the peer from which the files come, for
	// Limits. It is called for each file. If Peer is nil, all files come
	// from one peer.
	Peer       func() string
	MaxRejects int     // a file is not stored if it has rejects but no rows, or if its rejects exceed both this number and 1 % of its lines
	Rate       float64 // MiB of source text per second for all jobs together; 0: no limit
	// RetryTimeout is how long a store is retried after a transient
	// failure, such as a server restart. 0 disables retries.
	RetryTimeout time.Duration
	// ClaimTime is how long a store.Claimer keeps the claims of this
	// process after it dies; 0: DefaultClaimTime.
	ClaimTime time.Duration
	DryRun    bool          // only report what would be imported
	Follow    bool          // keep importing new logs until ctx ends
	Poll      time.Duration // interval between the passes of Follow; 0: 10s

	// Wake makes Follow start its next pass at once; it may be nil.
	Wake <-chan struct{}

	// OnPass is called after each pass of Follow, with the totals so far
	// and an error if not everything is stored; it may be nil.
	OnPass func(*Summary, error)
	// OnCount is called after each change of the counts, with the totals so
	// far; it may be nil. It must return quickly.
	OnCount func(total TypeSummary)
	// OnPassedOver is called after each scan of the sources, with the ignored
	// files that look like logs; it may be nil. Summary contains them too.
	OnPassedOver func(PassedOver)
	// OnUnavailable is called when a store becomes unavailable, with the
	// state of all stores; it may be nil.
	OnUnavailable func(stores []StoreSummary, err error)

	StateDir string       // folder of locks, reject files and state
	Log      *slog.Logger // receives log messages; may be nil
	Progress Progress     // may be nil
}

// Defaults of Options.
const (
	DefaultMaxRejects = 100
	DefaultSettle     = 2 * time.Hour
	DefaultPoll       = 10 * time.Second
)

// Progress receives the progress of a run. Its methods may be called
// concurrently.
type Progress interface {
	// Total sets the number of files to import and their size on disk in
	// bytes.
	Total(files int, bytes int64)
	// Add reports bytes read and rows stored since the last call.
	Add(bytes, rows int64)
}

// Validate checks all options except the stores, so that no store is created
// for a run that cannot start. It returns usage errors.
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
			errs = append(errs, fmt.Errorf("`exclude` %q: bad pattern", glob))
		}
	}
	for _, m := range o.Match {
		if err := m.check(); err != nil {
			errs = append(errs, fmt.Errorf("`match`: %w", err))
		}
	}
	if err := o.Selection.Check(o.wantedTypes()); err != nil {
		errs = append(errs, err)
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
	if len(missing) == len(o.Sources) && len(o.Remote) == 0 { // otherwise the other sources are imported
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

// wantedTypes returns the log types that the options select. If all sources are
// files, it returns only their types.
func (o *Options) wantedTypes() []*tstat.LogType {
	var named []*tstat.LogType
	for _, s := range o.Sources {
		t := o.typeOfFile(filepath.Base(s))
		if info, err := os.Stat(s); t == nil || err != nil || !info.Mode().IsRegular() || len(o.Types) > 0 {
			named = tstat.Types()
			break
		}
		named = append(named, t)
	}
	if len(o.Sources) == 0 {
		named = tstat.Types()
	}
	return slices.DeleteFunc(named, func(t *tstat.LogType) bool { return !o.selects(t.Name, t.Name) })
}

// knownTypes and knownLayouts list the known log types and versions, for hints.
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
