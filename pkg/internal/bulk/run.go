// Package bulk is the import engine. It finds log files, skips files that are
// stored already, and imports each other file exactly once.
package bulk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// run is one call to Run.
type run struct {
	opt        Options
	log        *slog.Logger
	limits     *Limits
	rejects    *rejectFile
	locks      []string
	owner      string    // of claims; "" without claims
	readers    sync.Pool // of *tstat.Reader, whose buffers are large
	dests      []*dest
	passStores storeSet // stores that may get files of the pass

	ctx    context.Context // ends the retries of unavailable stores; see probe
	cancel context.CancelFunc
	probes sync.WaitGroup

	mu             sync.Mutex
	changed        chan struct{} // closed when a store is available again
	sum            *Summary
	types          map[string]*TypeSummary
	zone           zoneCheck
	unknown        map[string]bool             // unknown log types with a warning
	examined       map[string]version          // files that need no further examination
	examinedBefore map[string]version          // examined as of the last pass
	passedOver     PassedOver                  // of this pass
	addresses      map[string]anonymize.Source // results of addressesOf, by folder
	warnedOther    bool                        // skipOther has logged its warning
	passedSum      string                      // hash of the paths ignored in the last pass or run; "" if unknown
	unreadable     map[string]string           // path by message: parts of the sources that this pass could not read
	empty          map[string]bool             // sources in which this pass found nothing
	warned         map[string]bool             // reported problems with folders
	sourceErrors   map[string]error            // sources that were unavailable or wrong in this pass, by path or Source.String
	claimed        map[store.Key]bool          // files that the last pass left to other importers
	problems       int                         // folders and files that could not be read or stored
	began          time.Time                   // of this pass

	copies   *copies
	scanned  map[store.Key]*sameKey // the files of the scan, even those that are not imported
	leftOpen []*task                // scanned files that Tstat may still write to
	assigned map[freeRecord]string  // the path of the file to which a free record was assigned

	elsewhere map[elsewhere][]store.Record // logs of other probes, with Options.ProbeGuessed
}

// version is the state of a file when it was examined, to tell whether the file has
// changed since.
type version struct {
	from    string // see task
	size    int64
	mtime   time.Time
	until   time.Time // when it is examined again even if unchanged; zero: never
	lacks   storeSet  // stores that were unavailable
	counted bool      // in run.types
	rejects int64     // in run.types
	err     string    // why it is not stored; "" if it is

	// The reported failures, see task: failure only while a store lacks the file, and
	// rejected until the file is not read again.
	failure  string
	rejected map[reject]bool
}

