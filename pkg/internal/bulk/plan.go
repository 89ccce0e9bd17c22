package bulk

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// prepare announces the files of the pass to the stores. A store that is unavailable at
// that moment receives no files in this pass.
func (r *run) prepare(ctx context.Context, groups [][]*task) error {
	clear(r.elsewhere)
	r.passStores = r.allStores()
	silent, err := r.lookupElsewhere(ctx, slices.Concat(groups...))
	if err != nil {
		return err
	}
	var files []store.FileInfo
	for _, g := range groups {
		for _, t := range g {
			if t.typ != nil && t.key.Folder != "" { // other files are named after their first rows
				files = append(files, t.info())
			}
		}
	}
	r.passStores = 0
	var errs []error
	for _, d := range r.dests {
		st, err := d.store()
		if err == nil && !silent.has(d) {
			st.Plan(files)
			r.passStores.add(d)
		}
		errs = append(errs, err)
	}
	if r.passStores == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// info returns what is known about a task's file before it is read.
func (t *task) info() store.FileInfo {
	return store.FileInfo{Key: t.key, Type: t.typ, Time: t.time.Time, Next: t.next}
}

// skipStored returns the tasks whose files must be imported, grouped by key, and the
// tasks whose files are stored in their current state. It counts the latter as skipped.
// The groups are in the order of their first tasks.
func (r *run) skipStored(ctx context.Context, tasks []*task) (groups [][]*task, stored []*task, err error) {
	var keys []store.Key
	byKey := map[store.Key][]*task{}
	for _, t := range tasks {
		if t.key.Folder == "" { // the key is unknown before the file is read
			continue
		}
		if byKey[t.key] == nil {
			keys = append(keys, t.key)
		}
		byKey[t.key] = append(byKey[t.key], t)
	}
	var found []map[store.Key][]store.Record
	err = r.retry(ctx, func() (err error) { found, err = r.lookup(ctx, keys); return err })
	if err != nil {
		return nil, nil, err
	}
	// This or another run may already have replaced the file.
	var since time.Time
	if r.opt.Replace {
		since = r.sum.Started
	}
	index := map[store.Key]int{}
	for _, t := range tasks {
		r.setRecords(t, found)
		if r.storedAsIs(t, since) {
			r.skip(t)
			r.markExamined(t, time.Time{})
			stored = append(stored, t)
			continue
		}
		if i, ok := index[t.key]; ok && t.key.Folder != "" {
			groups[i] = append(groups[i], t)
			continue
		}
		index[t.key] = len(groups)
		groups = append(groups, []*task{t})
	}
	for _, g := range groups {
		if len(g) > 1 { // longest first: shorter files may be older states of it
			slices.SortStableFunc(g, func(a, b *task) int { return cmp.Compare(b.textSize(), a.textSize()) })
		}
	}
	return groups, stored, nil
}

// setRecords sets t.records from the result of lookup. It sets t.lacks to the unavailable
// stores that may lack the file.
func (r *run) setRecords(t *task, found []map[store.Key][]store.Record) {
	t.lacks, t.records = 0, make([][]store.Record, len(r.dests))
	for i, d := range r.dests {
		if found[i] == nil && d.accepts(t) {
			t.lacks.add(d)
		}
		t.records[i] = found[i][t.key]
	}
}

// textSize estimates the uncompressed size of a task's file in bytes.
func (t *task) textSize() int64 {
	if _, suffix := compression.CutSuffix(t.path); suffix != "" {
		return 8 * t.size
	}
	return t.size
}
