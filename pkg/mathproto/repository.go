package mathproto

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/state"
	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// Stream is what a store is opened for.
type Stream struct {
	Name  string
	Type  string // log type of its StreamType
	Probe string // in the keys of its files
}

// RepositoryOptions are those of RunRepository.
type RepositoryOptions struct {
	Listen []peer.Options
	// TLS is used to fetch from probes; empty: plain HTTP.
	TLS peer.TLS
	// AllowCallback are the networks that probes are fetched from; none: only
	// the address that registered the stream.
	AllowCallback peer.Networks
	FolderLength  time.Duration // see SourceOptions
	// Probes names the probes of streams that no certificate names, by the
	// address that registered them, and knows the zones of all. nil: streams
	// are named by themselves.
	Probes *peer.Probes

	// Adopt are streams of math_repo, which are registered as if their probes
	// had done so: an old probe registers only once. A stream that was adopted
	// is not adopted again. With TLS none is: old probes do not have it.
	Adopt []Registration

	// Import holds what is the same for all streams. Sources, Remote, Stores,
	// Probe, Limits and Wake are set for each.
	Import bulk.Options
	// Check reports whether the stores can take a stream; nil: they can.
	Check func(Stream) error
	// Open opens the stores of a stream, and release ends their use.
	Open func(context.Context, Stream) (stores []store.Store, release func() error, err error)
	// Passed is called with a stream's name after each pass over it; calls do
	// not overlap.
	Passed func(stream string, sum *bulk.Summary, err error)

	State string // file that keeps the streams
	Log   *slog.Logger
	// Started is told how to look at the streams, before Ready; nil: nobody
	// wants to know.
	Started func(streams func() []Status)
	// Ready is called with the addresses that are listened on; nil: nobody
	// wants to know.
	Ready func([]net.Addr)

	timing timing
}

// stateFormat is the number of the format of the state file.
const stateFormat = 1

// registry is what the state file holds.
type registry struct {
	Next    int
	Streams []*entry
	Adopted []string `json:",omitempty"` // names of streams that were adopted
}

// entry is a registered stream.
type entry struct {
	ID int
	Registration
	Peer     netip.Addr // who registered it last
	Identity string     // of its certificate; "" without TLS
}

// repository is a running repository.
type repository struct {
	opt    RepositoryOptions
	log    *slog.Logger
	limits *bulk.Limits
	ctx    context.Context
	wg     sync.WaitGroup

	mu      sync.Mutex
	ended   bool // no stream is begun any more
	next    int
	streams []*stream // by ID
	adopted []string  // see registry
	sums    []*bulk.Summary
	passed  sync.Mutex
}

// stream is a registered stream and its import. Of its entry only CallBackUrl
// and Peer change, under the repository's lock.
type stream struct {
	entry
	probe  string
	zone   *time.Location // of its folders; nil: as of the others
	src    *source
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	total  bulk.TypeSummary // of this run of the import
	before bulk.TypeSummary // of those before it
	last   struct {
		poll    time.Time
		err     string
		errTime time.Time
	}
}

// RunRepository takes registrations and imports all registered streams until
// ctx ends. It returns a summary for each stream.
func RunRepository(ctx context.Context, opt RepositoryOptions) ([]*bulk.Summary, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.timing == (timing{}) {
		opt.timing = defaultTiming
	}
	unlock, err := state.Lock(cmp.Or(opt.Import.StateDir, "."), opt.State)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	defer unlock()
	r := &repository{opt: opt, log: opt.Log, limits: bulk.NewLimits(opt.Import.Jobs, opt.Import.Rate)}
	var saved registry
	if err := state.Load(opt.State, stateFormat, &saved); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list, err := listenAll(ctx, opt.Listen)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.ctx, r.next, r.adopted = ctx, saved.Next, saved.Adopted
	r.mu.Lock()
	for _, e := range saved.Streams {
		s := r.newStream(*e)
		r.streams = append(r.streams, s)
		r.start(s, nil)
	}
	r.mu.Unlock()
	r.adopt(ctx)
	if opt.Started != nil {
		opt.Started(r.statuses)
	}
	if opt.Ready != nil {
		var addrs []net.Addr
		for _, l := range list {
			addrs = append(addrs, l.Addr())
		}
		opt.Ready(addrs)
	}
	err = serve(ctx, list, r, opt.Log)
	cancel(err)
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.wg.Wait()
	return r.sums, err
}

