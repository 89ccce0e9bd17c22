package dbstream

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// work describes rows stored in a window.
type work struct {
	rows int64
	time time.Duration // time spent storing the rows
}

type windowWork struct {
	start int64
	work
}

// storedFile describes a committed file and the windows that contain its rows.
type storedFile struct {
	time    time.Time // of its folder
	windows map[int64]work
	low     int64 // the earliest time of its rows; math.MaxInt64: unknown
}

// series determines when the windows of a stream are finished, that is, expected to
// get no more rows. It owns the connection over which it announces finished windows in
// ascending order.
type series struct {
	c       *scheduler
	name    string
	view    string
	started bool
	refused bool // the refusal was logged; guarded by c.mu

	mu sync.Mutex
	// Files that are not stored yet. The importer has announced those in
	// expected and is importing those in begun.
	expected map[store.Key]*expectedFiles
	begun    map[store.Key]time.Time
	// Files that may be stored, because the connection broke while they were
	// committed.
	unknown map[store.Key]storedFile
	order   []store.Key    // keys of expected, by time; may still include stored files
	stored  []storedFile   // stored files that wait for earlier files, by time
	open    map[int64]work // windows with rows that are not finished
	last    int64          // the last finished window
	front   time.Time      // the latest folder that advance has processed
	tail    int64          // the last window of the file in that folder
	queue   []windowWork   // finished, not announced yet
	input   int64          // the last announced window

	wake chan struct{}
	done chan struct{} // closed when the connection has ended for good
}

// expectedFiles counts the expected files of a key. A key has several files if several
// Tstat processes write folders of the same name.
type expectedFiles struct {
	time   time.Time // of their folder
	left   int       // not stored yet
	undone int       // stored, but fileDone was not called yet
}

// start starts a goroutine that registers the stream and announces its windows. last is
// the last announced window, or -1 if unknown. open lists the later windows.
func (s *series) start(view string, last int64, open []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return
	}
	s.started = true
	s.view, s.input, s.last = view, max(last, 0), last
	for _, start := range open {
		s.open[start] = work{}
	}
	go s.run()
}

// expect replaces the expected files with those that the importer now plans to import;
// see Store.Plan.
func (s *series) expect(files []store.FileInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected, s.order = map[store.Key]*expectedFiles{}, nil
	for _, f := range files {
		if s.expected[f.Key] == nil {
			s.expected[f.Key] = &expectedFiles{time: f.Time}
			s.order = append(s.order, f.Key)
		}
		s.expected[f.Key].left++
	}
	slices.SortFunc(s.order, func(a, b store.Key) int { return s.expected[a].time.Compare(s.expected[b].time) })
	s.advance()
}

// begin records that the import of a file has started.
func (s *series) begin(k store.Key, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun[k] = t
	delete(s.unknown, k) // it was not stored
}

// end records that an import of the file with key k has ended without storing the file.
// An expected file remains expected until fileDone is called.
func (s *series) end(k store.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begun, k)
	s.advance()
}

// fileDone records that an expected file was stored, skipped or abandoned.
func (s *series) fileDone(k store.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.unknown[k]; ok { // skipped, because it is stored
		delete(s.unknown, k)
		s.addStored(f)
	}
	if e := s.expected[k]; e != nil && e.undone > 0 {
		e.undone--
	} else if e != nil && e.left > 0 {
		e.left--
	}
	s.advance()
}

// commit records that a file was stored.
func (s *series) commit(k store.Key, f storedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begun, k)
	if e := s.expected[k]; e != nil && e.left > 0 {
		e.left--
		e.undone++
	}
	s.addStored(f)
	s.advance()
}

// commitUnknown records that the connection broke while a file was committed. If the
// server has stored it, the importer skips it, so fileDone follows without begin.
func (s *series) commitUnknown(k store.Key, f storedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unknown[k] = f
}

func (s *series) addStored(f storedFile) {
	i, _ := slices.BinarySearchFunc(s.stored, f.time, func(f storedFile, t time.Time) int { return cmp.Or(f.time.Compare(t), -1) })
	s.stored = slices.Insert(s.stored, i, f)
}

// advance processes the stored files in the order of their folders. It stops before a
// file if an earlier file is not stored yet. Each file finishes the windows that end
// before its earliest row, because later files should have no rows in those windows. Rows
// in windows that are already finished are not announced.
func (s *series) advance() {
	for len(s.stored) > 0 && !s.missing(s.stored[0].time) {
		f := s.stored[0]
		s.stored = s.stored[1:]
		if f.low != math.MaxInt64 {
			s.finishBefore(f.low - f.low%s.c.window)
		}
		if !f.time.Before(s.front) && len(f.windows) > 0 {
			s.front, s.tail = f.time, slices.Max(slices.Collect(maps.Keys(f.windows)))
		}
		for start, w := range f.windows {
			if start > s.last {
				sum := s.open[start]
				s.open[start] = work{sum.rows + w.rows, sum.time + w.time}
			}
		}
	}
}

// missing reports whether any file with a folder time of t or earlier is not stored
// yet.
func (s *series) missing(t time.Time) bool {
	for _, other := range s.begun {
		if !other.After(t) {
			return true
		}
	}
	for len(s.order) > 0 {
		if e := s.expected[s.order[0]]; e.left > 0 {
			return !e.time.After(t)
		}
		s.order = s.order[1:]
	}
	return false
}

// finishBefore finishes all open windows that start before limit, and queues them to
// be announced.
func (s *series) finishBefore(limit int64) {
	for _, start := range slices.Sorted(maps.Keys(s.open)) {
		if start >= limit {
			break
		}
		s.queue = append(s.queue, windowWork{start, s.open[start]})
		s.last = start
		delete(s.open, start)
	}
	if len(s.queue) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// finish finishes all windows before s.tail, the last window with rows from the latest
// file. That window may get rows from the next file, too.
func (s *series) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishBefore(s.tail)
}

// next returns the next window to announce. ok is false if the queue is empty.
func (s *series) next() (w windowWork, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return w, false
	}
	return s.queue[0], true
}

// announced removes the first window from the queue. It is called once this window has
// been announced.
func (s *series) announced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input = s.queue[0].start
	s.queue = s.queue[1:]
}

func (s *series) isClosed() bool {
	select {
	case <-s.c.closed:
		return true
	default:
		return false
	}
}
