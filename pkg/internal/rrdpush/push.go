// Package rrdpush sends the points of Tstat's RRDs to Graphite or Prometheus. A
// Pusher reads the RRD files that Tstat writes. An Endpoint receives points from
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

// ErrFiles is wrapped by the error that Pusher.Run yields if some RRD files could not
// be read. The points of the other files are sent nevertheless.
var ErrFiles = errors.New("could not be read")

// Target describes the destination of points and the names of their metrics.
type Target struct {
	Dest     *Dest
	Probe    string // name of the probe, the second node of every path
	Prefix   string // first nodes of every path
	Naming   rrdfile.Naming
	Mode     string // name of Naming; part of the state's key
	Negative bool   // keep negative percentiles, Tstat's "no samples"

	TLS          peer.TLS
	Peers        peer.Networks // allowed networks of an HTTP destination; empty: all
	RetryTimeout time.Duration // of a batch
	SpoolSize    int64         // bytes; 0: no spool
	StateDir     string
	Stdout       io.Writer
	Log          *slog.Logger

	// Stored is called with metrics that were stored or spooled; nil disables
	// the calls. Calls are not concurrent. Stored must not keep the slice.
	Stored func([]graphite.Metric)

	// leftOut is called with the counts of points that a remote write left out; nil
	// disables the calls.
	leftOut func(remotewrite.LeftOut)
}

// open opens t.Dest and returns its sink. If t.Dest is a server and t.SpoolSize is not
// 0, open returns a spool with the given name as both results. Otherwise the second
// result is nil.
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

// spoolDir returns the folder of the spool with the given name.
func (t *Target) spoolDir(name string) string {
	return filepath.Join(t.StateDir, "rrd-push", name+".spool")
}

// Options selects what a Pusher pushes and where.
type Options struct {
	Target
	Sources []string      // .rrd files and folders of them; subfolders are ignored
	Since   time.Time     // push all points of each file from this time on, once; zero: only new points
	Every   time.Duration // interval between pushes; 0: push once
	DryRun  bool          // print points instead of sending them; save no state
	Reader  string        // one of rrdfile.Modes; "": rrdfile.Go
}

// Summary counts the results of a pass.
type Summary struct {
	Probe     string  `json:"probe"`
	Files     int64   `json:"files"`           // RRD files of the sources
	Unchanged int64   `json:"unchanged"`       // files not read, since they have not changed
	Failed    int64   `json:"failed"`          // files that could not be read
	Points    int64   `json:"points"`          // sent, or in the spool
	Unknown   int64   `json:"unknown"`         // values that were NaN
	NotFinite int64   `json:"not_finite"`      // infinite values left out
	Negative  int64   `json:"negative"`        // negative percentiles left out
	Recreated int64   `json:"recreated"`       // files older than their last point sent; sent from the start
	New       int64   `json:"new_metrics"`     // metrics sent for the first time
	Waiting   int64   `json:"waiting"`         // new metrics held back by the limit per minute
	WaitFor   float64 `json:"waiting_seconds"` // until the last of them can be sent
	Unnamed   int64   `json:"unnamed"`         // files without a name, or with one too long
	Shared    int64   `json:"shared"`          // files that share their name with another
	TooOld    int64   `json:"too_old"`         // points too old for the server or the retention of their Whisper file
	Disorder  int64   `json:"out_of_order"`    // points refused because the series has newer ones
	Ahead     int64   `json:"ahead"`           // points ahead of the clock, not sent to Prometheus
	Refused   int64   `json:"refused"`         // points that the server refused for other reasons
	Ignored   int64   `json:"ignored"`         // points that VictoriaMetrics acknowledged and dropped
	Old       int64   `json:"older_than_3y"`   // points sent that Debian's carbon drops by default
	Spooled   int64   `json:"spooled_bytes"`   // in the spool at the end
	Seconds   float64 `json:"seconds"`
}

// fileState is the saved state of a file.
type fileState struct {
	After   int64          `json:"after"`             // steps up to this Unix time were sent
	Created bool           `json:"created,omitempty"` // a point was sent, so the metric exists
	Stamp   *rrdfile.Stamp `json:"stamp,omitempty"`   // of the file when it was read; nil if it was not Settled
	// Metric is the path of the file's metric. It is "" if the destination names the
	// metric, or if an older version saved the state.
	Metric string `json:"metric,omitempty"`

	since time.Time // Options.Since when the file was last sent; not saved
}

