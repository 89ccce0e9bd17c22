// Package rrdpush brings the points of Tstat's RRDs into Graphite, from the
// folder where Tstat writes them and from other probes' exports.
package rrdpush

import (
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
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
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
}

// open returns the sink, and the spool in front of a destination that can be
// away; nil if there is none. name is that of the spool.
func (t *Target) open(name string) (graphite.Sink, *graphite.Spool, error) {
	sink, err := t.Dest.open(t.TLS, t.Peers, t.RetryTimeout, t.Stdout, t.Log)
	if err != nil || !t.Dest.remote() || t.SpoolSize == 0 {
		return sink, nil, err
	}
	spool, err := graphite.NewSpool(sink, filepath.Join(t.StateDir, "rrd-push", name+".spool"), t.SpoolSize, t.Log)
	if err != nil {
		return nil, nil, errors.Join(err, sink.Close())
	}
	return spool, spool, nil
}

// Options say what a Pusher pushes and where.
type Options struct {
	Target
	Dir    string        // the RRD files; folders below it are not read
	Since  time.Time     // push again from here on; zero: what is new
	Every  time.Duration // push again and again; 0: once
	DryRun bool          // print lines instead of sending, keep no state
}

// Summary counts what a pass did.
type Summary struct {
	Probe     string  `json:"probe"`
	Files     int64   `json:"files"`           // RRD files in the folder
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
	TooOld    int64   `json:"too_old"`         // points older than the retention of their Whisper file
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

// Pusher brings the points of the RRD files in a folder to a Target.
type Pusher struct {
	Options
	unlock func() // of the state
	reader *rrdfile.Reader
	sink   graphite.Sink
	spool  *graphite.Spool
	state  pushState
	path   string // of the state file; "": none
	sum    *Summary

	failed map[string]string // files that failed before, with the error
	older  []string          // the files that the pass sends from their start
	told   bool              // of names that files share
	warned bool              // of many new metrics
}

// New opens the state and the destination. Close closes them.
func New(opt Options) (*Pusher, error) {
	if info, err := os.Stat(opt.Dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is no folder", opt.Dir)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pusher{Options: opt, unlock: func() {}, failed: map[string]string{}}
	if err := p.open(); err != nil {
		p.unlock()
		return nil, err
	}
	return p, nil
}

// Close closes the destination.
func (p *Pusher) Close() error {
	defer p.unlock()
	p.reader.Close()
	return p.sink.Close()
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
	key, err := p.key()
	if err != nil {
		return err
	}
	name := hash(key)
	if !p.Dest.Prints() {
		p.path = filepath.Join(p.StateDir, "rrd-push", name+".json")
		if !p.DryRun {
			unlock, err := state.Lock(p.StateDir, key)
			if err != nil {
				return fmt.Errorf("push of %s to %s: %w", p.Dir, p.Dest.key(), err)
			}
			p.unlock = unlock
		}
		if err := state.Load(p.path, stateFormat, &p.state); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if p.state.Files == nil {
		p.state = pushState{Files: map[string]*fileState{}, Creates: p.mostCreates(), Counted: time.Now().Unix()}
	}
	p.state.Source, p.state.Dest = p.Dir, p.Dest.key()
	if p.DryRun {
		p.sink = &printer{w: p.Stdout}
	} else if p.sink, p.spool, err = p.Target.open(name); err != nil {
		return err
	}
	p.reader = rrdfile.NewReader()
	return nil
}

// key names the source, the destination and what metrics are called.
func (p *Pusher) key() (string, error) {
	dir, err := state.Absolute(p.Dir)
	if err != nil {
		return "", err
	}
	dest := p.Dest.key()
	if p.Dest.scheme == "whisper" {
		abs, err := state.Absolute(p.Dest.dir)
		if err != nil {
			return "", err
		}
		dest = "whisper:" + abs
	}
	parts := []string{"rrd-push", dir, dest}
	if !p.Dest.exports() {
		parts = append(parts, p.Mode, p.Prefix, p.Probe)
	}
	return strings.Join(parts, "\n"), nil
}

// named is a file with the path of its metric.
type named struct{ file, path string }

// list returns the RRD files with their paths.
func (p *Pusher) list() ([]named, error) {
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return nil, err
	}
	var files []named
	first := map[string]string{} // the file that has a path
	var shared []string
	for _, e := range entries {
		file := e.Name()
		if !strings.HasSuffix(file, ".rrd") || e.IsDir() {
			continue
		}
		p.sum.Files++
		if p.Dest.exports() {
			files = append(files, named{file, file})
			continue
		}
		name := p.Naming(file)
		if name == "" {
			p.sum.Unnamed++
			continue
		}
		other := first[name]
		if other == "" {
			first[name] = file
		} else {
			p.sum.Shared++
			shared = append(shared, fmt.Sprintf("%s of %s and %s", name, other, file))
			if p.Mode != "upstream" {
				continue // two histograms must not mix; the old names did
			}
		}
		files = append(files, named{file, p.Prefix + "." + p.Probe + "." + name})
	}
	if len(shared) > 0 && !p.told {
		p.told = true
		p.Log.Warn("files share a metric", "files", len(shared), "for_example", strings.Join(shared[:min(len(shared), 3)], ", "))
	}
	return files, nil
}

// batch is what is sent at once, and what to remember then.
type batch struct {
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
	files, err := p.list()
	if err != nil {
		return err
	}
	if p.sum.Files == 0 {
		p.Log.Warn("no .rrd files", "folder", p.Dir)
	}
	if p.spool != nil {
		if err := p.spool.Flush(ctx); err != nil && !errors.Is(err, graphite.ErrUnavailable) {
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
	r := &reading{Pusher: p, known: maps.Clone(p.state.Files), allowed: p.allowance(),
		batches: make(chan *batch), free: make(chan *batch, 2)}
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
	p.state.Creates = min(p.mostCreates(), p.state.Creates+float64(max(now-p.state.Counted, 0))*p.createRate())
	p.state.Counted = now
	if p.spool != nil {
		// What waits in the spool is sent at once, with the new metrics in it.
		if n, _, err := p.spool.Len(); err != nil || n > 0 {
			return 0
		}
	}
	return int(p.state.Creates)
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
		if known := p.state.Files[f.file]; known == nil || !known.Created {
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
	known   map[string]*fileState // as they were when the pass began
	allowed int                   // new metrics
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
		r.file(f)
		if r.next.points >= batchPoints {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
	return r.flush(ctx)
}

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

// file adds what is new in a file to the next batch.
func (r *reading) file(f named) {
	path := filepath.Join(r.Dir, f.file)
	var known fileState
	if k := r.known[f.file]; k != nil {
		known = *k
	}
	after := known.After
	if !r.Since.IsZero() {
		after = r.Since.Unix() - 1
	} else if known.Stamp != nil {
		if stamp, err := rrdfile.StampOf(path); err == nil && stamp == *known.Stamp {
			r.sum.Unchanged++
			return
		}
	}
	now := time.Now()
	got, err := r.reader.Read(path, after)
	if errors.Is(err, fs.ErrNotExist) {
		return // gone since the folder was read
	}
	if err == nil && got.Update < known.After {
		// librrd takes no update before the last one: Tstat made the file
		// again after its clock was ahead, or another file took its place.
		r.older = append(r.older, f.file)
		known.After = 0
		if r.Since.IsZero() {
			got, err = r.reader.Read(path, 0)
		}
	}
	if err != nil {
		r.fail(f.file, err)
		return
	}
	delete(r.failed, f.file)
	r.sum.Unknown += got.Unknown
	metrics, negative := r.metrics(f, got)
	r.sum.Negative += negative
	if len(metrics) > 0 && !known.Created {
		if r.allowed < len(metrics) {
			r.sum.Waiting += int64(len(metrics))
			return
		}
		r.allowed -= len(metrics)
		r.next.created += len(metrics)
	}
	state := &fileState{After: max(known.After, got.Last), Created: known.Created || len(metrics) > 0}
	if stamp := got.Stamp; stamp.Settled(now) {
		state.Stamp = &stamp
	}
	r.next.files[f.file] = state
	r.next.metrics = append(r.next.metrics, metrics...)
	r.next.points += graphite.Count(metrics)
}

// fail counts a file that cannot be read, and tells it once.
func (p *Pusher) fail(file string, err error) {
	p.sum.Failed++
	if p.failed[file] != err.Error() {
		p.failed[file] = err.Error()
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
		}
	}
	return metrics, negative
}

// send sends a batch and remembers it.
func (p *Pusher) send(ctx context.Context, b *batch) error {
	if len(b.metrics) > 0 {
		if err := p.sink.Send(ctx, b.metrics); err != nil {
			return err
		}
		if p.Stored != nil {
			p.Stored(b.metrics)
		}
	}
	p.sum.Points += int64(b.points)
	p.sum.New += int64(b.created)
	if p.path == "" || p.DryRun {
		return nil
	}
	maps.Copy(p.state.Files, b.files)
	p.state.Creates -= float64(b.created)
	return state.Save(p.path, stateFormat, p.state)
}

// finish reports what is unusual and what is left.
func (p *Pusher) finish() error {
	if p.sum.Recreated = int64(len(p.older)); p.sum.Recreated > 0 {
		p.Log.Warn("files are older than the last point sent: they were recreated or exchanged, and are sent from their start",
			"files", len(p.older), "for_example", strings.Join(p.older[:min(len(p.older), 3)], ", "))
	}
	if p.sum.Waiting > 0 {
		p.sum.WaitFor = math.Ceil(max(float64(p.sum.Waiting)-p.state.Creates, 0) / p.createRate())
		p.Log.Info("new metrics wait for the next run", "waiting", p.sum.Waiting,
			"all_sent_in", time.Duration(p.sum.WaitFor)*time.Second)
	}
	var err error
	if p.spool != nil {
		if _, p.sum.Spooled, err = p.spool.Len(); err != nil {
			return err
		}
		if down := p.spool.Down(); down != nil {
			err = fmt.Errorf("%w (%d bytes wait in the spool)", down, p.sum.Spooled)
		}
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
