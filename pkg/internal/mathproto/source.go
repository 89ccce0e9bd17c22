package mathproto

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"path"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

const (
	// DefaultFolderLength is the default of SourceOptions.FolderLength.
	DefaultFolderLength = time.Hour
	// quietPeriod is how long a file in the newest folder must be unchanged to count
	// as finished if the probe does not send finishedHeader. Such a file also does
	// not count as finished until that long after Tstat has stopped writing to its
	// folder; see FolderLength. A finished file that changes again must also be
	// unchanged for that long.
	quietPeriod = 15 * time.Minute
	// parallelHeads is the number of concurrent HEAD requests.
	parallelHeads = 8
)

// SourceOptions configures a source.
type SourceOptions struct {
	TLS          peer.TLS       // for math+tls
	Location     *time.Location // zone of the folder names; nil: time.Local
	FolderLength time.Duration  // how long Tstat writes to a folder; 0: DefaultFolderLength
	// Probe is the name of the probe in the keys of the files; "" means the name of the
	// stream.
	Probe string
	// Wants reports whether to import the files with the given log type and folder
	// time. If it is nil, all files are imported.
	Wants func(logType string, folder time.Time) bool
	Log   *slog.Logger // may be nil

	timing timing
	lists  *lists // limits of all streams together; nil: unlimited
}

// NewSource returns the stream at u as a source of files.
func NewSource(u URL, opt SourceOptions) bulk.Source {
	return newSource(u, u.String(), opt, nil)
}

// String returns u in the form that ParseURL accepts.
func (u URL) String() string {
	s := u.scheme() + "://" + u.Addr
	if u.Stream != "" {
		s += "/" + u.Stream
	}
	return s
}

// source implements bulk.Source for a probe's stream.
type source struct {
	id  string
	opt SourceOptions
	c   *client

	onResponse func(ok bool) // called after each request for the list; ok reports whether the probe sent it; may be nil

	mu  sync.Mutex
	url URL

	files  map[string]*fileState // files of the last pass by listed path
	warned map[string]bool       // warnings that were already logged

	// stored maps the hash of each stored file's name to the number of the
	// latest list that contained the name.
	stored      map[uint64]uint32
	lists       uint32 // number of lists read
	seed        maphash.Seed
	manyParents bool // there are more than maxParents parents, so stored is not used
	// Only Files and reset use the fields below.
	after   *listedFile // the last name of the previous pass if names remain for this one; otherwise nil
	pending int         // names that this source has reserved in opt.lists
	more    bool        // names remain for the next pass
	ready   time.Time   // earliest time at which to request the list again
}

// fileState is what a source knows about a file that the probe lists.
type fileState struct {
	version
	mtime    time.Time
	quiet    bool     // unchanged for quietPeriod
	finished *version // latest version that was reported as finished; may be nil
	settled  bool     // needs no further HEAD requests
	gone     bool
}

func newSource(u URL, id string, opt SourceOptions, allowed func(netip.Addr) error) *source {
	opt.Location = cmp.Or(opt.Location, time.Local)
	opt.FolderLength = cmp.Or(opt.FolderLength, DefaultFolderLength)
	opt.Probe = cmp.Or(opt.Probe, u.Stream)
	if opt.Wants == nil {
		opt.Wants = func(string, time.Time) bool { return true }
	}
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	opt.timing = cmp.Or(opt.timing, defaultTiming)
	return &source{id: id, opt: opt, c: newClient(u.TLS, opt.TLS, allowed, opt.timing), url: u,
		files: map[string]*fileState{}, warned: map[string]bool{}, stored: map[uint64]uint32{}, seed: maphash.MakeSeed()}
}

// String returns the ID of the source, which stays the same when the probe's address
// changes.
func (s *source) String() string { return s.id }

// addr returns the probe's current address.
func (s *source) addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url.Addr
}

func (s *source) move(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url.Addr = addr
}

// Files implements bulk.Source. It marks the files that may still be growing, because old
// probes list unfinished files too, in any order.
func (s *source) Files(ctx context.Context) ([]bulk.File, error) {
	files, err := s.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.url.scheme()+"://"+s.addr(), err)
	}
	return files, nil
}

func (s *source) list(ctx context.Context) ([]bulk.File, error) {
	list, err := s.read(ctx)
	if s.onResponse != nil && ctx.Err() == nil {
		s.onResponse(err == nil || errors.Is(err, errListsTooLarge))
	}
	if err != nil {
		return nil, err
	}
	s.more = list.more
	now, err := s.requestVersions(ctx, list.logs)
	if err != nil {
		return nil, err
	}
	var files []bulk.File
	for _, l := range list.logs {
		f := s.files[l.path]
		if f.gone {
			continue
		}
		growing := false
		switch {
		case list.finished:
		case f.finished != nil:
			growing = *f.finished != f.version && !f.quiet
		case !list.newest.After(l.time.Latest):
			growing = !f.quiet || !now.After(l.time.Latest.Add(s.opt.FolderLength+quietPeriod))
		}
		if !growing {
			taken := f.version
			f.finished, f.settled = &taken, f.quiet
		}
		files = append(files, bulk.File{
			Path: s.url.scheme() + "://" + s.addr() + "/" + l.name, Name: l.name, Dir: s.url.Stream,
			Key:  store.Key{Probe: s.opt.Probe, Folder: l.folder, File: l.file},
			Time: l.time, Next: list.next[path.Dir(l.name)], Size: f.size, ModTime: f.mtime, Growing: growing,
			Open: s.opener(l), Settled: s.settler(l),
		})
	}
	return files, nil
}

