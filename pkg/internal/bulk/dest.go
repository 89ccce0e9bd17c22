package bulk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Stores are independent of each other. A store with a transient failure is
// unavailable until it responds again; meanwhile files go into the other
// stores. If a store lacks a file at the end of a pass, the next pass imports
// the file into that store.

// Destination is a store that a run opens itself, because it may be unavailable at
// first.
type Destination interface {
	// Open returns the store, and opens it on the first call. An error that
	// wraps store.ErrUnavailable is transient.
	Open(ctx context.Context) (store.Store, error)
	// String returns the URL of the store without secrets.
	String() string
}

// Opened returns destinations for stores that are already open.
func Opened(list ...store.Store) []Destination {
	var to []Destination
	for _, s := range list {
		to = append(to, opened{s})
	}
	return to
}

type opened struct{ store.Store }

func (o opened) Open(context.Context) (store.Store, error) { return o.Store, nil }

// StoreSummary is the result of a run for one of its stores.
type StoreSummary struct {
	Store string `json:"store"` // URL without secrets
	Files int64  `json:"files"` // stored
	Rows  int64  `json:"rows"`  // stored
	// Behind counts the files that the store lacked after the last pass
	// because it was unavailable. Oldest is their earliest folder time.
	Behind int64     `json:"behind"`
	Oldest time.Time `json:"oldest_behind,omitzero"`
	// Last is the folder time of the newest file in the store.
	Last  time.Time `json:"last,omitzero"`
	Error string    `json:"error,omitempty"` // why the store is unavailable
	// Unopened reports that the store never responded in this run.
	Unopened bool `json:"-"`
}

// Lag returns the age of the oldest folder with a file that the store is
// missing. If nothing is missing, Lag returns the age of the newest folder in
// the store; known is false if the store is empty.
func (s *StoreSummary) Lag(now time.Time) (lag time.Duration, known bool) {
	from := cmp.Or(s.Oldest, s.Last)
	return max(0, now.Sub(from)), !from.IsZero()
}

// dest is one of the stores that a run writes to, with its state and counts.
type dest struct {
	Destination
	index     int
	anonymize *anonymize.Anonymizer // may be nil
	transform string                // see store.Record

	mu     sync.Mutex
	st     store.Store // nil until it is opened
	down   bool        // the store is unavailable
	err    error       // the last failure; nil after a success
	since  time.Time   // time of the first failure after the last success
	wait   *retry.Backoff
	sum    StoreSummary
	behind StoreSummary // Behind and Oldest of the current pass
}

// storeSet is a set of stores by their index.
type storeSet uint64

const maxStores = 64

func (s storeSet) has(d *dest) bool { return s&(1<<d.index) != 0 }
func (s *storeSet) add(d *dest)     { *s |= 1 << d.index }

// store returns the store, or the reason why it is unavailable.
func (d *dest) store() (store.Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return nil, d.err
	}
	return d.st, nil
}

// accepts reports whether the store accepts a task's file. An unopened store is
// assumed to accept every known log type.
func (d *dest) accepts(t *task) bool {
	d.mu.Lock()
	st := d.st
	d.mu.Unlock()
	if st == nil || d.anonymize != nil && t.typ == nil {
		return t.typ != nil
	}
	return st.Accepts(t.info())
}

// committed counts a stored file. It reports whether the commit was the first
// success after a failure.
func (d *dest) committed(r *store.Record) (recovered bool) {
	d.recordStored(r.Time)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sum.Files++
	d.sum.Rows += r.Rows
	return d.recovered()
}

// recovered clears the last failure of d unless d is still unavailable, and reports
// whether there was a failure to clear. The caller must hold d.mu.
func (d *dest) recovered() bool {
	if d.down || d.err == nil {
		return false
	}
	d.err, d.since = nil, time.Time{}
	d.wait.Reset()
	return true
}

// recordStored records that the store has a file from the log folder with the given
// time.
func (d *dest) recordStored(folder time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if folder.After(d.sum.Last) {
		d.sum.Last = folder
	}
}

// recordLack records that the store lacks a task's file.
func (d *dest) recordLack(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behind.Behind++
	if at := t.time.Time; d.behind.Oldest.IsZero() || at.Before(d.behind.Oldest) {
		d.behind.Oldest = at
	}
}

