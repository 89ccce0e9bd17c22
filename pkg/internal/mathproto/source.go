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
	// quiet is how long after its last change a file of a probe that does not
	// say what is finished counts as finished, and how much longer than its
	// length a folder is waited for.
	quiet = 15 * time.Minute
	// parallel is how many files are asked about at a time.
	parallel = 8
)

// SourceOptions say how a stream is read.
type SourceOptions struct {
	TLS          peer.TLS       // for math+tls
	Location     *time.Location // zone of the folder names; nil: time.Local
	FolderLength time.Duration  // how long Tstat writes to a folder; 0: DefaultFolderLength
	// Probe is the probe's name in the keys of the files; "" is the stream's
	// name.
	Probe string
	// Wants reports whether files of a log type and folder time are wanted;
	// nil: all.
	Wants func(logType string, folder time.Time) bool
	Log   *slog.Logger // nil: none

	timing timing
	lists  *lists // bounds what streams keep; nil: not bounded
}

// NewSource returns the stream of a probe as a source of files.
func NewSource(u URL, opt SourceOptions) bulk.Source {
	return newSource(u, u.String(), opt, nil)
}

// String is the address as it is written.
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

	answered func(ok bool) // called with whether the probe sent a list; nil: not called

	mu  sync.Mutex
	url URL

	files  map[string]*seen // by listed path, of the last pass
	warned map[string]bool  // by the text of the warning

	// stored maps the hashes of the names of files that were stored to the
	// number of the list that named them last.
	stored map[uint64]uint32
	lists  uint32 // that were read
	seed   maphash.Seed
	wide   bool // there are more than maxParents: stored is not used
	// What follows is used by Files and reset only.
	after   *listed   // the last name of the pass before, if it left names; nil: all names are read
	pending int       // names that the stream has reserved in opt.lists
	more    bool      // the last pass left names for the next one
	ready   time.Time // when the list may be read again
}

// seen is what is known of a listed file.
type seen struct {
	version
	mtime time.Time
	quiet bool     // unchanged for a while
	taken *version // which was finished; nil: none yet
	done  bool     // it is not asked about any more
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

// String names the stream; it stays when the probe moves.
func (s *source) String() string { return s.id }

// addr is where the probe is now.
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

// Files implements bulk.Source. Old probes list all there is, in any order,
// also what grows.
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

// After a list is read, the source pauses pauseTimes as long as the reading took,
// maxPause at most: long lists leave time to the others.
const pauseTimes = 4

// read asks for the list.
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

// isStored reports whether the file of a listed name needs no further look.
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

// reset forgets all files, as before the first pass.
func (s *source) reset() {
	s.opt.lists.release(s.pending)
	s.pending, s.more, s.after, s.wide = 0, false, nil, false
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files, s.stored = map[string]*seen{}, map[uint64]uint32{}
}

// maxWarned bounds how many warnings of a stream warnOnce logs and remembers: a peer
// chooses their texts.
const maxWarned = 100

// warnOnce logs a warning, each only once, and at most maxWarned.
func (s *source) warnOnce(message, key, value string) {
	s.mu.Lock()
	fresh := !s.warned[message+value] && len(s.warned) < maxWarned
	if fresh {
		s.warned[message+value] = true
	}
	s.mu.Unlock()
	if fresh {
		s.opt.Log.Warn(message, "stream", s.id, key, value)
	}
}

// look asks for the versions of the files that may have changed, and returns
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
					s.warnOnce("the probe lists a file without describing it: "+err.Error(), "file", l.name)
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
	s.files = files // what is not listed any more is forgotten
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
