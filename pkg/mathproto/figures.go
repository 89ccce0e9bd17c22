package mathproto

import (
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/metrics"
)

// figures are those of a stream. They go on when its import is begun again, in
// another Repository or with another registration.
type figures struct {
	mu     sync.Mutex
	total  bulk.TypeSummary    // of this run of the import
	before bulk.TypeSummary    // of those before it
	stores []bulk.StoreSummary // after the last pass
	// unstored and rejectFile are as of the last pass, too.
	unstored   int64
	rejectFile string
	rows       *metrics.Counts // stored per hour
	last       struct{ stored, poll, err time.Time }
	err        error
}

func newFigures() *figures { return &figures{rows: metrics.NewCounts(time.Hour, 24)} }

// reopened forgets the stores, which may be others now.
func (s *figures) reopened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stores = nil
}

func (s *figures) filed(total bulk.TypeSummary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if total.Files > s.total.Files {
		s.last.stored = time.Now()
	}
	s.rows.Add(time.Now(), total.Rows-s.total.Rows)
	s.total = total
}

func (s *figures) passed(sum *bulk.Summary, err error) {
	s.mu.Lock()
	s.last.poll, s.stores = time.Now(), sum.Stores
	s.unstored, s.rejectFile = 0, sum.RejectFile
	if sum.Unstored != nil {
		s.unstored = sum.Unstored.Files
	}
	s.mu.Unlock()
	if err != nil {
		s.failed(err)
	}
}

// waits records that the import waits for a store.
func (s *figures) waits(stores []bulk.StoreSummary, err error) {
	s.mu.Lock()
	s.stores = stores
	s.mu.Unlock()
	s.failed(err)
}

func (s *figures) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.last.err = err, time.Now()
}

// ended adds up the counts of the runs of a stream's import.
func (s *figures) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before.Add(&s.total)
	s.total = bulk.TypeSummary{}
}

// Continue makes the figures of the streams of a repository that has ended go
// on in this one, which does not run yet.
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
