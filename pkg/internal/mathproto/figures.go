package mathproto

import (
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// figures holds the statistics of a stream's import. The counts continue when the import
// restarts, even in another Repository or with a changed registration.
type figures struct {
	mu     sync.Mutex
	total  bulk.TypeSummary    // of the current import run
	before bulk.TypeSummary    // sum of earlier import runs
	stores []bulk.StoreSummary // after the last pass, or when a store became unavailable
	// unstored and rejectFile describe the last pass.
	unstored   int64
	rejectFile string
	rows       *metrics.Counts // rows stored per hour
	last       struct{ stored, poll, err time.Time }
	err        error
}

func newFigures() *figures { return &figures{rows: metrics.NewCounts(time.Hour, 24)} }

// clearStores discards the recorded state of the stores, because a restart may have
// changed them.
func (f *figures) clearStores() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stores = nil
}

// recordCounts records total, the counts of the current import run so far.
func (f *figures) recordCounts(total bulk.TypeSummary) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if total.Files > f.total.Files {
		f.last.stored = time.Now()
	}
	// A store that gets a log later than others may reject rows that were counted.
	// A counter must not decrease.
	total.Rows = max(total.Rows, f.total.Rows)
	f.rows.Add(time.Now(), total.Rows-f.total.Rows)
	f.total = total
}

// recordPass records the results of a pass. err is nil if the pass stored everything.
func (f *figures) recordPass(sum *bulk.Summary, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last.poll, f.stores = time.Now(), sum.Stores
	f.unstored, f.rejectFile = 0, sum.RejectFile
	if sum.Unstored != nil {
		f.unstored = sum.Unstored.Files
	}
	if err != nil {
		f.setError(err)
	}
}

// recordWaiting records that the import waits for a store.
func (f *figures) recordWaiting(stores []bulk.StoreSummary, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stores = stores
	f.setError(err)
}

// recordFailure records the error that ended the import.
func (f *figures) recordFailure(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.setError(err)
}

// setError records err as the last error. The caller holds the lock.
func (f *figures) setError(err error) { f.err, f.last.err = err, time.Now() }

// endRun adds the current import run's counts to those of earlier runs.
func (f *figures) endRun() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before.Add(&f.total)
	f.total = bulk.TypeSummary{}
}

// Continue makes r continue the statistics of an earlier repository of this process,
// which must have ended. If former is nil, Continue does nothing. It must be called
// before Run.
func (r *Repository) Continue(former *Repository) {
	if former == nil {
		return
	}
	byName := map[string]*figures{}
	former.mu.Lock()
	for _, s := range former.streams {
		byName[s.StreamName] = s.figures
	}
	former.mu.Unlock()
	for _, s := range r.streams {
		if f := byName[s.StreamName]; f != nil {
			s.figures = f
			s.clearStores()
		}
	}
}
