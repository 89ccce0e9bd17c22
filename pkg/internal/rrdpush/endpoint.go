package rrdpush

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/remotewrite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

// Limits of an endpoint. mPlane's old exporter sends the new points of all files in one
// POST, about 3,000 points. Its first POST contains the whole history.
const (
	maxBody   = 256 << 20
	maxPoints = 2 << 20
	maxPosts  = 16 // POSTs processed at a time
	maxOpen   = 64 // POSTs being received or processed at a time
	maxConns  = 1024
	maxName   = 255 // bytes of a file name

	// DefaultMaxMetrics is more than the 7,341 RRDs that Tstat can write.
	DefaultMaxMetrics = 10_000
	maxProbes         = 1000    // probes with stored metrics
	batchOf           = 1 << 16 // points per batch
	// Metrics are sent in parts, so that POSTs of other probes do not wait long.
	// The first part has fewestMetrics metrics. The size doubles, up to
	// mostMetrics, after a part that takes less than shortPart, and is halved after
	// a part that takes more than longPart. Creating a Whisper file can take
	// several syncs of a slow disk.
	fewestMetrics, mostMetrics = 10, 1000
	shortPart, longPart        = 100 * time.Millisecond, 500 * time.Millisecond
	// maxAhead is how far ahead of this machine's clock a point may be.
	maxAhead = 24 * time.Hour
	// quietFor is the minimum interval between warnings about a probe's left-out
	// points.
	quietFor = 10 * time.Minute
)

// EndpointOptions configures an Endpoint. If neither Target.Probe nor Probes is set,
// the endpoint refuses peers without a client certificate.
type EndpointOptions struct {
	Target
	Listen []peer.Options
	// Probes maps addresses of peers without a client certificate to probes. The
	// name of an unknown peer is built from its address. If Probes is nil, all
	// peers without a certificate are named Target.Probe.
	Probes *peer.Probes
	// MaxMetrics is the maximum number of distinct metrics of a probe since the
	// endpoint started; 0 means DefaultMaxMetrics.
	MaxMetrics int
}

// EndpointStats holds the counts of an Endpoint since its start.
type EndpointStats struct {
	Posts    int64 `json:"posts"`    // accepted
	Refused  int64 `json:"refused"`  // POSTs that were not accepted
	Points   int64 `json:"points"`   // stored or spooled
	Negative int64 `json:"negative"` // negative percentiles left out
	Unnamed  int64 `json:"unnamed"`  // points of files that have no metric name
	// NotFinite counts left-out values that mPlane's exporters write as Infinity or
	// NaN.
	NotFinite int64 `json:"not_finite"`
	NotTstat  int64 `json:"not_tstat"`  // left-out points of files that Tstat does not write
	OverLimit int64 `json:"over_limit"` // left-out points of metrics beyond MaxMetrics
	Ahead     int64 `json:"ahead"`      // left-out points more than a day ahead of the clock
	// TooOld, OutOfOrder and DestRefused (other reasons) count points in Points
	// that the destination did not store: points that a remote write destination
	// refused, and points older than the retention of their Whisper file.
	TooOld      int64 `json:"too_old"`
	OutOfOrder  int64 `json:"out_of_order"`
	DestRefused int64 `json:"destination_refused"`

	Spooled     int64     `json:"-"` // bytes in the spool after the last points
	Down        error     `json:"-"` // error of the destination for the last points, or nil
	LastSuccess time.Time `json:"-"` // when points were last stored or spooled
}

// LeftOut returns the number of points counted by NotTstat, OverLimit and Ahead.
func (s *EndpointStats) LeftOut() int64 { return s.NotTstat + s.OverLimit + s.Ahead }

// NotStored returns the number of points counted by Points that the destination
// refused or ignored.
func (s *EndpointStats) NotStored() int64 { return s.TooOld + s.OutOfOrder + s.DestRefused }

// Endpoint is the repository side of mPlane's indirect export. It receives RRD
// points over HTTP. It is an http.Handler for exportPath.
type Endpoint struct {
	opt       EndpointOptions
	unlock    func() // unlocks the destination
	listeners []*peer.Listener
	slots     chan struct{}   // has an element for each POST being processed
	open      chan struct{}   // has an element for each POST being received or processed
	seed      maphash.Seed    // of the hashes in senders
	storing   context.Context // of what is stored; not of a POST, since the points count even if the peer does not wait
	stop      func()          // cancels storing
	mu        sync.Mutex      // guards sink and spool
	sink      graphite.Sink
	spool     *graphite.Spool

	counting sync.Mutex
	stats    EndpointStats
	senders  map[string]*sender // by probe
	refusals rate.Sometimes     // limits warnings about refused POSTs
}