// Run imports the files that opt selects. If it fails to import a file, it continues with
// the other files and returns an error that wraps ErrFailed. Once the import has started,
// Run returns a summary even if it also returns an error. With Follow it returns when ctx
// ends.
func Run(ctx context.Context, opt Options) (*Summary, error) {
	r, err := newRun(ctx, opt)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if !opt.DryRun {
		var unlock func()
		r.locks, unlock, err = lockAll(opt.StateDir, opt.Sources, opt.Remote, opt.Stores)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	err = r.openStores(ctx)
	if err == nil {
		err = r.await(ctx, r.allStores())
	}
	switch {
	case err != nil:
		return nil, err
	case opt.Follow:
		err = r.follow(ctx)
	default:
		err = r.passes(ctx)
	}
	return r.summary(), err
}

// close ends the background work of the run.
func (r *run) close() {
	r.cancel()
	r.probes.Wait()
	r.rejects.close()
}

// passes imports the files that exist now. Files that a store lacks because it was
// unavailable are imported once it is available again.
func (r *run) passes(ctx context.Context) error {
	for {
		err := r.pass(ctx)
		behind := r.behind()
		if err == nil && behind != 0 && !slices.Contains(r.opt.Sources, "-") && r.await(ctx, behind) == nil {
			continue
		}
		if err == nil {
			err = r.unavailableError()
			if behind := r.behindError(); behind != nil {
				err = errors.Join(err, behind)
			}
		}
		if r.problems > 0 {
			err = errors.Join(err, &failedError{r.problems})
		}
		return err
	}
}

// failedError is ErrFailed with the number of files that were not imported.
type failedError struct{ n int }

func (e *failedError) Error() string {
	if e.n == 1 {
		return "1 file was not imported"
	}
	return fmt.Sprintf("%d %v", e.n, ErrFailed)
}

func (e *failedError) Unwrap() error { return ErrFailed }

func newRun(ctx context.Context, opt Options) (*run, error) {
	if opt.Location == nil {
		opt.Location = time.Local
	}
	if opt.Settle == 0 {
		opt.Settle = DefaultSettle
	}
	if opt.Poll == 0 {
		opt.Poll = DefaultPoll
	}
	if opt.Jobs == 0 {
		opt.Jobs = defaultJobs()
	}
	if opt.ClaimTime == 0 {
		opt.ClaimTime = DefaultClaimTime
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Progress == nil {
		opt.Progress = noProgress{}
	}
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	if len(opt.Stores) == 0 {
		return nil, hint.Usage("no store", "")
	}
	if len(opt.Stores) > maxStores {
		return nil, hint.Usage(fmt.Sprintf("%d stores, at most %d are possible", len(opt.Stores), maxStores), "")
	}
	if n := len(opt.Anonymizers); n > 0 && n != len(opt.Stores) {
		return nil, fmt.Errorf("%d anonymizers for %d stores", n, len(opt.Stores))
	}
	r := &run{
		opt: opt, log: opt.Log,
		rejects:  &rejectFile{dir: opt.StateDir},
		limits:   opt.Limits,
		sum:      &Summary{Probe: opt.Probe, Started: time.Now().UTC(), DryRun: opt.DryRun},
		types:    map[string]*TypeSummary{},
		unknown:  map[string]bool{},
		examined: map[string]version{},
		warned:   map[string]bool{},
		scanned:  map[store.Key]*sameKey{},
		assigned: map[freeRecord]string{},

		addresses: map[string]anonymize.Source{},
		elsewhere: map[elsewhere][]store.Record{},
		changed:   make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	for i, s := range opt.Stores {
		by := opt.anonymizer(i)
		r.dests = append(r.dests, &dest{Destination: s, index: i, anonymize: by, transform: opt.transform(by), wait: retry.New(minRetry, maxRetry)})
	}
	r.passStores = r.allStores()
	var err error
	if r.copies, err = loadCopies(r.copiesState(), !opt.Since.IsZero() || !opt.Until.IsZero()); err != nil {
		return nil, err
	}
	if err := r.loadPassed(); err != nil {
		return nil, err
	}
	r.readers.New = func() any { return new(tstat.Reader) }
	if r.limits == nil {
		r.limits = NewLimits(opt.Jobs, opt.Rate)
	}
	return r, nil
}

type noProgress struct{}

func (noProgress) Total(int, int64) {}
func (noProgress) Add(int64, int64) {}

// follow repeats passes until ctx ends. Once a pass has succeeded, follow
// retries after any failure, for example of a store or a source.
func (r *run) follow(ctx context.Context) error {
	back := retry.New(min(2*r.opt.Poll, maxWait), maxWait)
	for begun := false; ; {
		wait := r.opt.Poll
		changed := r.changes()
		err := r.pass(ctx)
		r.behind()
		if err == nil {
			err = r.unavailableError()
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			begun = true
			back.Reset()
		case isGuess(err):
			return err
		case begun || errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrSource) || r.unavailableError() != nil:
			wait = back.Next()
			r.log.Warn("import failed, retrying", append([]any{"err", err, "retry_in", wait.Round(time.Millisecond)}, hint.Attrs(err)...)...)
		default:
			return err
		}
		if err == nil {
			err = r.behindError() // the other stores are up to date
		}
		if r.opt.OnPass != nil {
			sum := r.summary()
			if err == nil && sum.Unstored != nil {
				err = sum.Unstored
			}
			if err == nil {
				err = r.unreadableError()
			}
			r.opt.OnPass(sum, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		case <-changed:
			back.Reset()
		case <-r.opt.Wake:
			back.Reset()
		}
	}
}

// maxWait is the longest delay before follow retries a failed pass. retryAfter
// is the delay before a file is retried after a failed import, or after it vanished.
const (
	maxWait    = 5 * time.Minute
	retryAfter = 10 * time.Minute
)

// pass imports the files that exist now, except those of unavailable sources; see
// unavailableError.
func (r *run) pass(ctx context.Context) error {
	r.began = time.Now()
	defer r.forgetScan()
	r.passStores = r.allStores()
	for _, d := range r.dests {
		d.mu.Lock()
		d.behind = StoreSummary{}
		d.mu.Unlock()
	}
	tasks, err := r.find(ctx)
	if err != nil {
		return err
	}
	groups, stored, err := r.skipStored(ctx, tasks)
	if err != nil {
		return err
	}
	if err := r.retry(ctx, func() error { return r.prepare(ctx, groups) }); err != nil {
		return err
	}
	for _, t := range stored {
		if r.claimed[t.key] { // by another importer when the last pass ended
			r.count(t, func(s *TypeSummary) { s.Others++ })
		}
	}
	var files int
	var bytes int64
	for _, g := range groups {
		for _, t := range g {
			files++
			bytes += t.size
			t.planned = t.size
		}
	}
	r.opt.Progress.Total(files, bytes)
	r.mu.Lock()
	r.sum.Left, r.sum.LeftBytes, r.sum.Planned = int64(files), bytes, len(r.sourceErrors) == 0
	r.mu.Unlock()
	if err := r.workAll(ctx, groups); err != nil {
		return err
	}
	if !r.opt.DryRun {
		if err := r.copies.save(); err != nil {
			r.log.Warn("list of copies not saved: they will be read again in the next run", "err", err)
		}
	}
	return nil
}

// lookupKeys is the maximum number of keys in one lookup.
const lookupKeys = 1000

// anyTyped reports whether any store accepts rows.
func (r *run) anyTyped() bool {
	return slices.ContainsFunc(r.available(r.passStores), func(d *dest) bool {
		st, _ := d.store()
		_, raw := st.(store.RawStore)
		return !raw
	})
}

// do imports one file and counts the result. An error ends the pass.
func (r *run) do(ctx context.Context, t *task) error {
	if ctx.Err() != nil || r.isUnavailable(t.source) {
		return nil
	}
	err := r.importFile(ctx, t)
	switch {
	case err == nil:
		var until time.Time
		if t.gone {
			until = time.Now().Add(retryAfter)
		}
		r.markExamined(t, until)
		r.done(t)
		return nil
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, store.ErrUnavailable), isGuess(err):
		return fmt.Errorf("%s: %w", t.path, err)
	case errors.Is(err, ErrSource) && t.source != nil:
		r.markSourceUnavailable(t.source.String(), err)
		return nil
	case (errors.Is(err, errNoTime) || errors.Is(err, errEmpty)) && len(r.opt.Sources) == 1 && r.opt.Sources[0] == t.path: // the user named this file
		return hint.AsUsage(err)
	case hint.IsUsage(err): // from the store, and the same for any file
		return err
	}
	if text := err.Error(); text != t.failure {
		t.failure = text
		r.count(t, func(s *TypeSummary) { s.Failed++ })
		r.problem(t.path, err)
	}
	t.err = err.Error()
	r.markExamined(t, time.Now().Add(retryAfter))
	r.done(t)
	return nil
}

// done counts a planned file as finished, and reports it to the stores.
func (r *run) done(t *task) {
	r.mu.Lock()
	r.sum.Left--
	r.sum.LeftBytes -= t.planned
	r.mu.Unlock()
	if t.typ == nil {
		return
	}
	for _, d := range r.dests {
		if t.lacks.has(d) {
			continue // reported once the store has the file
		}
		if st, err := d.store(); err == nil {
			st.Done(t.info())
		}
	}
}

func isGuess(err error) bool {
	var ge *guessError
	return errors.As(err, &ge)
}

// retry calls f until it returns nil or an error other than store.ErrUnavailable. It
// waits for an available store before each further call.
func (r *run) retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		if err := r.await(ctx, r.allStores()); err != nil {
			return err
		}
	}
}

