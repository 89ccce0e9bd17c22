// Package rrdpush sends the points of Tstat's RRDs to Graphite or Prometheus. It
// reads them from the folders where Tstat writes them, and receives them from
// other probes.
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

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/remotewrite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// ErrFiles is wrapped by the error of a run that could not read some files. The
// points of the others are sent.
var ErrFiles = errors.New("could not be read")

// Target is the destination of points, and their names there.
type Target struct {
	Dest     *Dest
	Probe    string // name of the probe, the second node of every path
	Prefix   string // first nodes
	Naming   rrdfile.Naming
	Mode     string // name of the naming: part of the state's key
	Negative bool   // keep negative percentiles, Tstat's "no samples"

	TLS          peer.TLS
	Peers        peer.Networks // allowed for an HTTP destination; none: all
	RetryTimeout time.Duration // of a batch
	SpoolSize    int64         // bytes; 0: no spool
	StateDir     string
	Stdout       io.Writer
	Log          *slog.Logger

	// Stored is called with metrics that were stored, or put into the spool.
	// Calls do not overlap. It must not keep the slice. nil disables the calls.
	Stored func([]graphite.Metric)

	// leftOut is called with what a remote write left out; nil disables the calls.
	leftOut func(remotewrite.LeftOut)
}

// open returns the sink of the destination. For a remote one this is a spool of
// the given name, unless SpoolSize is 0; otherwise the spool is nil.
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

// Options selects what a Pusher pushes and where.
type Options struct {
	Target
	Sources []string      // folders of RRD files, not those below them, and .rrd files
	Since   time.Time     // push again from this time on; zero: only new points
	Every   time.Duration // interval between pushes; 0: push once
	DryRun  bool          // print lines instead of sending, save no state
	Reader  string        // one of rrdfile.Modes; "": rrdfile.Go
}

// Summary counts the results of a pass.
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
	Waiting   int64   `json:"waiting"`         // new metrics held back by the limit per minute
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

// fileState is the saved state of a file.
type fileState struct {
	After   int64          `json:"after"`             // steps up to this unix time are sent
	Created bool           `json:"created,omitempty"` // a point was sent, so the metric exists
	Stamp   *rrdfile.Stamp `json:"stamp,omitempty"`   // set if any later change of the file alters the stamp
}

// pushState is the saved state of a folder and its destination.
type pushState struct {
	Source  string                `json:"source"`
	Dest    string                `json:"dest"`
	Files   map[string]*fileState `json:"files"`
	Creates float64               `json:"creates"` // new metrics that may be sent
	Counted int64                 `json:"counted"` // at this unix time
}

const stateFormat = 1

// Pusher sends the points of RRD files to a Target.
type Pusher struct {
	Options
	folders []*folder
	reader  reader
	sink    graphite.Sink // of the destination
	sum     *Summary

	failed map[string]string // by path, the error of a file that was reported
	older  []string          // the files that the pass sends from their start

	// Warnings that were logged.
	warnedShared, warnedOld, warnedMany bool
}

// New opens the state and the destination. Close closes them. The error is a
// usage error if a source is neither a folder nor an .rrd file.
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

// newPusher returns a Pusher of the sources. open must be called.
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

// Run pushes once, or with Every until ctx ends, and yields the summary of each
// pass. ctx may have interrupted the last one.
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
				p.Log.Warn("push failed, retrying", append([]any{"err", err, "retry_in", p.Every}, hint.Attrs(err)...)...)
			}
			p.Since = time.Time{} // only in the first pass
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// open loads the state and opens the sinks.
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

// load locks and loads the state of a folder.
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

// keyOf returns the key of a folder's state: everything that decides which
// points are sent where, under which names.
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

// pass reads and sends all new points.
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

// send sends a batch and saves the state.
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
			continue // unchanged
		}
		if err := state.Save(f.path, stateFormat, f.state); err != nil {
			return err
		}
	}
	return nil
}

// finish logs warnings about the pass. It returns the error of a destination that
// is down or of files that could not be read.
func (p *Pusher) finish() error {
	if p.sum.Recreated = int64(len(p.older)); p.sum.Recreated > 0 {
		p.Log.Warn("files are older than the last point sent: they are sent from their start",
			"files", len(p.older), "examples", strings.Join(p.older[:min(len(p.older), 3)], ", "))
	}
	if p.sum.Old > 0 && !p.warnedOld {
		p.warnedOld = true
		p.Log.Warn("points are older than the 3 years that Debian's carbon keeps by default: it drops them without an error",
			"points", p.sum.Old, "hint", "write longer retentions into its storage-schemas.conf before it creates the metrics, or push into whisper:DIR")
	}
	if p.sum.Waiting > 0 {
		p.sum.WaitFor = math.Ceil(max(float64(p.sum.Waiting)-p.budget(), 0) / p.createRate())
		p.Log.Info("new metrics wait for the next run", "metrics", p.sum.Waiting,
			"sent_within", time.Duration(p.sum.WaitFor)*time.Second)
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

// hash returns a file name for a key.
func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}
