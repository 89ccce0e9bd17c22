package mathproto

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

// Stream describes a stream to Stores.
type Stream struct {
	Name  string
	Type  string // log type that StreamType names
	Probe string // name of the probe in the keys of the files
}

// Stores opens the stores in which the logs of each stream are stored.
type Stores interface {
	// Check returns an error if the stores cannot accept a stream.
	Check(Stream) error
	// Open returns the stores of a stream. The caller must call release
	// when it no longer uses them.
	Open(Stream) (list []bulk.Destination, release func() error, err error)
}

// RepositoryOptions configures a Repository.
type RepositoryOptions struct {
	Listen []peer.Options
	// TLS is used to fetch from probes. If it is empty, the repository uses plain HTTP.
	TLS peer.TLS
	// AllowCallback lists the networks from which files may be fetched. If
	// it is empty, only the address that registered the stream is allowed.
	AllowCallback peer.Networks
	FolderLength  time.Duration // see SourceOptions
	// Probes contains the names, networks and time zones of known probes; it may be nil.
	// The repository identifies a probe by its certificate, else by the address that
	// registered the stream, else by the name of the stream.
	Probes *peer.Probes

	// Adopt lists the streams of the math_repo that this repository replaces. Each is
	// registered once, as if its probe had done so, because old probes register only
	// once. With TLS the repository adopts no streams, because old probes do not support
	// TLS.
	Adopt []Registration

	// Import holds the options that all streams share. The repository sets Sources,
	// Remote, Stores, Probe, Limits, Peer and Wake for each stream.
	Import bulk.Options
	Stores Stores
	// OnPass, which may be nil, is called with the stream's name after each pass over a
	// stream. Calls do not overlap.
	OnPass func(stream string, sum *bulk.Summary, err error)

	State string // path of the state file with the registered streams
	Log   *slog.Logger

	timing timing
	lists  listLimits
}

// stateFormat is the format number of the state file.
const stateFormat = 1

// registry is the content of the state file.
type registry struct {
	Next    int
	Streams []*entry
	Adopted []string `json:",omitempty"` // names of adopted streams
}

// entry is a registered stream as the state file records it.
type entry struct {
	ID int
	Registration
	Peer     netip.Addr // peer that last registered the stream
	Identity string     // identity in the peer's certificate; "" without TLS
	// Silent is the time since which every request to CallBackUrl has failed. It is
	// zero if the last request succeeded.
	Silent time.Time `json:",omitzero"`
	// Live records that the stream's logs were stored while they were new. Only a
	// stream with Live set is late when new logs stop arriving.
	Live bool `json:",omitempty"`
}

// Repository accepts registrations and imports all registered streams.
type Repository struct {
	opt       RepositoryOptions
	log       *slog.Logger
	listeners []*peer.Listener
	refusals  rate.Sometimes // limits log lines about refused requests
	unlock    func()
	limits    *bulk.Limits
	lists     *lists
	ctx       context.Context
	wg        sync.WaitGroup

	mu      sync.Mutex
	ended   bool // Run is ending and accepts no streams
	next    int
	streams []*stream // ordered by ID
	adopted []string  // names of adopted streams
	sums    []*bulk.Summary
	passed  sync.Mutex
}

// stream is a registered stream and its import. After its creation, only CallBackUrl,
// Peer, Silent and Live in its entry may change, under the repository's lock.
type stream struct {
	entry
	unanswered bool // the last request of this process to CallBackUrl failed
	probe      string
	zone       *time.Location // zone of the folder names; nil: the default zone
	src        *source
	wake       chan struct{}
	cancel     context.CancelFunc
	done       chan struct{}
	*figures
}

// NewRepository returns a repository that is already listening and has the streams from
// its state file. The caller must then call Run.
func NewRepository(opt RepositoryOptions) (*Repository, error) {
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	opt.timing = cmp.Or(opt.timing, defaultTiming)
	opt.lists = cmp.Or(opt.lists, defaultListLimits)
	opt.FolderLength = cmp.Or(opt.FolderLength, DefaultFolderLength)
	unlock, err := state.Lock(cmp.Or(opt.Import.StateDir, "."), opt.State)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	r := &Repository{opt: opt, log: opt.Log, refusals: rate.Sometimes{First: 10, Interval: 10 * time.Second}, unlock: unlock, limits: bulk.NewLimits(opt.Import.Jobs, opt.Import.Rate), lists: newLists(opt.lists)}
	var saved registry
	if err = state.Load(opt.State, stateFormat, &saved); err == nil || errors.Is(err, fs.ErrNotExist) {
		r.listeners, err = peer.ListenAll(opt.Listen, opt.Log)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	r.next, r.adopted = saved.Next, saved.Adopted
	for _, e := range saved.Streams {
		r.streams = append(r.streams, r.newStream(*e, newFigures()))
	}
	return r, nil
}

// Addrs returns the addresses of the listeners.
func (r *Repository) Addrs() []string { return peer.Addrs(r.listeners) }

// Run accepts registrations and imports the streams. It returns nil when ctx is done.
func (r *Repository) Run(ctx context.Context) error {
	defer r.unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	r.ctx = ctx
	for _, s := range r.streams {
		r.start(s, nil)
	}
	r.mu.Unlock()
	r.adopt(ctx)
	err := newServer(r, r.log).Serve(ctx, r.listeners...)
	cancel()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.wg.Wait()
	return err
}

// Summaries returns the results of the imports that have ended. After Run has returned,
// these include at least one for each stream whose stores could be opened.
func (r *Repository) Summaries() []*bulk.Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sums)
}

