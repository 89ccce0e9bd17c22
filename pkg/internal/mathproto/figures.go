package mathproto

import (
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// figures are the figures of a stream. They continue when its import restarts,
// in another Repository or with another registration.
type figures struct {
	mu     sync.Mutex
	total  bulk.TypeSummary    // of the current run of the import
	before bulk.TypeSummary    // of earlier runs
	stores []bulk.StoreSummary // after the last pass, or when a store became unavailable
	// unstored and rejectFile are as of the last pass.
	unstored   int64
	rejectFile string
	rows       *metrics.Counts // stored per hour
	last       struct{ stored, poll, err time.Time }
	err        error
}

func newFigures() *figures { return &figures{rows: metrics.NewCounts(time.Hour, 24)} }

// reopened clears the stores, which may have changed.
func (f *figures) reopened() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stores = nil
}

// filed records the counts of the current run of the import.
func (f *figures) filed(total bulk.TypeSummary) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if total.Files > f.total.Files {
		f.last.stored = time.Now()
	}
	f.rows.Add(time.Now(), total.Rows-f.total.Rows)
	f.total = total
}

// passed records the state after a pass, with the error if not everything is
// stored.
func (f *figures) passed(sum *bulk.Summary, err error) {
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

// waiting records that the import waits for a store.
func (f *figures) waiting(stores []bulk.StoreSummary, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stores = stores
	f.setError(err)
}

// failed records the error that ended the import.
func (f *figures) failed(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.setError(err)
}

// setError records the last error; the lock is held.
func (f *figures) setError(err error) { f.err, f.last.err = err, time.Now() }

// ended adds the counts of the run that has ended to those of earlier runs.
func (f *figures) ended() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before.Add(&f.total)
	f.total = bulk.TypeSummary{}
}

// Continue continues the figures of a repository that has ended in this one,
// which must not have started.
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
			s.reopened()
		}
	}
}
