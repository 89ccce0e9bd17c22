package bulk

import (
	"errors"
	"fmt"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// commit commits the file to every store that received it, and counts it. If the file
// was counted before, for another store or transform, commit only counts further
// rejects. typed says whether any of these stores accepts rows rather than whole files.
func (im *fileImport) commit(typed bool) error {
	t, c := im.task, im.rd.Counts()
	if c.Lines != c.Rows+c.Rejects+c.Cuts {
		return fmt.Errorf("internal error: read %d lines, but %d rows, %d rejects and %d cuts", c.Lines, c.Rows, c.Rejects, c.Cuts)
	}
	read := im.text()
	rec := store.Record{
		Key: t.key, Fingerprint: read.Fingerprint, Place: t.place, Head: read.head,
		Size: t.size, ModTime: t.mtime, Path: t.path,
		Type: t.key.File, Layout: im.rd.Layout(), Time: t.time.Time,
		Rows: c.Rows - im.filtered, Rejects: c.Rejects, Cut: c.Cuts, Damaged: im.rd.Damage() != nil, Imported: time.Now().UTC(),
		Transform: im.opt.transform(im.anonymize),
	}
	if !typed {
		im.idle() // from here on the import only waits for the disk
	}
	for _, g := range im.targets {
		if g.tx == nil {
			continue
		}
		if err := im.checkElsewhere(g, &rec); err != nil {
			return err
		}
	}
	var sum commits
	im.each(func(g *target) error {
		if g.tx == nil {
			return nil
		}
		return im.commitTo(g, rec, read, &sum)
	})
	if sum.stores == 0 {
		if im.hasTargets() {
			im.found = true // another import has stored it
		}
		return nil
	}
	im.warnTruncated()
	rejects := c.Rejects + sum.rejected
	if more := rejects - t.rejects; t.counted && more > 0 {
		t.rejects = rejects
		im.count(t, func(s *TypeSummary) {
			s.Rows -= more
			s.Rejects += more
		})
	}
	im.countOnce(t, func(s *TypeSummary) {
		t.rejects = rejects
		if rec.Damaged {
			s.Damaged++
		}
		if sum.replaced > 0 {
			s.Replaced++
		}
		s.Files++
		s.Lines += c.Lines
		s.Rows += c.Rows - im.filtered - sum.rejected
		s.Filtered += im.filtered
		s.Rejects += rejects
		s.Cuts += c.Cuts
		s.Escaped += c.Escaped
		s.Bytes += t.size
		s.Text += c.Text
	})
	return nil
}

// commits counts the commits of one log in all stores.
type commits struct {
	stores, replaced int
	rejected         int64 // maximum number of rows that a store rejected
}

// commitTo commits the file to the store of g, unless that store already has the file's
// text. It adds the result to sum.
func (im *fileImport) commitTo(g *target, rec store.Record, read text, sum *commits) error {
	t := im.task
	rel := im.replaced(g.index, read)
	if rel.intact {
		if err := im.keepIntact(g, rel.stored); err != nil {
			return err
		}
	}
	if rel.stored != nil {
		return nil
	}
	if p := im.prefix(rel.replace); !t.stdin && !im.opt.Replace && p != nil && (g.prefix == nil || !p.Same(*g.prefix)) {
		return store.ErrConflict // the file changed while it was read
	}
	if rel.anyPlace {
		rec.Place = ""
	}
	rec.Rows -= g.rejected
	rec.Rejects += g.rejected
	err := g.tx.Commit(im.ctx, rec, t.records[g.index], rel.replace)
	if errors.Is(err, store.ErrDuplicate) {
		return nil
	}
	if err != nil {
		return err
	}
	if g.committed(&rec) {
		im.log.Info("store available again", "store", g.dest.String())
	}
	sum.rejected = max(sum.rejected, g.rejected)
	sum.stores++
	sum.replaced += len(rel.replace)
	im.warn(g.st, rel)
	return nil
}

// warn logs a warning if the log changed other than by growing, if the store has another
// log under the same name, or if another stored log is the start of it.
func (im *fileImport) warn(s store.Store, rel relation) {
	t := im.task
	switch {
	case rel.changed:
		im.log.Warn("log changed other than by growing; its rows were replaced", "file", t.path, "store", s.String(),
			"rows_before", rel.replace[0].Rows, "read_before_from", rel.replace[0].Path)
	case rel.other != nil:
		im.log.Warn("another file was stored under this name; stored beside it", "file", t.path, "store", s.String())
	case rel.prefix != nil:
		im.log.Warn("another stored log is the start of this one; both are stored", "file", t.path, "store", s.String(), "other", rel.prefix.Path)
	}
}

// replaced returns the result of relate or, with Options.Replace, a relation in which
// the file replaces all of its records that existed when the run started.
func (im *fileImport) replaced(index int, t text) relation {
	if !im.opt.Replace {
		return im.relate(index, t)
	}
	var rel relation
	own, free, others := im.recordsFor(im.task, index)
	for _, rec := range others {
		if rec.Place == "" && rec.Fingerprint == t.Fingerprint {
			return relation{stored: &rec, older: true}
		}
	}
	for _, rec := range free {
		other := rec.Transform != im.dests[index].transform && rec.Size == im.task.size && rec.ModTime.Equal(im.task.mtime)
		if related := im.relateTo([]store.Record{rec}, t, true); rec.Place == "" || other || related.stored != nil || len(related.replace) > 0 {
			own = append(own, rec)
		}
	}
	for _, rec := range own {
		if im.rd.Damage() != nil && !rec.Damaged && rec.Fingerprint != t.Fingerprint && !im.startsWith(&rec, t) {
			return relation{stored: &rec, older: true, intact: true}
		}
		if rec.Imported.Before(im.sum.Started) {
			rel.replace = append(rel.replace, rec)
			rel.anyPlace = rel.anyPlace || rec.Place == "" && rec.Fingerprint == t.Fingerprint
		}
	}
	return rel
}