// pauseTimes is the length of the pause after reading a list, as a multiple of the time
// it took to read the list. The pause is at most maxPause. It gives other streams time
// to read long lists.
const pauseTimes = 4

// read fetches the probe's list of files and selects the names to process in this pass.
func (s *source) read(ctx context.Context) (*listing, error) {
	s.opt.lists.release(s.pending)
	s.pending, s.more = 0, false
	if err := retry.Sleep(ctx, time.Until(s.ready)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k := &lister{s: s, rd: s.opt.lists.begin(cancel), selected: map[string]bool{}, parents: map[string]string{}}
	defer s.opt.lists.end(k.rd)
	s.mu.Lock()
	s.lists++
	s.mu.Unlock()
	begin := time.Now()
	finished, err := s.c.list(ctx, s.addr(), s.url.Stream, func(date time.Time) func(string) {
		k.probeTime = date
		return k.add
	})
	if err == nil && len(k.parents) > maxParents && !s.manyParents && s.opt.lists != nil {
		s.reset()
		s.manyParents = true
		return s.read(ctx)
	}
	if err != nil {
		s.opt.lists.release(s.pending)
		s.pending = 0
		if errors.Is(context.Cause(ctx), errListsTooLarge) {
			err = transient(errListsTooLarge)
		}
		return nil, err
	}
	s.ready = time.Now().Add(min(pauseTimes*time.Since(begin), maxPause))
	s.mu.Lock()
	maps.DeleteFunc(s.stored, func(_ uint64, list uint32) bool { return list != s.lists })
	s.mu.Unlock()
	list := k.listing()
	list.finished = finished
	return list, nil
}

// isStored reports whether the file that the probe lists as name is stored and needs no
// further checks.
func (s *source) isStored(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := maphash.String(s.seed, name)
	_, known := s.stored[id]
	if known {
		s.stored[id] = s.lists
	}
	return known
}

// settler returns the bulk.File.Settled function for l, or nil if s does not record
// stored files. The function records l as stored, unless l needs further HEAD requests.
func (s *source) settler(l listedFile) func() {
	if s.opt.lists == nil || s.manyParents {
		return nil
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if f := s.files[l.path]; f != nil && f.settled {
			s.stored[maphash.String(s.seed, l.name)] = s.lists
			delete(s.files, l.path)
		}
	}
}

// reset restores the state that the source had before its first pass.
func (s *source) reset() {
	s.opt.lists.release(s.pending)
	s.pending, s.more, s.after, s.manyParents = 0, false, nil, false
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files, s.stored = map[string]*fileState{}, map[uint64]uint32{}
}

// maxWarned is the maximum number of warnings that warnOnce logs per stream. A limit is
// needed because the peer chooses what the warnings quote.
const maxWarned = 100

// warnOnce logs a warning unless the same warning was logged before. It logs at most
// maxWarned warnings per stream.
func (s *source) warnOnce(message string, attrs ...any) {
	s.mu.Lock()
	text := message + fmt.Sprint(attrs...)
	fresh := !s.warned[text] && len(s.warned) < maxWarned
	if fresh {
		s.warned[text] = true
	}
	s.mu.Unlock()
	if fresh {
		s.opt.Log.Warn(message, append([]any{"stream", s.id}, attrs...)...)
	}
}

// requestVersions requests the current version of each file in logs, except files that
// need no further HEAD requests. It returns the time on the probe's clock.
func (s *source) requestVersions(ctx context.Context, logs []listedFile) (now time.Time, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	files := make(map[string]*fileState, len(logs))
	queue := make(chan listedFile)
	var wg sync.WaitGroup
	now = time.Now()
	for range parallelHeads {
		wg.Go(func() {
			for l := range queue {
				if ctx.Err() != nil {
					continue
				}
				v, date, err := s.c.head(ctx, s.addr(), "/"+l.path)
				s.mu.Lock()
				f := files[l.path]
				switch {
				case err == nil:
					now = date
					f.version, f.mtime, f.gone = v, cmp.Or(v.mtime(), l.time.Latest), false
					f.quiet = date.Sub(f.mtime) > quietPeriod
				case errors.Is(err, fs.ErrNotExist):
					f.gone = true
				case errors.Is(err, bulk.ErrSource):
					cancel(err)
				default:
					f.gone = true
				}
				s.mu.Unlock()
				if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bulk.ErrSource) {
					s.warnOnce("probe lists a file, but does not describe it", "file", l.name, "err", err)
				}
			}
		})
	}
	for _, l := range logs {
		s.mu.Lock()
		f := s.files[l.path]
		if f == nil {
			f = &fileState{}
		}
		files[l.path] = f
		known := f.settled
		s.mu.Unlock()
		if !known {
			queue <- l
		}
	}
	close(queue)
	wg.Wait()
	s.mu.Lock()
	s.files = files // forget names that left the list
	s.mu.Unlock()
	return now, context.Cause(ctx)
}

// opener returns the bulk.File.Open function for l.
func (s *source) opener(l listedFile) func(context.Context) (*bulk.Content, error) {
	return func(ctx context.Context) (*bulk.Content, error) {
		f, err := s.c.open(ctx, s.addr, "/"+l.path)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if seen := s.files[l.path]; seen != nil && seen.version != f.v {
			seen.settled = false
		}
		s.mu.Unlock()
		return &bulk.Content{ReadSeekCloser: f, Size: f.v.size, ModTime: cmp.Or(f.v.mtime(), l.time.Latest)}, nil
	}
}