// save writes the registry; the lock is held.
func (r *repository) save() error {
	reg := registry{Next: r.next, Adopted: r.adopted}
	for _, s := range r.streams {
		reg.Streams = append(reg.Streams, &s.entry)
	}
	return state.Save(r.opt.State, stateFormat, reg)
}

// adopt registers the streams of math_repo.
func (r *repository) adopt(ctx context.Context) {
	for _, reg := range r.opt.Adopt {
		name := reg.StreamName
		if slices.Contains(r.adopted, name) {
			continue
		}
		r.mu.Lock()
		known := slices.ContainsFunc(r.streams, func(s *stream) bool { return s.StreamName == name })
		r.mu.Unlock()
		if known { // its probe has registered it here
			continue
		}
		r.adopted = append(r.adopted, name)
		if err := r.adoptOne(ctx, reg); err != nil {
			r.adopted = r.adopted[:len(r.adopted)-1] // the next start tries again
			attrs := []any{"stream", name, "type", reg.StreamType, "callback", reg.CallBackUrl, "err", err}
			r.log.Warn("stream of math_repo not taken over: start its probe again, so that it registers", append(attrs, hint(err)...)...)
		}
	}
}

func (r *repository) adoptOne(ctx context.Context, reg Registration) error {
	if r.opt.TLS.Enabled() {
		return errors.New("the repository wants TLS, which old probes do not have")
	}
	if err := checkAddr(reg.CallBackUrl); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(reg.CallBackUrl)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.opt.timing.dial)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	// It is taken for the peer that registered the stream.
	e := entry{Registration: reg, Peer: addrs[0].Unmap().WithZone("")}
	if _, err := r.checkEntry(ctx, e); err != nil {
		return err
	}
	_, err = r.accept(e)
	return err
}

// newStream makes a stream, whose import does not run yet.
func (r *repository) newStream(e entry) *stream {
	probe := r.probe(e)
	s := &stream{entry: e, probe: probe.Name, zone: probe.Location, wake: make(chan struct{}, 1), done: make(chan struct{})}
	// The policy is looked up at each connection: the stream may move.
	allowed := func(a netip.Addr) error {
		r.mu.Lock()
		from := s.Peer
		r.mu.Unlock()
		return r.allowed(a, from)
	}
	opt := s.options(r.opt.Import)
	s.src = newSource(URL{Addr: e.CallBackUrl, Stream: e.StreamName, TLS: r.opt.TLS.Enabled()}, "stream "+e.StreamName, SourceOptions{
		TLS: r.opt.TLS, Location: opt.Location, FolderLength: r.opt.FolderLength, Probe: s.probe,
		Wants: opt.Wants, Log: r.log, timing: r.opt.timing,
	}, allowed)
	return s
}

// probe returns the probe of a stream: its certificate's, the one at its
// address, or one with the stream's name.
func (r *repository) probe(e entry) peer.Probe {
	name := peer.ProbeOf(e.Identity)
	at, known := r.opt.Probes.At(e.Peer)
	switch {
	case name == "" && known:
		return at
	case name == "":
		name = e.StreamName
	}
	named, _ := r.opt.Probes.Named(name)
	return peer.Probe{Name: name, Location: named.Location}
}

// start begins the import of a stream, when that of a former one, if any, has
// let go of its stores; the lock is held.
func (r *repository) start(s, former *stream) {
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

// allowed applies the rule for callback addresses.
func (r *repository) allowed(a, from netip.Addr) error {
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

// options are those of a stream's import.
func (s *stream) options(opt bulk.Options) *bulk.Options {
	opt.Probe, opt.Follow, opt.Wake = s.probe, true, s.wake
	opt.Location = cmp.Or(s.zone, opt.Location)
	if since := time.Unix(s.StartTime, 0); since.After(opt.Since) {
		opt.Since = since
	}
	return &opt
}

// Bounds of the wait before a stream's import that has ended is begun again.
const (
	minRestart = 10 * time.Second
	maxRestart = 10 * time.Minute
)

// run imports a stream until ctx ends.
func (r *repository) run(ctx context.Context, s *stream) {
	for wait := minRestart; ; wait = min(2*wait, maxRestart) {
		err := r.follow(ctx, s)
		if ctx.Err() != nil {
			return
		}
		s.failed(err)
		attrs := []any{"stream", s.StreamName, "err", err, "again_in", wait}
		r.log.Error("the import of a stream has ended", append(attrs, hint(err)...)...)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-time.After(wait):
		}
	}
}

// hint is what an error says about what the user can do, for the log.
func hint(err error) []any {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		return []any{"hint", h.Hint()}
	}
	return nil
}

