// Package rrdpush brings the points of Tstat's RRDs into Graphite or Prometheus, from the
// folder where Tstat writes them and from other probes' exports.
package rrdpush

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/remotewrite"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
	"github.com/tstatrepo/tstatrepo/pkg/state"
)

// ErrFiles is wrapped by the error of a run some of whose files could not be
// read. The points of the others are sent.
var ErrFiles = errors.New("could not be read")

// Target says where points go and what they are called there.
type Target struct {
	Dest     *Dest
	Probe    string // name of the probe, the second node of every path
	Prefix   string // first nodes
	Naming   rrdfile.Naming
	Mode     string // name of the naming: part of the state's key
	Negative bool   // keep negative percentiles, Tstat's "no samples"

	TLS          peer.TLS
	Peers        peer.Networks // that an http or https destination may be in; none: all
	RetryTimeout time.Duration // of a batch
	SpoolSize    int64         // bytes; 0: no spool
	StateDir     string
	Stdout       io.Writer
	Log          *slog.Logger

	// Stored is told what was stored, or put into the spool; calls do not
	// overlap. It must not keep the slice. nil: none.
	Stored func([]graphite.Metric)

	// leftOut is told what a remote write left out; nil: nobody.
	leftOut func(remotewrite.LeftOut)
}

// open returns the sink, and the spool in front of a destination that can be
// away; nil if there is none. name is that of the spool.
func (t *Target) open(name string) (graphite.Sink, *graphite.Spool, error) {
	sink, err := t.openSink()
	if err != nil || !t.Dest.remote() || t.SpoolSize == 0 {
		return sink, nil, err
	}
	spool, err := graphite.NewSpool(sink, t.spoolDir(name), t.SpoolSize, t.Log)
	if err != nil {
		return nil, nil, errors.Join(err, sink.Close())
	}
	return spool, spool, nil
}

// spoolDir returns the folder of the spool of that name.
func (t *Target) spoolDir(name string) string {
	return filepath.Join(t.StateDir, "rrd-push", name+".spool")
}

// Options say what a Pusher pushes and where.
type Options struct {
	Target
	Sources []string      // folders of RRD files, not those below them, and .rrd files
	Since   time.Time     // push again from here on; zero: what is new
	Every   time.Duration // push again and again; 0: once
	DryRun  bool          // print lines instead of sending, keep no state
	Reader  string        // one of rrdfile.Modes; "": rrdfile.Go
}

// Summary counts what a pass did.
type Summary struct {
	Probe     string  `json:"probe"`
	Files     int64   `json:"files"`           // RRD files of the sources
	Unchanged int64   `json:"unchanged"`       // not read, since nothing changed
	Failed    int64   `json:"failed"`          // could not be read
	Points    int64   `json:"points"`          // sent, or in the spool
	Unknown   int64   `json:"unknown"`         // values that were NaN
	NotFinite int64   `json:"not_finite"`      // infinite values left out
	Negative  int64   `json:"negative"`        // negative percentiles left out
	Recreated int64   `json:"recreated"`       // files older than the last point sent: sent from their start
	New       int64   `json:"new_metrics"`     // metrics sent for the first time
	Waiting   int64   `json:"waiting"`         // new metrics held back by new-metrics-per-minute
	WaitFor   float64 `json:"waiting_seconds"` // until the last of them can be sent
	Unnamed   int64   `json:"unnamed"`         // files without a name
	Shared    int64   `json:"shared"`          // files that share their name with another
	TooOld    int64   `json:"too_old"`         // points older than the retention of their Whisper file, or than the server accepts
	Disorder  int64   `json:"out_of_order"`    // points older than others of the series, which the server does not accept
	Ahead     int64   `json:"ahead"`           // points ahead of the clock, not sent to a Prometheus
	Refused   int64   `json:"refused"`         // points that the server refused for other reasons
	Ignored   int64   `json:"ignored"`         // points that a VictoriaMetrics acknowledged and did not store
	Old       int64   `json:"older_than_3y"`   // points sent that Debian's carbon drops by default
	Spooled   int64   `json:"spooled_bytes"`   // waiting in the spool at the end
	Seconds   float64 `json:"seconds"`
}

// fileState is what is remembered of a file.
type fileState struct {
	After   int64          `json:"after"`             // steps up to this unix time are sent
	Created bool           `json:"created,omitempty"` // some point of it was
	Stamp   *rrdfile.Stamp `json:"stamp,omitempty"`   // if the file cannot change unnoticed
}

