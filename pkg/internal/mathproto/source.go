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
	// DefaultFolderLength is how long Tstat writes to a log folder.
	DefaultFolderLength = time.Hour
	// quiet is how long a file must be unchanged to count as finished, if
	// the probe does not report finished files. A folder is also waited for
	// that much longer than its length.
	quiet = 15 * time.Minute
	// parallel is the number of concurrent requests for versions.
	parallel = 8
)

// SourceOptions configures how a stream is read.
type SourceOptions struct {
	TLS          peer.TLS       // for math+tls
	Location     *time.Location // zone of the folder names; nil: time.Local
	FolderLength time.Duration  // how long Tstat writes to a folder; 0: DefaultFolderLength
	// Probe is the probe's name in the keys of the files; "" stands for the
	// stream's name.
	Probe string
	// Wants reports whether files of a log type and folder time are needed;
	// nil: all.
	Wants func(logType string, folder time.Time) bool
	Log   *slog.Logger // may be nil

	timing timing
	lists  *lists // limits what streams keep; nil: unlimited
}

// NewSource returns the stream of a probe as a source of files.
func NewSource(u URL, opt SourceOptions) bulk.Source {
	return newSource(u, u.String(), opt, nil)
}

// String returns the address in its URL form.
func (u URL) String() string {
	s := u.scheme() + "://" + u.Addr
	if u.Stream != "" {
		s += "/" + u.Stream
	}
	return s
}

// source is a stream of a probe.
type source struct {
	id  string
	opt SourceOptions
	c   *client

	answered func(ok bool) // receives whether the probe sent a list; may be nil

	mu  sync.Mutex
	url URL

	files  map[string]*seen // by listed path, of the last pass
	warned map[string]bool  // by the text of the warning

	// stored maps the hashes of the names of stored files to the
	// number of the list that named them last.
	stored map[uint64]uint32
	lists  uint32 // number of lists read
	seed   maphash.Seed
	wide   bool // more than maxParents: stored is not used
	// The remaining fields are used by Files and reset only.
	after   *listed   // the last name of the previous pass, if it left names; nil: all names are read
	pending int       // names reserved by the stream in opt.lists
	more    bool      // the last pass left names for the next one
	ready   time.Time // when the list may be read again
}

// seen is what is known of a listed file.
type seen struct {
	version
	mtime time.Time
	quiet bool     // unchanged for quiet
	taken *version // the finished version; may be nil
	done  bool     // needs no requests
	gone  bool
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
		files: map[string]*seen{}, warned: map[string]bool{}, stored: map[uint64]uint32{}, seed: maphash.MakeSeed()}
}

// String returns the stream's name, which stays the same when the probe moves.
func (s *source) String() string { return s.id }

// addr returns the current address of the probe.
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

// Files implements bulk.Source. Old probes list all files, in any order,
// including those that still grow.
func (s *source) Files(ctx context.Context) ([]bulk.File, error) {
	files, err := s.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.url.scheme()+"://"+s.addr(), err)
	}
	return files, nil
}

func (s *source) list(ctx context.Context) ([]bulk.File, error) {
	list, err := s.read(ctx)
	if s.answered != nil && ctx.Err() == nil {
		s.answered(err == nil || errors.Is(err, errCrowded))
	}
	if err != nil {
		return nil, err
	}
	s.more = list.more
	now, err := s.look(ctx, list.logs)
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
		case f.taken != nil:
			growing = *f.taken != f.version && !f.quiet
		case !list.newest.After(l.time.Latest):
			growing = !f.quiet || !now.After(l.time.Latest.Add(s.opt.FolderLength+quiet))
		}
		if !growing {
			taken := f.version
			f.taken, f.done = &taken, f.quiet
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

// After reading a list, the source pauses pauseTimes as long as the reading
// took, at most maxPause: long lists must leave time for the others.
const pauseTimes = 4

// read fetches the list.
func (s *source) read(ctx context.Context) (*listing, error) {
	s.opt.lists.release(s.pending)
	s.pending, s.more = 0, false
	if err := retry.Sleep(ctx, time.Until(s.ready)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k := &lister{s: s, rd: s.opt.lists.begin(cancel), has: map[string]bool{}, parents: map[string]string{}}
	defer s.opt.lists.end(k.rd)
	s.mu.Lock()
	s.lists++
	s.mu.Unlock()
	begin := time.Now()
	finished, err := s.c.list(ctx, s.addr(), s.url.Stream, func(date time.Time) func(string) {
		k.date = date
		return k.add
	})
	if err == nil && len(k.parents) > maxParents && !s.wide && s.opt.lists != nil {
		s.reset()
		s.wide = true
		return s.read(ctx)
	}
	if err != nil {
		s.opt.lists.release(s.pending)
		s.pending = 0
		if errors.Is(context.Cause(ctx), errCrowded) {
			err = away(errCrowded)
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

// isStored reports whether the file of a listed name is stored and needs no
// examination.
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

// settler returns the File.Settled of a listed file.
func (s *source) settler(l listed) func() {
	if s.opt.lists == nil || s.wide {
		return nil
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if f := s.files[l.path]; f != nil && f.done {
			s.stored[maphash.String(s.seed, l.name)] = s.lists
			delete(s.files, l.path)
		}
	}
}

// reset clears the state, as before the first pass.
func (s *source) reset() {
	s.opt.lists.release(s.pending)
	s.pending, s.more, s.after, s.wide = 0, false, nil, false
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files, s.stored = map[string]*seen{}, map[uint64]uint32{}
}

// maxWarned limits how many warnings of a stream warnOnce logs and remembers: a
// peer chooses their texts.
const maxWarned = 100

// warnOnce logs a warning, each only once, and at most maxWarned.
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

// look requests the versions of the files that may have changed, and returns
// the probe's time.
func (s *source) look(ctx context.Context, logs []listed) (now time.Time, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	files := make(map[string]*seen, len(logs))
	queue := make(chan listed)
	var wg sync.WaitGroup
	now = time.Now()
	for range parallel {
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
					f.quiet = date.Sub(f.mtime) > quiet
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
			f = &seen{}
		}
		files[l.path] = f
		known := f.done
		s.mu.Unlock()
		if !known {
			queue <- l
		}
	}
	close(queue)
	wg.Wait()
	s.mu.Lock()
	s.files = files // names no longer listed are dropped
	s.mu.Unlock()
	return now, context.Cause(ctx)
}

// opener returns the File.Open of a listed file.
func (s *source) opener(l listed) func(context.Context) (*bulk.Content, error) {
	return func(ctx context.Context) (*bulk.Content, error) {
		f, err := s.c.open(ctx, s.addr, "/"+l.path)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if seen := s.files[l.path]; seen != nil && seen.version != f.v {
			seen.done = false
		}
		s.mu.Unlock()
		return &bulk.Content{ReadSeekCloser: f, Size: f.v.size, ModTime: cmp.Or(f.v.mtime(), l.time.Latest)}, nil
	}
}