// sender is the state of a probe that sends points.
type sender struct {
	posts     int                 // in progress; guarded by Endpoint.counting
	receiving chan struct{}       // held by the one POST being received; guards metrics
	metrics   map[uint64]struct{} // hashes of the names of files with a metric
	leftOut   rate.Sometimes      // limits warnings about left-out points
}

// NewEndpoint opens the destination and starts to listen. Run closes the destination
// and the listeners.
func NewEndpoint(opt EndpointOptions) (*Endpoint, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	key := opt.Dest.key()
	unlock, err := state.Lock(opt.StateDir, "rrd-push endpoint\n"+key)
	if err != nil {
		return nil, fmt.Errorf("endpoint to %s: %w", opt.Dest.name(), err)
	}
	opt.MaxMetrics = cmp.Or(opt.MaxMetrics, DefaultMaxMetrics)
	e := &Endpoint{
		opt: opt, unlock: unlock, slots: make(chan struct{}, maxPosts), open: make(chan struct{}, maxOpen), seed: maphash.MakeSeed(), senders: map[string]*sender{},
		refusals: rate.Sometimes{First: 20, Interval: time.Second},
	}
	e.storing, e.stop = context.WithCancel(context.Background())
	e.opt.leftOut = func(n remotewrite.LeftOut) {
		e.count(func(s *EndpointStats) {
			s.TooOld += n.TooOld
			s.OutOfOrder += n.OutOfOrder
			s.DestRefused += n.Refused + n.Ahead + n.Ignored
		})
	}
	if e.sink, e.spool, err = e.opt.open(hash("endpoint\n" + key)); err != nil {
		e.stop()
		unlock()
		return nil, err
	}
	if e.listeners, err = peer.ListenAll(opt.Listen, opt.Log); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// close closes the listeners and the destination. POSTs that are still in progress fail.
func (e *Endpoint) close() error {
	defer e.unlock()
	peer.CloseAll(e.listeners)
	e.stop()
	e.mu.Lock() // waits for the end of a Send
	defer e.mu.Unlock()
	if e.spool != nil {
		if n, size, err := e.spool.Len(); err == nil && n > 0 {
			e.opt.Log.Warn("points wait in the spool", "url", e.opt.Dest.name(), "bytes", size,
				"hint", "they are sent when an endpoint with this destination runs again")
		}
	}
	return e.sink.Close()
}

// Addrs returns the addresses on which the endpoint listens.
func (e *Endpoint) Addrs() []string { return peer.Addrs(e.listeners) }

// To returns the destination, without secrets.
func (e *Endpoint) To() string { return e.opt.Dest.String() }

// Stats returns the current counts.
func (e *Endpoint) Stats() EndpointStats {
	e.counting.Lock()
	defer e.counting.Unlock()
	return e.stats
}

// Continue makes e continue the counts of an earlier endpoint that has ended. It does
// nothing if that endpoint is nil. Call it before Run.
func (e *Endpoint) Continue(former *Endpoint) {
	if former == nil {
		return
	}
	stats := former.Stats()
	e.count(func(s *EndpointStats) {
		stats.Spooled, stats.Down = s.Spooled, s.Down // the destination may have changed
		*s = stats
	})
}

// count locks the counts of e and calls change with them.
func (e *Endpoint) count(change func(*EndpointStats)) {
	e.counting.Lock()
	defer e.counting.Unlock()
	change(&e.stats)
}

// record records the state of the destination and the spool after a send that
// returned err. The caller must hold e.mu.
func (e *Endpoint) record(err error) {
	var size int64
	if e.spool != nil {
		var lenErr error
		_, size, lenErr = e.spool.Len()
		err = errors.Join(cmp.Or(err, e.spool.Down()), lenErr)
	}
	e.count(func(s *EndpointStats) { s.Spooled, s.Down = size, err })
}

// flushEvery is the interval between attempts to flush the spool.
const flushEvery = 30 * time.Second

// Run serves until ctx is done, and finishes requests in progress. It returns nil
// if it stopped because ctx is done.
func (e *Endpoint) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle(exportPath, e)
	mux.Handle(exportPath+"/{$}", e)
	flushing, stop := context.WithCancel(ctx)
	defer stop()
	var flusher sync.WaitGroup
	flusher.Go(func() {
		for retry.Sleep(flushing, flushEvery) == nil {
			e.flush(flushing)
		}
	})
	server := &peer.Server{Handler: mux, MaxConns: maxConns, ReadTimeout: 5 * time.Minute, Grace: 10 * time.Second, Log: e.opt.Log}
	err := server.Serve(ctx, e.listeners...)
	stop()
	e.stop() // the flusher may wait for the end of a Send
	flusher.Wait()
	return errors.Join(err, e.close())
}

