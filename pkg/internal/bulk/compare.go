package bulk

import (
	"io"
	"os"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// marks returns the lengths of the stored texts of the key.
func (im *fileImport) marks() []int64 {
	var m []int64
	for _, rs := range im.task.records {
		for _, rec := range rs {
			m = append(m, rec.Length)
		}
	}
	slices.Sort(m)
	return slices.Compact(m)
}

// compare reads the file and finds the stores that have its text. It updates
// their records to the present state of the file. done reports whether all
// stores have the text.
func (im *fileImport) compare() (done bool, err error) {
	t := im.task
	if im.opt.Replace {
		return false, nil
	}
	if needed, err := im.needsComparison(); !needed || err != nil {
		return false, err
	}
	in := &sourceReader{ctx: im.ctx, in: im.file, limiter: im.limits.rate, progress: noProgress{}}
	im.rd.Reset(in, im.typ(), im.readerOptions(t, tstat.ReaderOptions{Marks: im.marks()}))
	if err := im.rd.Drain(); err != nil {
		return false, err
	}
	if _, err := im.file.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	read := im.text()
	im.each(func(g *target) error {
		rel := im.relate(g.index, read)
		if rel.stored == nil {
			if g.prefix = im.prefix(rel.replace); g.prefix != nil {
				g.prefixLines = im.rd.MarkLine(g.prefix.Length)
			}
			return nil
		}
		switch {
		case rel.spared:
			if err := im.spare(g, rel.stored); err != nil {
				return err
			}
		case rel.older || im.isOfOther(rel.stored):
			im.copies.add(t, g, rel.stored)
		case !im.opt.DryRun:
			rec := *rel.stored
			rec.Size, rec.ModTime, rec.Path = t.size, t.mtime, t.path
			if err := g.st.Refresh(im.ctx, rec); err != nil {
				return err
			}
		}
		g.stored = true
		g.has(t.time.Time)
		return nil
	})
	if im.left() {
		return false, nil
	}
	im.progress.Add(t.size, 0)
	if slices.ContainsFunc(im.targets, func(g *target) bool { return g.stored }) {
		im.found = true
	}
	return true, im.failures()
}

// isOfOther reports whether a record of the text describes another file that
// still exists unchanged: one of two copies of a log is enough.
func (im *fileImport) isOfOther(rec *store.Record) bool {
	if rec.Path == im.task.path {
		return false
	}
	info, err := os.Stat(rec.Path)
	return err == nil && info.Size() == rec.Size && info.ModTime().Equal(rec.ModTime)
}

// headSize is how much of a file is read to distinguish it from files of other
// Tstat processes, in bytes.
const headSize = 64 << 10

// readHead returns the head of the file's text, up to headSize.
func (im *fileImport) readHead() (string, error) {
	im.rd.Reset(io.LimitReader(im.file, headSize), im.typ(), im.readerOptions(im.task, tstat.ReaderOptions{}))
	if err := im.rd.Drain(); err != nil {
		return "", err
	}
	_, err := im.file.Seek(0, io.SeekStart)
	return im.rd.Head(), err
}