// summary returns the result of the run for the store.
func (d *dest) summary() StoreSummary {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sum
	s.Store = d.String()
	s.Unopened = d.st == nil
	if d.down {
		s.Error = strings.TrimPrefix(d.err.Error(), "open "+s.Store+": ") // Store has the name already
	}
	return s
}

// openStores opens all stores concurrently. It marks those with transient errors as
// unavailable, and returns only the other errors.
func (r *run) openStores(ctx context.Context) error {
	errs := make([]error, len(r.dests))
	var wg sync.WaitGroup
	for i, d := range r.dests {
		wg.Go(func() {
			if err := r.open(ctx, d); errors.Is(err, store.ErrUnavailable) {
				r.markUnavailable(d, err)
			} else {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// open opens the store of d, and checks that the store supports the options of the run.
func (r *run) open(ctx context.Context, d *dest) error {
	st, err := d.Open(ctx)
	if err != nil {
		return err
	}
	if r.opt.Replace && st.Properties().AppendOnly {
		return hint.Usage(fmt.Sprintf("replace: not possible in %s, whose rows do not name their file", st), "")
	}
	if c, ok := st.(store.TransformChecker); ok && d.transform != "" && !r.opt.DryRun {
		if err := c.CheckTransform(); err != nil {
			return fmt.Errorf("%s: %w", st, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.st = st
	return nil
}

// use calls f with a store unless the store is unavailable. It marks the store as
// unavailable if f returns store.ErrUnavailable. If the run has several stores, any error
// returned by f has the same effect.
func (r *run) use(ctx context.Context, d *dest, f func(store.Store) error) error {
	st, err := d.store()
	if err != nil {
		return err
	}
	if err = f(st); err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", d, err)
	if ctx.Err() != nil {
		return err
	}
	if len(r.dests) > 1 && !errors.Is(err, store.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if errors.Is(err, store.ErrUnavailable) {
		r.markUnavailable(d, err)
	}
	return err
}

// Bounds of the wait between two attempts to reach an unavailable store.
const (
	minRetry = 200 * time.Millisecond
	maxRetry = 15 * time.Second
)

// markUnavailable marks d as unavailable because of err, and starts to retry it in the
// background.
func (r *run) markUnavailable(d *dest, err error) {
	d.mu.Lock()
	was, first := d.down, d.err == nil
	d.down, d.err = true, err
	if first {
		d.since = time.Now()
	}
	d.mu.Unlock()
	if !was {
		r.probes.Go(func() { r.probe(d, first) })
	}
	if !first {
		return
	}
	if r.opt.OnUnavailable != nil && r.opt.RetryTimeout > 0 {
		r.opt.OnUnavailable(r.stores(), err)
	}
	switch {
	case len(r.dests) > 1:
		r.log.Warn("store unavailable, importing into the others", "store", d.String(), "err", err)
	case r.opt.RetryTimeout == math.MaxInt64: // without limit
		r.log.Warn("store unavailable, retrying", "store", d.String(), "err", err)
	case r.opt.RetryTimeout > 0:
		r.log.Warn("store unavailable, retrying", "store", d.String(), "err", err, "timeout", r.opt.RetryTimeout)
	}
}

// probe retries d until it responds or the run ends. If atOnce is true, the first
// attempt is immediate, because the cause of the failure, such as a deadlock, may
// already be over.
func (r *run) probe(d *dest, atOnce bool) {
	for ; ; atOnce = false {
		d.mu.Lock()
		wait, st := d.wait.Next(), d.st
		d.mu.Unlock()
		if !atOnce && retry.Sleep(r.ctx, wait) != nil {
			return
		}
		var err error
		if st == nil {
			err = r.open(r.ctx, d)
		} else if _, err = st.Lookup(r.ctx, probeKeys); err != nil {
			err = fmt.Errorf("%s: %w", d, err)
		}
		if r.ctx.Err() != nil {
			return // err is caused by the end of the run
		}
		permanent := err != nil && !errors.Is(err, store.ErrTransient)
		d.mu.Lock()
		before := d.err
		switch {
		case err == nil:
			d.down = false
		case errors.Is(err, store.ErrUnavailable):
			d.err = err
		default: // files still go into the other stores
			d.err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		d.mu.Unlock()
		if permanent && errors.Is(before, store.ErrTransient) {
			r.log.Error("store failed", append([]any{"store", d.String(), "err", err}, hint.Attrs(err)...)...)
			r.wake()
		}
		if err == nil {
			r.wake()
			return
		}
	}
}

// wake wakes all goroutines waiting on the channel returned by changes.
func (r *run) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// probeKeys holds a key that has no records in any store. probe looks up this key to
// test whether a store responds.
var probeKeys = []store.Key{{Probe: "none", Folder: "1970_01_01_00_00.out", File: "log_tcp_complete"}}

// await waits until a store in the set is available. It returns the errors of the stores
// once all of them have failed permanently or have been unavailable for
// Options.RetryTimeout.
func (r *run) await(ctx context.Context, set storeSet) error {
	for {
		changed := r.changes()
		var left time.Duration
		var errs []error
		for _, d := range r.dests {
			if !set.has(d) {
				continue
			}
			d.mu.Lock()
			down, err, since := d.down, d.err, d.since
			d.mu.Unlock()
			until := time.Until(since.Add(r.opt.RetryTimeout))
			switch {
			case err == nil:
				return nil
			case !errors.Is(err, store.ErrTransient): // for example a full disk
			case until > 0 && !down:
				return nil
			default:
				left = max(left, until)
			}
			errs = append(errs, err)
		}
		if left <= 0 {
			return errors.Join(errs...)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(left):
		}
	}
}

// allStores returns the set of all stores.
func (r *run) allStores() storeSet { return 1<<len(r.dests) - 1 }

// changes returns a channel that is closed when a store becomes available or
// fails permanently.
func (r *run) changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// available returns the stores of a set that are available.
func (r *run) available(set storeSet) (list []*dest) {
	for _, d := range r.dests {
		if _, err := d.store(); err == nil && set.has(d) {
			list = append(list, d)
		}
	}
	return list
}

// lookup returns the records of keys, by store index and key. The map of an
// unavailable store is nil. lookup returns an error if all stores are
// unavailable.
func (r *run) lookup(ctx context.Context, keys []store.Key) ([]map[store.Key][]store.Record, error) {
	found := make([]map[store.Key][]store.Record, len(r.dests))
	var down []error
	for _, d := range r.dests {
		if !r.passStores.has(d) {
			continue
		}
		err := r.use(ctx, d, func(s store.Store) error {
			byKey := map[store.Key][]store.Record{}
			for chunk := range slices.Chunk(keys, lookupKeys) {
				rs, err := s.Lookup(ctx, chunk)
				if err != nil {
					return err
				}
				for _, rec := range rs {
					byKey[rec.Key] = append(byKey[rec.Key], rec)
				}
			}
			found[d.index] = byKey
			return nil
		})
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			return nil, err
		}
		down = append(down, err)
	}
	if !slices.ContainsFunc(down, func(err error) bool { return err == nil }) {
		return nil, errors.Join(down...)
	}
	return found, nil
}

// behind returns the stores that are unavailable or lack files of the pass.
func (r *run) behind() (set storeSet) {
	for _, d := range r.dests {
		d.mu.Lock()
		d.sum.Behind, d.sum.Oldest = d.behind.Behind, d.behind.Oldest
		if d.down || d.sum.Behind > 0 {
			set.add(d)
		} else if d.recovered() {
			r.log.Info("store available again", "store", d.String())
		}
		d.mu.Unlock()
	}
	return set
}

// behindError returns an error that names the stores that lack files at the end
// of a pass, or nil.
func (r *run) behindError() error {
	var errs []error
	for _, d := range r.dests {
		s := d.summary()
		_, err := d.store()
		switch {
		case err == nil && s.Behind == 0:
		case err == nil:
			errs = append(errs, fmt.Errorf("%s: %w; files not stored there: %d", d, store.ErrUnavailable, s.Behind))
		default:
			if s.Behind > 0 {
				err = fmt.Errorf("%w; files not stored there: %d", err, s.Behind)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
