package bulk

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// target is a store that may receive the file of a fileImport.
type target struct {
	*dest
	st     store.Store
	raw    store.RawStore // nil if the store accepts rows
	stored bool           // the store has the file's text
	err    error          // why the store does not receive the file

	prefix      *store.Record // the longest stored text with which the file starts
	prefixLines int64         // lines of that text

	tx       store.FileTx // nil unless open
	rejected int64        // rows, known once they are flushed
}

// findTargets sets im.targets to the available stores that may receive the file, except
// those in leaveOut. It repeats the lookup of the file's key if the earlier result may
// be outdated: another file with this key may have been stored since the scan.
func (im *fileImport) findTargets(leaveOut storeSet) error {
	t := im.task
	if !t.fresh || t.lacks != 0 {
		found, err := im.lookup(im.ctx, []store.Key{t.key})
		if err != nil {
			return im.deferFile(err)
		}
		im.setRecords(t, found)
	}
	t.fresh = false // a second attempt repeats the lookup
	for _, d := range im.dests {
		st, err := d.store()
		switch {
		case t.lacks.has(d) || !d.accepts(t):
		case err != nil || leaveOut.has(d):
			t.lacks.add(d)
		default:
			raw, _ := st.(store.RawStore)
			g := &target{dest: d, st: st, raw: raw}
			if rec := im.otherTransform(t, d.index); rec != nil {
				im.skipOther(t, d, rec)
				g.stored = true
			}
			im.targets = append(im.targets, g)
		}
	}
	return nil
}

// deferFile handles the error of a lookup. If err wraps store.ErrUnavailable but some
// store is available, it leaves the file for the next pass and returns nil. Otherwise it
// returns err.
func (im *fileImport) deferFile(err error) error {
	if !errors.Is(err, store.ErrUnavailable) || len(im.available(im.allStores())) == 0 {
		return err
	}
	im.task.lacks = im.allStores()
	return nil
}

// each calls f for each store that should still receive the file. If f returns an
// error, that store is dropped; see drop.
func (im *fileImport) each(f func(g *target) error) {
	for _, g := range im.targets {
		if g.stored || g.err != nil {
			continue
		}
		if err := f(g); err != nil {
			im.drop(g, err)
		}
	}
}

// drop aborts the import of the file into store g because of err.
func (im *fileImport) drop(g *target, err error) {
	g.abort()
	g.err = fmt.Errorf("%s: %w", g.dest, err)
	if errors.Is(err, store.ErrUnavailable) && im.ctx.Err() == nil {
		im.task.lacks.add(g.dest)
		im.markUnavailable(g.dest, g.err)
	}
}

func (g *target) abort() {
	if g.tx != nil {
		g.tx.Abort()
		g.tx = nil
	}
}

// hasTargets reports whether any store should still receive the file.
func (im *fileImport) hasTargets() bool {
	return slices.ContainsFunc(im.targets, func(g *target) bool { return !g.stored && g.err == nil })
}

// hasRaw reports whether a store of whole files should still receive the file.
func (im *fileImport) hasRaw() bool {
	return slices.ContainsFunc(im.targets, func(g *target) bool { return g.raw != nil && !g.stored && g.err == nil })
}

// failures returns the errors of stores that do not receive the file. While any
// store is available, it omits unavailable stores, because they receive the file
// in a later pass.
func (im *fileImport) failures() error {
	var errs, down []error
	for _, g := range im.targets {
		if errors.Is(g.err, store.ErrUnavailable) {
			down = append(down, g.err)
		} else {
			errs = append(errs, g.err)
		}
	}
	if len(im.available(im.allStores())) == 0 {
		errs = append(errs, down...)
	}
	return errors.Join(errs...)
}