// flush sends the points in the spool.
func (e *Endpoint) flush(ctx context.Context) {
	if e.spool == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.spool.Flush(ctx)
	if err != nil {
		e.opt.Log.Debug("spool not flushed", "err", err)
	}
	e.record(err)
}

// ServeHTTP receives points in a POST. Like mPlane's old repository, it responds with
// status 200 and no body, or with 400 if the POST is not a list of points. It responds
// with 413 if the body is too large, and with 503 if it currently cannot store the
// points.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	probe, err := e.probe(r)
	if err != nil {
		e.refuse(w, r, http.StatusForbidden, "Unknown probe", err)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		e.refuse(w, r, http.StatusMethodNotAllowed, "Method not allowed", errors.New(r.Method))
		return
	}
	if t := r.Header.Get("Content-Type"); t != "application/json" {
		e.refuse(w, r, http.StatusBadRequest, "Invalid format", fmt.Errorf("content type %q", t))
		return
	}
	key := probe
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		// Hosts without a certificate may share a name. They must not wait for each
		// other.
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			key += " " + peer.Host(from.Addr())
		}
	}
	from, err := e.startPost(key)
	if err != nil {
		e.refuse(w, r, http.StatusServiceUnavailable, "Too many probes", err)
		return
	}
	defer e.endPost(key, from)
	// Wait for the probe's other POST first, so that a waiting POST does not count as
	// open.
	for _, place := range []chan struct{}{from.receiving, e.open} {
		select {
		case place <- struct{}{}:
			defer func() { <-place }()
		case <-r.Context().Done():
			return
		}
	}
	var n EndpointStats // of this request
	var notStored error
	slot := &slot{slots: e.slots}
	defer slot.Release()
	body := peer.NewPlaceReader(r.Context(), http.MaxBytesReader(w, r.Body, maxBody), slot, bodyPiece)
	err = e.read(body, probe, from, &n, func(metrics []graphite.Metric) error {
		notStored = e.store(e.storing, metrics)
		return notStored
	})
	var large *http.MaxBytesError
	switch {
	case notStored != nil:
		e.refuse(w, r, http.StatusServiceUnavailable, "Cannot store now", err)
	case errors.As(err, &large), errors.Is(err, errTooMany):
		e.refuse(w, r, http.StatusRequestEntityTooLarge, "Too large", err)
	case err != nil:
		e.refuse(w, r, http.StatusBadRequest, "Not a result (or exception)", err)
	default:
		e.reportLeftOut(r, probe, from, &n) // a refused POST is sent again, and counted then
		e.count(func(s *EndpointStats) {
			s.Posts++
			s.LastSuccess = time.Now()
		})
		w.WriteHeader(http.StatusOK)
	}
}

// startPost returns the sender for a POST from a probe, and creates the sender if
// necessary. The caller must call endPost at the end of the POST. startPost returns an
// error if there are too many probes.
func (e *Endpoint) startPost(probe string) (*sender, error) {
	e.counting.Lock()
	defer e.counting.Unlock()
	s := e.senders[probe]
	if s == nil {
		if len(e.senders) >= maxProbes {
			return nil, fmt.Errorf("more than %d probes", maxProbes)
		}
		s = &sender{receiving: make(chan struct{}, 1), metrics: map[uint64]struct{}{}, leftOut: rate.Sometimes{First: 1, Interval: quietFor}}
		e.senders[probe] = s
	}
	s.posts++
	return s, nil
}