// pushState is what is remembered of a source and its destination.
type pushState struct {
	Source  string                `json:"source"`
	Dest    string                `json:"dest"`
	Files   map[string]*fileState `json:"files"`
	Creates float64               `json:"creates"` // new metrics that may be sent
	Counted int64                 `json:"counted"` // at this unix time
}

const stateFormat = 1

// batchPoints is how many points are sent, and remembered, at once.
const batchPoints = 200_000

// reader is a rrdfile.Reader.
type reader interface {
	Read(path string, after int64) (*rrdfile.File, error)
	Close() error
}

// Pusher brings the points of RRD files to a Target.
type Pusher struct {
	Options
	folders []*folder
	reader  reader
	sink    graphite.Sink // that of the destination
	sum     *Summary

	failed map[string]string // paths of files that failed before, with the error
	older  []string          // the files that the pass sends from their start
	told   bool              // of names that files share
	aged   bool              // warned of old points
	warned bool              // of many new metrics
}

// New opens the state and the destination. Close closes them. Its error is one
// of usage if a source is no folder and no .rrd file.
func New(opt Options) (*Pusher, error) {
	p, err := newPusher(opt)
	if err != nil {
		return nil, err
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// newPusher finds the sources.
func newPusher(opt Options) (*Pusher, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	list, err := folders(opt.Sources)
	if err != nil {
		return nil, err
	}
	r, err := rrdfile.NewReaderOf(cmp.Or(opt.Reader, rrdfile.Go))
	if err != nil {
		return nil, err
	}
	return &Pusher{Options: opt, failed: map[string]string{}, folders: list, reader: r}, nil
}

// Close closes the destination.
func (p *Pusher) Close() error {
	err := p.reader.Close()
	for _, f := range p.folders {
		f.unlock()
	}
	if p.sink != nil {
		err = errors.Join(err, p.sink.Close())
	}
	return err
}

// Run pushes until all is sent, or with Every until ctx ends, and yields what
// each pass did. The last pass may be one that ctx has cut short.
func (p *Pusher) Run(ctx context.Context) iter.Seq2[*Summary, error] {
	return func(yield func(*Summary, error) bool) {
		if p.Every == 0 {
			err := p.pass(ctx)
			yield(p.sum, err)
			return
		}
		tick := time.NewTicker(p.Every)
		defer tick.Stop()
		for {
			err := p.pass(ctx)
			if ctx.Err() != nil {
				yield(p.sum, context.Cause(ctx))
				return
			}
			if !yield(p.sum, err) {
				return
			}
			if err != nil {
				p.Log.Warn("push failed, trying again", append([]any{"err", err, "in", p.Every}, hint.Attrs(err)...)...)
			}
			p.Since = time.Time{} // once is enough
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// open makes everything ready.
func (p *Pusher) open() error {
	p.leftOut = func(n remotewrite.LeftOut) {
		p.sum.TooOld += n.TooOld
		p.sum.Disorder += n.OutOfOrder
		p.sum.Ahead += n.Ahead
		p.sum.Refused += n.Refused
		p.sum.Ignored += n.Ignored
	}
	for _, f := range p.folders {
		if err := p.load(f); err != nil {
			return err
		}
	}
	if p.DryRun {
		p.sink = &printer{w: p.Stdout, labels: p.Dest.labels()}
	}
	for _, f := range p.folders {
		var err error
		switch first := p.folders[0]; {
		case f != first && first.spool != nil:
			f.spool, err = first.spool.Beside(p.spoolDir(hash(f.key)))
			f.sink = f.spool
		case p.sink == nil:
			f.sink, f.spool, err = p.Target.open(hash(f.key))
			p.sink = f.sink
		default:
			f.sink = p.sink
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// load locks and reads what is remembered of a folder.
func (p *Pusher) load(f *folder) (err error) {
	if f.key, err = p.keyOf(f); err != nil {
		return err
	}
	if !p.Dest.Prints() {
		f.path = filepath.Join(p.StateDir, "rrd-push", hash(f.key)+".json")
		if !p.DryRun {
			unlock, err := state.Lock(p.StateDir, f.key)
			if err != nil {
				return fmt.Errorf("push of %s to %s: %w", f.dir, p.Dest.key(), err)
			}
			f.unlock = unlock
		}
		if err := state.Load(f.path, stateFormat, &f.state); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if f.state.Files == nil {
		f.state = pushState{Files: map[string]*fileState{}, Creates: p.mostCreates(), Counted: time.Now().Unix()}
	}
	f.state.Source, f.state.Dest = f.dir, p.Dest.key()
	return nil
}

// keyOf names a folder, the destination and what metrics are called.
func (p *Pusher) keyOf(f *folder) (string, error) {
	dest := p.Dest.key()
	if p.Dest.scheme == "whisper" {
		abs, err := state.Absolute(p.Dest.dir)
		if err != nil {
			return "", err
		}
		dest = "whisper:" + abs
	}
	parts := []string{"rrd-push", f.abs, dest}
	if !p.Dest.exports() {
		parts = append(parts, p.Mode, p.Prefix, p.Probe)
	}
	return strings.Join(parts, "\n"), nil
}

// batch is what is sent at once, of one folder, and what to remember then.
type batch struct {
	folder  *folder
	metrics []graphite.Metric
	all     []graphite.Point // of the metrics
	points  int
	files   map[string]*fileState
	created int // metrics that are new
}

func newBatch() *batch {
	return &batch{files: map[string]*fileState{}, all: make([]graphite.Point, 0, batchPoints+batchPoints/10)}
}

// reset empties b and keeps its memory. What remembers files has gone to the
// state.
func (b *batch) reset() {
	*b = batch{files: map[string]*fileState{}, all: b.all[:0], metrics: b.metrics[:0]}
}

// pass reads all that is new and sends it.
func (p *Pusher) pass(ctx context.Context) (err error) {
	start := time.Now()
	p.sum, p.older = &Summary{Probe: p.Probe}, nil
	defer func() { p.sum.Seconds = time.Since(start).Seconds() }()
	files, listErr := p.list()
	if listErr != nil && len(files) == 0 {
		return listErr
	}
	defer func() { err = errors.Join(listErr, err) }()
	files = slices.DeleteFunc(files, func(f named) bool { return f.leftOut != "" })
	r := &reading{Pusher: p, known: map[*folder]map[string]*fileState{}, batches: make(chan *batch), free: make(chan *batch, 2)}
	for _, f := range p.folders {
		r.known[f] = maps.Clone(f.state.Files)
	}
	if err := r.compare(ctx, files); err != nil {
		return err
	}
	for _, f := range p.folders {
		if f.spool == nil {
			continue
		}
		if err := f.spool.Flush(ctx); err != nil && !errors.Is(err, graphite.ErrUnavailable) {
			return err
		}
	}
	w, _ := p.sink.(*graphite.Whisper)
	if w != nil {
		before := w.Lost()
		defer func() { p.sum.TooOld = w.Lost() - before }()
	}
	// One batch is sent while the next is read.
	readCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.allowed = p.allowance()
	r.free <- newBatch()
	r.free <- newBatch()
	p.warnCreates(files)
	done := make(chan error, 1)
	go func() {
		defer close(r.batches)
		done <- r.read(readCtx, files)
	}()
	for b := range r.batches {
		if err == nil {
			if err = p.send(ctx, b); err != nil {
				cancel()
			}
		}
		b.reset()
		r.free <- b
	}
	if readErr := <-done; err == nil {
		err = readErr
	}
	if err == nil {
		err = p.finish()
	}
	return err
}

// allowance returns how many new metrics may be sent now.
func (p *Pusher) allowance() int {
	if p.Dest.creates <= 0 {
		return math.MaxInt
	}
	now := time.Now().Unix()
	waiting := false
	for _, f := range p.folders {
		s := &f.state
		s.Creates = min(p.mostCreates(), s.Creates+float64(max(now-s.Counted, 0))*p.createRate())
		s.Counted = now
		if f.spool != nil {
			// What waits in the spool is sent at once, with the new metrics in it.
			n, _, err := f.spool.Len()
			waiting = waiting || err != nil || n > 0
		}
	}
	if waiting {
		return 0
	}
	return int(p.budget())
}

// budget returns how many new metrics the destination has left. Folders that
// were pushed on their own before have spent different parts of it.
func (p *Pusher) budget() float64 {
	left := p.mostCreates()
	for _, f := range p.folders {
		left = min(left, f.state.Creates)
	}
	return left
}

// ownMetrics is how many new metrics a minute are left to carbon itself. It
// creates some 20 carbon.agents metrics a minute after its start, from the same
// budget.
const ownMetrics = 25

// mostCreates is how many new metrics may be sent at once.
func (p *Pusher) mostCreates() float64 {
	n := max(p.Dest.creates, 0)
	return float64(n - min(ownMetrics, n/2))
}

// createRate is how many new metrics a second are sent: a little less than
// carbon creates, which counts from when it makes the file.
func (p *Pusher) createRate() float64 { return 0.95 * float64(p.Dest.creates) / 60 }

// manyCreates is how many new metrics a minute carbon takes in Debian.
const manyCreates = 50

// warnCreates says that carbon may drop new metrics, which it does without
// a word to who sends them.
func (p *Pusher) warnCreates(files []named) {
	if p.warned || p.DryRun || p.Dest.scheme != "graphite" || p.Dest.creates >= 0 {
		return
	}
	n := 0
	for _, f := range files {
		if known := f.state.Files[f.file]; known == nil || !known.Created {
			n++
		}
	}
	if n > manyCreates {
		p.warned = true
		p.Log.Warn("carbon's default is to drop new metrics beyond 50 a minute: raise its MAX_CREATES_PER_MINUTE, "+
			"or say what it takes with ?new-metrics-per-minute=50 (0: all)", "new", n)
	}
}

// reading is the part of a pass that reads.
type reading struct {
	*Pusher
	known   map[*folder]map[string]*fileState // as they were when the pass began
	allowed int                               // new metrics
	batches chan *batch
	free    chan *batch // whose memory is used again
	next    *batch
}

// read makes batches of what is new in the files.
func (r *reading) read(ctx context.Context, files []named) error {
	r.next = <-r.free
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.next.folder != f.folder || r.next.points >= batchPoints {
			if err := r.flush(ctx); err != nil {
				return err
			}
			r.next.folder = f.folder
		}
		if err := r.file(f); err != nil {
			return err
		}
	}
	return r.flush(ctx)
}

// compare reads what is new in the files with both readers, if these are
// wanted, and returns the first difference. Nothing is sent before.
func (r *reading) compare(ctx context.Context, files []named) error {
	if r.Reader != rrdfile.Both {
		return nil
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// Other errors come up again when the file is pushed.
		if _, err := r.look(f); isDifference(err) {
			return err
		}
	}
	return nil
}

// isDifference reports whether the two readers differ about a file.
func isDifference(err error) bool { return errors.As(err, new(*rrdfile.DifferenceError)) }

func (r *reading) flush(ctx context.Context) error {
	if len(r.next.files) == 0 {
		return nil
	}
	select {
	case r.batches <- r.next:
		r.next = <-r.free
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// found is what is new in a file.
type found struct {
	*rrdfile.File           // nil: nothing
	known         fileState // what was remembered
	unchanged     bool      // the file was not read
	recreated     bool      // the file is older than what was sent of it
	at            time.Time // when it was read
}

// look reads what is new in a file.
func (r *reading) look(f named) (got found, err error) {
	path := filepath.Join(f.dir, f.file)
	if k := r.known[f.folder][f.file]; k != nil {
		got.known = *k
	}
	after := got.known.After
	if !r.Since.IsZero() {
		after = r.Since.Unix() - 1
	} else if got.known.Stamp != nil {
		if stamp, err := rrdfile.StampOf(path); err == nil && stamp == *got.known.Stamp {
			got.unchanged = true
			return got, nil
		}
	}
	got.at = time.Now()
	got.File, err = r.reader.Read(path, after)
	if errors.Is(err, fs.ErrNotExist) && f.all {
		return got, nil // gone since the folder was read
	}
	if err == nil && got.Update < got.known.After {
		// librrd takes no update before the last one: Tstat made the file
		// again after its clock was ahead, or another file took its place.
		got.recreated, got.known.After = true, 0
		if r.Since.IsZero() {
			got.File, err = r.reader.Read(path, 0)
		}
	}
	return got, err
}

// file adds what is new in a file to the next batch. Its error ends the pass.
func (r *reading) file(f named) error {
	path := filepath.Join(f.dir, f.file)
	got, err := r.look(f)
	switch {
	case isDifference(err):
		return err
	case got.unchanged:
		r.sum.Unchanged++
		return nil
	case err == nil && got.File == nil:
		return nil
	}
	if got.recreated {
		r.older = append(r.older, r.name(f))
	}
	if err != nil {
		r.fail(path, err)
		return nil
	}
	delete(r.failed, path)
	known := got.known
	r.sum.Unknown += got.Unknown
	begin := len(r.next.all)
	metrics, negative := r.metrics(f, got.File)
	r.sum.Negative += negative
	if len(metrics) > 0 && !known.Created {
		if r.allowed < len(metrics) {
			r.sum.Waiting += int64(len(metrics))
			r.next.all = r.next.all[:begin]
			return nil
		}
		r.allowed -= len(metrics)
		r.next.created += len(metrics)
	}
	state := &fileState{After: max(known.After, got.Last), Created: known.Created || len(metrics) > 0}
	if stamp := got.Stamp; stamp.Settled(got.at) {
		state.Stamp = &stamp
	}
	r.next.files[f.file] = state
	r.next.metrics = append(r.next.metrics, metrics...)
	r.next.points += graphite.Count(metrics)
	return nil
}

// fail counts a file that cannot be read, and tells it once.
func (p *Pusher) fail(path string, err error) {
	p.sum.Failed++
	if p.failed[path] != err.Error() {
		p.failed[path] = err.Error()
		p.Log.Warn("file skipped", append([]any{"err", err}, hint.Attrs(err)...)...)
	}
}

// metrics turns what was read into metrics, and counts negative percentiles.
func (r *reading) metrics(f named, got *rrdfile.File) (metrics []graphite.Metric, negative int64) {
	percentile := !r.Negative && rrdfile.IsPercentile(f.file)
	for i, s := range got.Series {
		m := graphite.Metric{Path: f.path, Step: got.Step}
		if i > 0 { // Tstat's files have one source
			if r.Dest.exports() {
				break
			}
			m.Path += "." + s.Source
		}
		begin := len(r.next.all)
		for _, pt := range s.Points {
			if math.IsInf(pt.Value, 0) {
				r.sum.NotFinite++
				continue
			}
			if percentile && pt.Value < 0 {
				negative++
				continue
			}
			r.next.all = append(r.next.all, pt)
		}
		// They stay where they are even if what follows needs more room.
		if m.Points = r.next.all[begin:]; len(m.Points) > 0 {
			metrics = append(metrics, m)
			if r.Dest.scheme == "graphite" {
				r.sum.Old += carbonDrops(m.Points, time.Now())
			}
		}
	}
	return metrics, negative
}

// carbonKeeps is how long carbon keeps points with the storage-schemas.conf of
// Debian: 60s:1d,5m:30d,1h:3y. It drops older ones and reports nothing.
const carbonKeeps = 3 * 365 * 24 * time.Hour

// carbonDrops counts the points that are older.
func carbonDrops(points []graphite.Point, now time.Time) int64 {
	n, _ := slices.BinarySearchFunc(points, now.Add(-carbonKeeps).Unix(), func(p graphite.Point, t int64) int { return cmp.Compare(p.Time, t) })
	return int64(n)
}

// send sends a batch and remembers it.
func (p *Pusher) send(ctx context.Context, b *batch) error {
	if len(b.metrics) > 0 {
		if err := b.folder.sink.Send(ctx, b.metrics); err != nil {
			return err
		}
		if p.Stored != nil {
			p.Stored(b.metrics)
		}
	}
	p.sum.Points += int64(b.points)
	p.sum.New += int64(b.created)
	if b.folder.path == "" || p.DryRun {
		return nil
	}
	maps.Copy(b.folder.state.Files, b.files)
	for _, f := range p.folders {
		f.state.Creates -= float64(b.created)
		if f != b.folder && (b.created == 0 || p.Dest.creates <= 0) {
			continue // only the budget changed, and nothing depends on it
		}
		if err := state.Save(f.path, stateFormat, f.state); err != nil {
			return err
		}
	}
	return nil
}

// finish reports what is unusual and what is left.
func (p *Pusher) finish() error {
	if p.sum.Recreated = int64(len(p.older)); p.sum.Recreated > 0 {
		p.Log.Warn("files are older than the last point sent: they were recreated or exchanged, and are sent from their start",
			"files", len(p.older), "for_example", strings.Join(p.older[:min(len(p.older), 3)], ", "))
	}
	if p.sum.Old > 0 && !p.aged {
		p.aged = true
		p.Log.Warn("points are older than the 3 years that Debian's carbon keeps by default: it drops them and reports nothing",
			"points", p.sum.Old, "hint", "write longer retentions into its storage-schemas.conf before it creates the metrics, or push into whisper:DIR")
	}
	if p.sum.Waiting > 0 {
		p.sum.WaitFor = math.Ceil(max(float64(p.sum.Waiting)-p.budget(), 0) / p.createRate())
		p.Log.Info("new metrics wait for the next run", "waiting", p.sum.Waiting,
			"all_sent_in", time.Duration(p.sum.WaitFor)*time.Second)
	}
	var err error
	for _, f := range p.folders {
		if f.spool == nil {
			continue
		}
		_, size, err := f.spool.Len()
		if err != nil {
			return err
		}
		p.sum.Spooled += size
	}
	if spool := p.folders[0].spool; spool != nil && spool.Down() != nil {
		err = fmt.Errorf("%w (%d bytes wait in the spool)", spool.Down(), p.sum.Spooled)
	}
	if p.sum.Failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d files %w", p.sum.Failed, p.sum.Files, ErrFiles))
	}
	return err
}

// hash makes a name of a file out of a key.
func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}
