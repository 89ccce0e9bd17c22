package rrdpush

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// reader is the part of an rrdfile.Reader that a Pusher uses.
type reader interface {
	Read(path string, after int64) (*rrdfile.File, error)
	Close() error
}

// batchPoints is the number of points after which a batch is complete.
const batchPoints = 200_000

// batch holds metrics of one folder that are sent together, and the state to save
// afterwards.
type batch struct {
	folder  *folder
	metrics []graphite.Metric
	all     []graphite.Point // backing memory of the points of metrics
	points  int
	files   map[string]*fileState
	created int // number of new metrics
}

func newBatch() *batch {
	return &batch{files: map[string]*fileState{}, all: make([]graphite.Point, 0, batchPoints+batchPoints/10)}
}

// reset empties b and keeps its memory for reuse, except for the map b.files.
func (b *batch) reset() {
	*b = batch{files: map[string]*fileState{}, all: b.all[:0], metrics: b.metrics[:0]}
}

// reading is the part of a pass that reads files.
type reading struct {
	*Pusher
	known   map[*folder]map[string]*fileState // state at the start of the pass
	allowed int                               // new metrics that may still be sent
	batches chan *batch                       // complete batches
	free    chan *batch                       // sent batches, for reuse
	next    *batch                            // the batch being filled
}

// read reads the new points of files and sends them in batches to r.batches.
func (r *reading) read(ctx context.Context, files []metricFile) error {
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

// compare uses both readers of package rrdfile to read the new points in files, and
// returns the first difference. It returns nil at once unless r.Reader is rrdfile.Both. A
// pass calls compare before it sends anything.
func (r *reading) compare(ctx context.Context, files []metricFile) error {
	if r.Reader != rrdfile.Both {
		return nil
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// read reports other errors.
		if _, err := r.readNew(f); isDifference(err) {
			return err
		}
	}
	return nil
}

// isDifference reports whether err says that the two readers of package rrdfile read
// different points from a file.
func isDifference(err error) bool { return errors.As(err, new(*rrdfile.DifferenceError)) }

// newPoints holds the new points of a file.
type newPoints struct {
	*rrdfile.File           // nil: the file was not read
	known         fileState // the saved state
	unchanged     bool      // the file was not read
	recreated     bool      // the file is older than its last point sent
	at            time.Time // when the file was read
}

// readNew reads the new points of a file.
func (r *reading) readNew(f metricFile) (got newPoints, err error) {
	path := filepath.Join(f.dir, f.file)
	got.known = r.lastSent(r.known[f.folder], f)
	after := got.known.After
	// A file that no batch contains yet, for example because it could not be read, must
	// still be sent from Since in a later pass.
	again := !r.Since.IsZero() && !r.Since.Equal(got.known.since)
	if again {
		after = r.Since.Unix() - 1
	} else if got.known.Stamp != nil {
		if stamp, err := rrdfile.StampOf(path); err == nil && stamp == *got.known.Stamp {
			got.unchanged = true
			return got, nil
		}
	}
	got.at = time.Now()
	got.File, err = r.reader.Read(path, after)
	if errors.Is(err, fs.ErrNotExist) && f.all && !slices.Contains(f.only, f.file) {
		return got, nil // removed since the folder was read
	}
	if err == nil && got.Update < got.known.After {
		// librrd refuses updates older than the last one. So either Tstat has
		// recreated the file after its clock was ahead, or somebody has replaced
		// the file.
		got.recreated, got.known.After = true, 0
		if !again {
			got.File, err = r.reader.Read(path, 0)
		}
	}
	return got, err
}

// lastSent returns the state of a file in states. If the file now has another metric, for
// example because the table of names has changed, lastSent returns the state of a file
// that was never sent.
func (p *Pusher) lastSent(states map[string]*fileState, f metricFile) fileState {
	known := states[f.file]
	if known == nil || known.Metric != "" && known.Metric != f.path {
		return fileState{}
	}
	return *known
}

// file adds the new points in f to the batch r.next. If f cannot be read, it counts f as
// unreadable and logs the error instead of returning it. It returns an error only if the
// pass must end.
func (r *reading) file(f metricFile) error {
	path := filepath.Join(f.dir, f.file)
	got, err := r.readNew(f)
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
	begin := len(r.next.all)
	metrics, negative, infinite := r.metrics(f, got.File)
	if len(metrics) > 0 && !known.Created {
		if r.allowed < len(metrics) {
			r.sum.Waiting += int64(len(metrics))
			r.next.all = r.next.all[:begin]
			return nil
		}
		r.allowed -= len(metrics)
		r.next.created += len(metrics)
	}
	r.sum.Unknown += got.Unknown
	r.sum.Negative += negative
	r.sum.NotFinite += infinite
	if r.Dest.scheme == "graphite" {
		for _, m := range metrics {
			r.sum.Old += carbonDrops(m.Points, time.Now())
		}
	}
	state := &fileState{After: max(known.After, got.Last), Created: known.Created || len(metrics) > 0, since: r.Since}
	if !r.Dest.exports() {
		state.Metric = f.path
	}
	if stamp := got.Stamp; stamp.Settled(got.at) {
		state.Stamp = &stamp
	}
	r.next.files[f.file] = state
	r.next.metrics = append(r.next.metrics, metrics...)
	r.next.points += graphite.Count(metrics)
	return nil
}

// fail counts the file at path as unreadable. It logs err, unless the last error logged
// for the file was the same.
func (p *Pusher) fail(path string, err error) {
	p.sum.Failed++
	if p.failed[path] != err.Error() {
		p.failed[path] = err.Error()
		p.Log.Warn("file skipped", append([]any{"err", err}, hint.Attrs(err)...)...)
	}
}

// metrics returns the metrics with the new points of a file, and the numbers of negative
// percentiles and of infinite values left out.
func (r *reading) metrics(f metricFile, got *rrdfile.File) (metrics []graphite.Metric, negative, infinite int64) {
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
				infinite++
				continue
			}
			if percentile && pt.Value < 0 {
				negative++
				continue
			}
			r.next.all = append(r.next.all, pt)
		}
		// The slice stays valid if a later append moves r.next.all.
		if m.Points = r.next.all[begin:]; len(m.Points) > 0 {
			metrics = append(metrics, m)
		}
	}
	return metrics, negative, infinite
}

// carbonKeeps is how long carbon keeps points with Debian's storage-schemas.conf:
// 60s:1d,5m:30d,1h:3y. It silently drops older points.
const carbonKeeps = 3 * 365 * 24 * time.Hour

// carbonDrops returns the number of points older than carbonKeeps.
func carbonDrops(points []graphite.Point, now time.Time) int64 {
	n, _ := slices.BinarySearchFunc(points, now.Add(-carbonKeeps).Unix(), func(p graphite.Point, t int64) int { return cmp.Compare(p.Time, t) })
	return int64(n)
}