// follow imports a stream until ctx ends or it cannot go on.
func (r *repository) follow(ctx context.Context, s *stream) (err error) {
	stores, release, err := r.opt.Open(ctx, Stream{Name: s.StreamName, Type: LogType(s.StreamType).Name, Probe: s.probe})
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
	opt.Log = r.log.With("stream", s.StreamName)
	opt.Filed, opt.Waits = s.filed, s.failed
	opt.Passed = func(sum *bulk.Summary, err error) {
		s.passed(err)
		if r.opt.Passed != nil {
			r.passed.Lock()
			defer r.passed.Unlock()
			r.opt.Passed(s.StreamName, sum, err)
		}
	}
	sum, err := bulk.Run(ctx, *opt)
	s.ended()
	if sum != nil {
		r.mu.Lock()
		r.sums = append(r.sums, sum)
		r.mu.Unlock()
	}
	return err
}

func (s *stream) filed(total bulk.TypeSummary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total = total
}

func (s *stream) passed(err error) {
	s.mu.Lock()
	s.last.poll = time.Now()
	s.mu.Unlock()
	if err != nil {
		s.failed(err)
	}
}

func (s *stream) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.err, s.last.errTime = err.Error(), time.Now()
}

// ended adds up the counts of the runs of a stream's import.
func (s *stream) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before.Files += s.total.Files
	s.before.Rows += s.total.Rows
	s.before.Rejects += s.total.Rejects
	s.before.Failed += s.total.Failed
	s.before.Bytes += s.total.Bytes
	s.before.Last = s.total.Last
	s.total = bulk.TypeSummary{}
}

// Status is what became of a stream, and the answer to GET
// /DBSImport/{id}?status=1. Its counts begin with the process. Fields are
// added, never renamed.
type Status struct {
	Registration
	Probe   string
	Files   int64 `json:"files"` // stored
	Rows    int64 `json:"rows"`
	Rejects int64 `json:"rejects"`
	Failed  int64 `json:"failed"` // files not stored, see the log
	Bytes   int64 `json:"bytes"`  // on disk, of the files
	// LastFolder is the time of the newest folder of which a file is stored,
	// and LagSeconds how long ago that is.
	LastFolder time.Time `json:"last_folder,omitzero"`
	LagSeconds float64   `json:"lag_seconds,omitempty"`
	LastPoll   time.Time `json:"last_poll,omitzero"`
	LastError  string    `json:"last_error,omitempty"`
	ErrorTime  time.Time `json:"last_error_time,omitzero"`
}

func (s *stream) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Registration: s.Registration, Probe: s.probe,
		Files: s.before.Files + s.total.Files, Rows: s.before.Rows + s.total.Rows,
		Rejects: s.before.Rejects + s.total.Rejects, Failed: s.before.Failed + s.total.Failed,
		Bytes:      s.before.Bytes + s.total.Bytes,
		LastFolder: s.total.Last, LastPoll: s.last.poll, LastError: s.last.err, ErrorTime: s.last.errTime,
	}
	if st.LastFolder.IsZero() {
		st.LastFolder = s.before.Last
	}
	if !st.LastFolder.IsZero() {
		st.LagSeconds = time.Since(st.LastFolder).Round(time.Second).Seconds()
	}
	return st
}

// statuses returns those of all streams, by ID.
func (r *repository) statuses() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Status
	for _, s := range r.streams {
		list = append(list, s.status())
	}
	return list
}