// maxSummaries is the maximum number of summaries that a repository keeps. It is large
// enough for the last import of each stream.
const maxSummaries = 2 * MaxStreams

// addSummary adds the result of an import. Peers can restart their imports as often as
// they like, so addSummary merges the oldest results when there are too many. The folders
// and files that these imports left are not kept. The caller holds the lock.
func (r *Repository) addSummary(sum *bulk.Summary) {
	if len(r.sums) == maxSummaries {
		old := bulk.Merge(r.sums[:MaxStreams])
		old.Open, old.PassedOver, old.Left, old.LeftBytes = nil, bulk.PassedOver{}, 0, 0
		r.sums = append([]*bulk.Summary{old}, r.sums[MaxStreams:]...)
	}
	r.sums = append(r.sums, sum)
}

// save writes the registry to the state file. The caller holds the lock.
func (r *Repository) save() error {
	reg := registry{Next: r.next, Adopted: r.adopted}
	for _, s := range r.streams {
		reg.Streams = append(reg.Streams, &s.entry)
	}
	return state.Save(r.opt.State, stateFormat, reg)
}

// saveOrLog saves the registry. It logs an error instead of returning it. The caller
// holds the lock.
func (r *Repository) saveOrLog() {
	if err := r.save(); err != nil {
		r.log.Error("list of streams not saved", "err", err)
	}
}

// newStream returns a stream without starting its import.
func (r *Repository) newStream(e entry, f *figures) *stream {
	probe := r.probe(e)
	s := &stream{entry: e, probe: probe.Name, zone: probe.Location, wake: make(chan struct{}, 1), done: make(chan struct{}), figures: f}
	// Check the address on every connection, because the stream may move.
	allowed := func(a netip.Addr) error {
		r.mu.Lock()
		from := s.Peer
		r.mu.Unlock()
		return r.allowed(a, from)
	}
	opt := s.options(r.opt.Import)
	s.src = newSource(URL{Addr: e.CallBackUrl, Stream: e.StreamName, TLS: r.opt.TLS.Enabled()}, "stream "+e.StreamName, SourceOptions{
		TLS: r.opt.TLS, Location: opt.Location, FolderLength: r.opt.FolderLength, Probe: s.probe,
		Wants: opt.Wants, Log: r.log, timing: r.opt.timing, lists: r.lists,
	}, allowed)
	s.src.onResponse = func(ok bool) { r.recordResponse(s, ok) }
	return s
}

// recordResponse records whether the probe of the stream s has answered a request.
func (r *Repository) recordResponse(s *stream, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.unanswered = !ok
	if ok == s.Silent.IsZero() {
		return
	}
	s.Silent = time.Time{}
	if !ok {
		s.Silent = time.Now().Round(time.Second).UTC()
	}
	r.saveOrLog()
}

// ownerSilence is how long a probe must be silent before another peer may take over a
// stream that the probe registered without TLS.
const ownerSilence = time.Hour

// mayChange returns nil if the peer with this address and identity may change or remove
// the stream, or else an error that says why not. A stream belongs to the certificate
// that registered it. A stream that was registered without TLS belongs to the address
// that registered it, with or without a certificate, until its probe has been silent for
// ownerSilence. The caller holds the repository's lock.
func (s *stream) mayChange(from netip.Addr, identity string) error {
	host := peer.Host(from) // an IPv6 host may change its address within its /64 network
	silent := s.unanswered && !s.Silent.IsZero() && time.Since(s.Silent) >= ownerSilence
	switch {
	case s.Identity != "" && s.Identity != identity:
		return errors.New("the stream belongs to another peer")
	case s.Identity != "", from == s.Peer, host != "" && host == peer.Host(s.Peer), silent:
		return nil
	}
	return hint.Add(fmt.Errorf("the stream belongs to another peer: %s registered it and was active within the last hour", s.Peer),
		fmt.Sprintf("if that probe has moved, remove the stream: send DELETE %s/%d from this machine", importPath, s.ID))
}