// pushState is the saved state of a folder for one destination.
type pushState struct {
	Source  string                `json:"source"`
	Dest    string                `json:"dest"`
	Files   map[string]*fileState `json:"files"`
	Creates float64               `json:"creates"` // budget of new metrics, see budget
	Counted int64                 `json:"counted"` // Unix time at which Creates was last raised
}

const stateFormat = 1

// Pusher sends the points of RRD files to a Target.
type Pusher struct {
	Options
	folders []*folder
	reader  reader
	sink    graphite.Sink // of the destination
	sum     *Summary

	failed map[string]string // last logged error of a file, by path
	older  []string          // files that the pass sends from their start

	// Which warnings have been logged.
	warnedShared, warnedOld, warnedMany bool
}

// New returns a Pusher with its state loaded and its destination open. The caller must
// call Close. New returns a usage error if all sources are missing, or if an existing
// source is neither a folder nor an .rrd file.
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

// newPusher returns a Pusher for opt.Sources. It neither loads a state nor opens the
// destination; see Pusher.open.
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

// Close closes the destination and releases the state.
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

// Run makes one pass over the RRD files. If p.Every is set, Run makes a pass at that
// interval until ctx is done. It yields the summary and the error of each pass. Canceling
// ctx may interrupt a pass.
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
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// open loads the saved state of each source folder and opens the folder's sink.
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

// load locks and loads the saved state of f.
func (p *Pusher) load(f *folder) (err error) {
	if f.key, err = p.keyOf(f); err != nil {
		return err
	}
	if !p.Dest.Prints() {
		f.path = filepath.Join(p.StateDir, "rrd-push", hash(f.key)+".json")
		if !p.DryRun {
			unlock, err := state.Lock(p.StateDir, f.key)
			if err != nil {
				return fmt.Errorf("push of %s to %s: %w", f.dir, p.Dest.name(), err)
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

// keyOf returns the key of a folder's state. The key contains the folder, the
// destination and the options that name all metrics. A table of names may rename single
// metrics; see fileState.Metric.
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

// pass makes one pass: it reads and sends all new points of the sources.
func (p *Pusher) pass(ctx context.Context) (err error) {
	start := time.Now()
	p.sum, p.older = &Summary{Probe: p.Probe}, nil
	defer func() {
		if failure := p.countSpooled(); err == nil {
			err = failure
		}
		p.sum.Seconds = time.Since(start).Seconds()
	}()
	files, listErr := p.list()
	defer func() { err = errors.Join(listErr, err) }()
	files = slices.DeleteFunc(files, func(f metricFile) bool { return f.leftOut != "" })
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
	// Read the next batch while the current one is sent.
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
	p.warnOlder()
	if err == nil {
		err = p.finish()
	}
	return err
}

// send sends the metrics of b, and then saves every folder state that has changed.
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
	maps.Copy(b.folder.state.Files, b.files)
	if b.folder.path == "" || p.DryRun {
		return nil
	}
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

// finish completes p.sum, the summary of a pass, and logs warnings. It returns an error
// if the destination is down, or if the pass could not read some files.
func (p *Pusher) finish() error {
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
	err := p.countSpooled()
	if err != nil {
		return err
	}
	if spool := p.folders[0].spool; spool != nil && spool.Down() != nil {
		err = fmt.Errorf("%w (%d bytes wait in the spool)", spool.Down(), p.sum.Spooled)
	}
	if p.sum.Failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d files %w", p.sum.Failed, p.sum.Files, ErrFiles))
	}
	return err
}

// warnOlder counts and logs the files that the pass sends from their start.
func (p *Pusher) warnOlder() {
	if p.sum.Recreated = int64(len(p.older)); p.sum.Recreated > 0 {
		p.Log.Warn("files are older than the last point sent: they are sent from their start",
			"files", len(p.older), "examples", strings.Join(p.older[:min(len(p.older), 3)], ", "))
	}
}

// countSpooled sets p.sum.Spooled to the size of all spools.
func (p *Pusher) countSpooled() error {
	p.sum.Spooled = 0
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
	return nil
}

// hash returns a short hash of key for use in file names.
func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:12])
}