// ServeHTTP answers as math_repo does.
func (r *repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	rest, ok := strings.CutPrefix(req.URL.Path, importPath)
	id, hasID := strings.CutPrefix(rest, "/")
	if !ok || rest != "" && (id == "" || !hasID || strings.Contains(id, "/")) {
		http.NotFound(w, req)
		return
	}
	switch {
	case req.Method == http.MethodPost && hasID:
		answer(w, http.StatusMethodNotAllowed, "method not allowed")
	case req.Method == http.MethodPost:
		code, text := r.register(req)
		answer(w, code, text)
	case req.Method == http.MethodGet && !hasID:
		r.getAll(w)
	case req.Method == http.MethodGet:
		r.get(w, req, id)
	case req.Method == http.MethodDelete && hasID:
		code, text := r.remove(req, id)
		answer(w, code, text)
	case req.Method == http.MethodDelete:
		answer(w, http.StatusInternalServerError, "internal error")
	default:
		http.NotFound(w, req)
	}
}

func (r *repository) getAll(w http.ResponseWriter) {
	r.mu.Lock()
	all := map[string]Registration{}
	for _, s := range r.streams {
		all[strconv.Itoa(s.ID)] = s.Registration
	}
	r.mu.Unlock()
	answerJSON(w, textPlain, all)
}

func answerJSON(w http.ResponseWriter, contentType string, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		answer(w, http.StatusInternalServerError, "internal error")
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Write(text)
}

// find returns the stream of an id; the lock is held.
func (r *repository) find(id string) (s *stream, code int, text string) {
	n, err := strconv.Atoi(id)
	if err != nil {
		return nil, http.StatusBadRequest, "invalid entry id"
	}
	i := slices.IndexFunc(r.streams, func(s *stream) bool { return s.ID == n })
	if i < 0 {
		return nil, http.StatusNotFound, "entry not found"
	}
	return r.streams[i], http.StatusOK, ""
}

func (r *repository) get(w http.ResponseWriter, req *http.Request, id string) {
	r.mu.Lock()
	s, code, text := r.find(id)
	var v any
	contentType := textPlain
	if s != nil {
		v = s.Registration
		if req.URL.Query().Get("status") == "1" {
			v, contentType = s.status(), "application/json"
		}
	}
	r.mu.Unlock()
	if s == nil {
		answer(w, code, text)
		return
	}
	answerJSON(w, contentType, v)
}

// remove ends a stream. What is stored stays.
func (r *repository) remove(req *http.Request, id string) (code int, text string) {
	identity, err := peer.IdentityOf(req.TLS)
	if err != nil {
		return http.StatusForbidden, "certificate not understood"
	}
	r.mu.Lock()
	s, code, text := r.find(id)
	if s == nil {
		r.mu.Unlock()
		return code, text
	}
	if s.Identity != identity {
		r.mu.Unlock()
		return http.StatusForbidden, "the stream is another peer's"
	}
	all := r.streams
	r.streams = slices.DeleteFunc(slices.Clone(all), func(o *stream) bool { return o == s })
	if err := r.save(); err != nil {
		r.streams = all
		r.mu.Unlock()
		r.log.Error("a stream could not be removed", "stream", s.StreamName, "err", err)
		return http.StatusInternalServerError, "internal error"
	}
	r.mu.Unlock()
	s.cancel()
	<-s.done
	r.log.Info("stream removed", "stream", s.StreamName, "peer", req.RemoteAddr)
	return http.StatusOK, "entry removed"
}

// register takes a stream, or the new address of one.
func (r *repository) register(req *http.Request) (code int, text string) {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	if err != nil {
		return http.StatusInternalServerError, "internal error"
	}
	var reg Registration
	if len(body) > maxBody || json.Unmarshal(body, &reg) != nil {
		return http.StatusBadRequest, "invalid JSON data"
	}
	e, code, err := r.check(req, reg)
	if err == nil {
		code, err = r.accept(e)
	}
	if err != nil {
		attrs := []any{"stream", reg.StreamName, "type", reg.StreamType, "callback", reg.CallBackUrl, "peer", req.RemoteAddr, "err", err}
		r.log.Warn("registration refused", append(attrs, hint(err)...)...)
		if code == http.StatusInternalServerError {
			return code, "internal error"
		}
		return code, err.Error()
	}
	return http.StatusOK, "new entry created"
}

