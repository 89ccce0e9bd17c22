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

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// reader is a rrdfile.Reader.
type reader interface {
	Read(path string, after int64) (*rrdfile.File, error)
	Close() error
}

// batchPoints is how many points are sent, and remembered, at once.
const batchPoints = 200_000

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