// probe returns the probe of the stream e: the probe that e.Identity names, else the
// known probe with the address e.Peer, else a probe with the name of the stream.
func (r *Repository) probe(e entry) peer.Probe {
	name := peer.ProbeOf(e.Identity)
	at, known := r.opt.Probes.ByAddr(e.Peer)
	switch {
	case name == "" && known:
		return at
	case name == "":
		name = e.StreamName
	}
	named, _ := r.opt.Probes.ByName(name)
	return peer.Probe{Name: name, Location: named.Location}
}

// start starts the import of s in a new goroutine. former is the stream that s replaces,
// or nil. The import of s first waits until that stream has released its stores. The
// caller holds the lock.
func (r *Repository) start(s, former *stream) {
	ctx, cancel := context.WithCancel(r.ctx)
	s.cancel = cancel
	r.wg.Go(func() {
		defer close(s.done)
		if former != nil {
			<-former.done
		}
		r.run(ctx, s)
	})
}

// allowed returns nil if the files of a stream may be fetched from the address a. The
// parameter from is the address that registered the stream.
func (r *Repository) allowed(a, from netip.Addr) error {
	switch {
	case len(r.opt.AllowCallback) > 0 && r.opt.AllowCallback.Contains(a):
		return nil
	case len(r.opt.AllowCallback) == 0 && a == from:
		return nil
	case len(r.opt.AllowCallback) == 0:
		return fmt.Errorf("callback address %s is not that of the peer that registered the stream, %s", a, from)
	}
	return fmt.Errorf("callback address %s is not allowed", a)
}

// options returns a copy of opt with the stream's own import options.
func (s *stream) options(opt bulk.Options) *bulk.Options {
	opt.Probe, opt.Follow, opt.Wake = s.probe, true, s.wake
	opt.Location = cmp.Or(s.zone, opt.Location)
	if since := time.Unix(s.StartTime, 0); since.After(opt.Since) {
		opt.Since = since
	}
	return &opt
}

// Limits on the delay before a failed import restarts.
const (
	minRestart = 10 * time.Second
	maxRestart = 10 * time.Minute
)

// run imports a stream until ctx is done. It restarts the import after errors.
func (r *Repository) run(ctx context.Context, s *stream) {
	for b := retry.New(minRestart, maxRestart); ; {
		err := r.follow(ctx, s, b.Reset)
		if ctx.Err() != nil {
			return
		}
		s.recordFailure(err)
		wait := b.Next()
		attrs := []any{"stream", s.StreamName, "err", err, "retry_in", wait.Round(time.Millisecond)}
		r.log.Error("import of stream failed, retrying", append(attrs, hint.Attrs(err)...)...)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-time.After(wait):
		}
	}
}

// follow imports a stream until ctx is done or an error stops the import. It calls
// succeeded after each pass without an error.
func (r *Repository) follow(ctx context.Context, s *stream, succeeded func()) (err error) {
	stores, release, err := r.opt.Stores.Open(Stream{Name: s.StreamName, Type: LogType(s.StreamType).Name, Probe: s.probe})
	if err != nil {
		return err
	}
	defer func() {
		if e := release(); e != nil {
			err = errors.Join(err, e)
		}
	}()
	opt := s.options(r.opt.Import)
	opt.Remote, opt.Stores, opt.Limits = []bulk.Source{s.src}, stores, r.limits
	opt.Peer = func() string { return r.peerOf(s) }
	opt.Log = r.log.With("stream", s.StreamName)
	opt.OnCount = func(total bulk.TypeSummary) {
		s.recordCounts(total)
		if time.Since(total.Last) < archiveAge {
			r.markLive(s)
		}
	}
	opt.OnUnavailable = s.recordWaiting
	opt.OnPass = func(sum *bulk.Summary, err error) {
		s.recordPass(sum, err)
		if err == nil {
			succeeded()
			if s.src.more { // more names are listed
				s.wakeUp()
			}
		}
		if r.opt.OnPass != nil {
			r.passed.Lock()
			defer r.passed.Unlock()
			r.opt.OnPass(s.StreamName, sum, err)
		}
	}
	defer s.src.reset()
	sum, err := bulk.Run(ctx, *opt)
	s.endRun()
	if sum != nil {
		r.mu.Lock()
		r.addSummary(sum)
		r.mu.Unlock()
	}
	return err
}

// markLive records that the stream s has delivered new logs: it sets entry.Live.
func (r *Repository) markLive(s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Live {
		return
	}
	s.Live = true
	r.saveOrLog()
}

// peerOf returns s.peer(). It holds the lock of r during the call.
func (r *Repository) peerOf(s *stream) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.peer()
}

// peer returns the name under which a stream counts toward the limits per peer: its
// certificate's identity, or the network address that registered it. Each stream from
// this machine counts separately, because several probes may use tunnels.
func (e *entry) peer() string {
	return cmp.Or(e.Identity, peer.Host(e.Peer), "stream "+e.StreamName)
}

// wakeUp makes the import start its next pass now.
func (s *stream) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