// countProblem counts a file or a part of a source that was not imported.
func (r *run) countProblem() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems++
}

// problem counts and logs a file that was not imported.
func (r *run) problem(path string, err error) {
	r.countProblem()
	text := strings.TrimPrefix(err.Error(), path+": ")
	r.log.Error("file not imported", append([]any{"file", path, "err", text}, hint.Attrs(err)...)...)
}

// markExamined records that t's file need not be examined again until it changes. If
// until is not zero, the file is also examined again after that time.
func (r *run) markExamined(t *task, until time.Time) {
	for _, d := range r.dests {
		if t.lacks.has(d) {
			d.recordLack(t)
		}
	}
	if t.lacks == 0 && until.IsZero() {
		t.rejected = nil
	}
	if t.lacks == 0 {
		t.failure = ""
		if until.IsZero() && t.remote != nil && t.remote.Settled != nil {
			t.remote.Settled()
		}
	}
	if r.opt.Follow || len(r.dests) > 1 {
		r.mu.Lock()
		r.examined[t.path] = version{t.from, t.size, t.mtime, until, t.lacks, t.counted, t.rejects, t.err, t.failure, t.rejected}
		r.mu.Unlock()
	}
}

// skip counts a file that is stored already. It does nothing while a store may
// lack the file.
func (r *run) skip(t *task) {
	if t.lacks == 0 {
		r.countOnce(t, func(s *TypeSummary) { s.Skipped++ })
	}
}

// countOnce counts a file that is stored, skipped or to be imported, unless it was counted
// before. f adds the file to the other counts of its log type.
func (r *run) countOnce(t *task, f func(*TypeSummary)) {
	if t.counted {
		return
	}
	t.counted = true
	r.count(t, func(s *TypeSummary) {
		if t.other {
			s.OtherTransform++
		}
		s.extendSpan(t.time.Time)
		f(s)
	})
}

// stdinPath names standard input in records and messages.
const stdinPath = "-"