// endPost records the end of a POST from the given probe and sender. It deletes the
// sender if it has no other POSTs and no metrics.
func (e *Endpoint) endPost(probe string, s *sender) {
	e.counting.Lock()
	defer e.counting.Unlock()
	if s.posts--; s.posts == 0 && len(s.metrics) == 0 {
		delete(e.senders, probe)
	}
}

// store sends metrics to the sink in parts, so that other POSTs can send their metrics
// between two parts.
func (e *Endpoint) store(ctx context.Context, metrics []graphite.Metric) error {
	for size := fewestMetrics; len(metrics) > 0; {
		n := min(size, len(metrics))
		took, err := e.send(ctx, metrics[:n])
		if err != nil {
			return err
		}
		metrics = metrics[n:]
		switch {
		case took < shortPart:
			size = min(2*size, mostMetrics)
		case took > longPart:
			size = max(size/2, 1)
		}
	}
	return nil
}

// send sends metrics to the sink in one part, and returns how long that took.
func (e *Endpoint) send(ctx context.Context, metrics []graphite.Metric) (took time.Duration, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	begin, lost := time.Now(), e.lost()
	err = e.sink.Send(ctx, metrics)
	e.record(err)
	if err != nil {
		return 0, err
	}
	if e.opt.Stored != nil {
		e.opt.Stored(metrics)
	}
	lost = e.lost() - lost
	e.count(func(s *EndpointStats) {
		s.Points += int64(graphite.Count(metrics))
		s.TooOld += lost
	})
	return time.Since(begin), nil
}

// lost returns the number of points that Whisper files did not store because they were
// too old, or 0 if the destination is not Whisper files. The caller must hold e.mu.
func (e *Endpoint) lost() int64 {
	if w, ok := e.sink.(*graphite.Whisper); ok {
		return w.Lost()
	}
	return 0
}

// reportLeftOut adds n, the counts of left-out points in a POST, to the counts of the
// endpoint, and logs them.
func (e *Endpoint) reportLeftOut(r *http.Request, probe string, from *sender, n *EndpointStats) {
	first := false
	e.count(func(s *EndpointStats) {
		first = s.NotFinite == 0 && n.NotFinite > 0
		s.Negative += n.Negative
		s.Unnamed += n.Unnamed
		s.NotFinite += n.NotFinite
		s.NotTstat += n.NotTstat
		s.OverLimit += n.OverLimit
		s.Ahead += n.Ahead
	})
	if first {
		e.opt.Log.Warn("values that are not finite left out", "peer", r.RemoteAddr, "probe", probe, "not_finite", n.NotFinite)
	}
	if n.LeftOut() > 0 {
		from.leftOut.Do(func() {
			e.opt.Log.Warn("points left out", "peer", r.RemoteAddr, "probe", probe,
				"not_tstat", n.NotTstat, "over_limit", n.OverLimit, "limit", e.opt.MaxMetrics, "ahead", n.Ahead)
		})
	}
}

func (e *Endpoint) refuse(w http.ResponseWriter, r *http.Request, code int, text string, err error) {
	e.count(func(s *EndpointStats) { s.Refused++ })
	e.refusals.Do(func() {
		e.opt.Log.Warn("points refused", "peer", r.RemoteAddr, "answer", fmt.Sprint(code, " ", text), "err", err)
	})
	w.Header().Set("Content-Type", "text/plain")
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "30")
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text) // the peer may be gone
}

// probe returns the name of the probe that sent a request. The name comes from the
// client certificate, or else from the peer's address or from Target.Probe; see
// EndpointOptions.Probes.
func (e *Endpoint) probe(r *http.Request) (string, error) {
	identity, err := peer.IdentityOf(r.TLS)
	if err != nil {
		return "", err
	}
	if identity == "" && e.opt.Probes != nil {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return "", err
		}
		probe, _ := e.opt.Probes.ByAddr(from.Addr())
		return cmp.Or(probe.Name, peer.AddressName(from.Addr())), nil
	}
	if identity == "" {
		if e.opt.Probe == "" {
			return "", errors.New("no client certificate, and the endpoint has no name of a probe")
		}
		return e.opt.Probe, nil
	}
	if probe := peer.ProbeOf(identity); probe != "" {
		return probe, nil
	}
	return "", fmt.Errorf("identity %q has no name of a probe", identity)
}
