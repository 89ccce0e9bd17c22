package bulk

import (
	"io"
	"os"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// marks returns the sorted lengths of the stored texts with the file's key, for
// tstat.ReaderOptions.Marks.
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

// compare reads the file, marks the stores that have its text, and updates their
// records to the file's path, size and time. done means that no store is left to
// receive the file. compare does not read a file that cannot match a record.
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
		case rel.intact:
			if err := im.keepIntact(g, rel.stored); err != nil {
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
		g.recordStored(t.time.Time)
		return nil
	})
	if im.hasTargets() {
		return false, nil
	}
	im.progress.Add(t.size, 0)
	if slices.ContainsFunc(im.targets, func(g *target) bool { return g.stored }) {
		im.found = true
	}
	return true, im.failures()
}

// isOfOther reports whether rec describes another file that still exists unchanged. If
// so, the file of this import is a second copy of the log.
func (im *fileImport) isOfOther(rec *store.Record) bool {
	if rec.Path == im.task.path {
		return false
	}
	info, err := os.Stat(rec.Path)
	return err == nil && info.Size() == rec.Size && info.ModTime().Equal(rec.ModTime)
}

// headSize is the number of bytes read to distinguish a file from the files of
// other Tstat processes.
const headSize = 64 << 10

// readHead returns the head of the text in the first headSize bytes of the file; see
// tstat.Reader.Head.
func (im *fileImport) readHead() (string, error) {
	im.rd.Reset(io.LimitReader(im.file, headSize), im.typ(), im.readerOptions(im.task, tstat.ReaderOptions{}))
	if err := im.rd.Drain(); err != nil {
		return "", err
	}
	_, err := im.file.Seek(0, io.SeekStart)
	return im.rd.Head(), err
}