// check makes the entry of a registration, unless something is wrong with it.
func (r *repository) check(req *http.Request, reg Registration) (e entry, code int, err error) {
	from, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return e, http.StatusInternalServerError, err
	}
	reg.XMLName.Space, reg.XMLName.Local = "", ""
	e = entry{Registration: reg, Peer: from.Addr().Unmap().WithZone("")}
	if e.Identity, err = peer.IdentityOf(req.TLS); err != nil {
		return e, http.StatusForbidden, err
	}
	code, err = r.checkEntry(req.Context(), e)
	return e, code, err
}

// checkEntry reports what is wrong with an entry whose peer is known.
func (r *repository) checkEntry(ctx context.Context, e entry) (code int, err error) {
	if err := store.ValidProbe(e.StreamName); err != nil {
		return http.StatusBadRequest, fmt.Errorf("invalid stream name: use 1 to 64 letters, digits, '_' and '-'")
	}
	typ := LogType(e.StreamType)
	if typ == nil {
		return http.StatusBadRequest, errors.New("unknown stream type")
	}
	if e.StartTime > maxTime || e.StartTime < -maxTime {
		return http.StatusBadRequest, errors.New("no such start time")
	}
	if err := checkAddr(e.CallBackUrl); err != nil {
		return http.StatusBadRequest, errors.New("callback address: no host:port")
	}
	host, _, err := net.SplitHostPort(e.CallBackUrl)
	if err != nil {
		return http.StatusBadRequest, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.opt.timing.dial)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return http.StatusBadRequest, errors.New("callback address cannot be resolved")
	}
	err = nil
	for _, a := range addrs {
		if err = r.allowed(a.Unmap().WithZone(""), e.Peer); err == nil {
			break
		}
	}
	if err != nil {
		return http.StatusForbidden, err
	}
	if r.opt.Check != nil {
		if err := r.opt.Check(Stream{Name: e.StreamName, Type: typ.Name, Probe: r.probe(e).Name}); err != nil {
			return http.StatusBadRequest, err
		}
	}
	return http.StatusOK, nil
}

// accept takes a stream that is right.
func (r *repository) accept(e entry) (code int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return http.StatusServiceUnavailable, errors.New("the repository ends")
	}
	i := slices.IndexFunc(r.streams, func(s *stream) bool { return s.StreamName == e.StreamName })
	if i < 0 {
		if len(r.streams) >= MaxStreams {
			return http.StatusInsufficientStorage, fmt.Errorf("%d streams are registered, and that is the limit", MaxStreams)
		}
		e.ID = r.next
		s := r.newStream(e)
		r.next++
		r.streams = append(r.streams, s)
		if err := r.save(); err != nil {
			r.next--
			r.streams = r.streams[:len(r.streams)-1]
			return http.StatusInternalServerError, err
		}
		r.start(s, nil)
		r.log.Info("stream registered", "stream", e.StreamName, "type", e.StreamType, "callback", e.CallBackUrl)
		return http.StatusOK, nil
	}
	s := r.streams[i]
	if s.Identity != e.Identity {
		return http.StatusForbidden, errors.New("the stream is another peer's")
	}
	e.ID = s.ID
	changed := s
	probe := r.probe(e)
	if e.StreamType != s.StreamType || e.StartTime != s.StartTime || probe.Name != s.probe || probe.Location != s.zone {
		changed = r.newStream(e)
	}
	oldUrl, oldPeer := s.CallBackUrl, s.Peer
	if e != s.entry || changed != s {
		s.CallBackUrl, s.Peer = e.CallBackUrl, e.Peer
		r.streams[i] = changed
		if err := r.save(); err != nil {
			s.CallBackUrl, s.Peer, r.streams[i] = oldUrl, oldPeer, s
			return http.StatusInternalServerError, err
		}
	}
	if changed != s {
		r.log.Info("stream changed", "stream", e.StreamName, "type", e.StreamType, "callback", e.CallBackUrl)
		s.cancel()
		r.start(changed, s)
		return http.StatusOK, nil
	}
	if e.CallBackUrl != oldUrl {
		r.log.Info("stream moved", "stream", e.StreamName, "callback", e.CallBackUrl, "before", oldUrl)
		s.src.move(e.CallBackUrl)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return http.StatusOK, nil
}
