package bulk

import (
	"os"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Several Tstat processes may write log folders of the same name below one
// source: their logs have the same key. What tells them apart is the place, see
// store.Record.Place. A record belongs to a file of the scan, or it is free: its
// file was moved, or removed, or its place is not known. A free record can be
// that of any one file of its key.

// noteScanned adds a file to those of its key, also one that is not imported.
func (r *run) noteScanned(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scanned[t.key] = append(r.scanned[t.key], t)
}

// scannedAs returns the files of the scan that have a key.
func (r *run) scannedAs(k store.Key) []*task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.scanned[k]
}

// owner returns the file that a record of its key belongs to, nil if the
// record is free.
func owner(rec *store.Record, files []*task) *task {
	for _, t := range files { // at whatever place, should the source be another folder now
		if t.path == rec.Path {
			return t
		}
	}
	for _, t := range files {
		if rec.Place != "" && t.place == rec.Place {
			return t
		}
	}
	return nil
}

// claim is a free record of a store, which a file has taken.
type claim struct {
	store int // index in Options.Stores
	key   store.Key
	text  string
}

// take notes that a free record is that of t.
func (r *run) take(index int, rec *store.Record, t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken[claim{index, rec.Key, rec.Text()}] = t.path
}

// takenFrom reports whether another file of the scan has taken a free record.
func (r *run) takenFrom(t *task, index int, rec *store.Record, files []*task) bool {
	r.mu.Lock()
	path, ok := r.taken[claim{index, rec.Key, rec.Text()}]
	r.mu.Unlock()
	if !ok || path == t.path {
		return false
	}
	for _, f := range files {
		if f.path == path {
			return true
		}
	}
	return false
}

// recordsFor sorts the records of t's key in a store: its own, the free ones
// and those of other files of the scan.
func (r *run) recordsFor(t *task, index int) (own, free, others []store.Record) {
	files := r.scannedAs(t.key)
	for _, rec := range t.records[index] {
		o := owner(&rec, files)
		switch {
		case t.place == "", o == t, o == nil && rec.Place == "" && len(files) <= 1:
			own = append(own, rec)
		case o == nil && !r.takenFrom(t, index, &rec, files):
			free = append(free, rec)
		default:
			others = append(others, rec)
		}
	}
	return own, free, others
}

// storedAsIs reports whether every store that is available has the file as it
// is on disk, and has had it imported no earlier than a time.
func (r *run) storedAsIs(t *task, since time.Time) bool {
	if t.stdin {
		return false
	}
	fits := func(rec *store.Record) bool {
		return !rec.Imported.Before(since) && rec.Size == t.size && !rec.Damaged && (rec.ModTime.IsZero() || rec.ModTime.Equal(t.mtime))
	}
	for i, d := range r.dests {
		if t.lacks.has(d) || !d.accepts(t) {
			continue
		}
		found := false
		own, free, _ := r.recordsFor(t, i)
		for _, rec := range own {
			found = found || fits(&rec)
		}
		for _, rec := range free {
			if !found && fits(&rec) && !r.hasTwin(t) {
				found = true
				r.take(i, &rec, t)
			}
		}
		if !found {
			return false
		}
		d.has(t.time.Time)
	}
	return true
}

// hasTwin reports whether another file of the scan and of t's key looks like t:
// only their text tells which one a free record is of.
func (r *run) hasTwin(t *task) bool {
	for _, o := range r.scannedAs(t.key) {
		if o != t && o.size == t.size && o.mtime.Equal(t.mtime) {
			return true
		}
	}
	return false
}

// text is what was read of a file.
type text struct {
	store.Fingerprint
	head string
}

func (im *fileImport) text() text {
	sha, length := im.rd.Fingerprint()
	return text{store.Fingerprint{SHA256: sha, Length: length}, im.rd.Head()}
}

// relation is what a text that was read is to the records of a store.
type relation struct {
	// stored is the record that makes the text one to skip: of the text itself,
	// or, with older set, of a longer one that it is a prefix of. nil: the text
	// is to be stored.
	stored *store.Record
	older  bool
	// replace are the records that go when the text is stored. They are
	// prefixes of it, or, with changed set, texts that start alike.
	replace []store.Record
	changed bool
	// other is a record under the file's own name that the text has nothing to
	// do with: Tstat made the folder again.
	other *store.Record
	// prefix is a record of another file that is a prefix of the text.
	prefix *store.Record
}

// relate finds out what a text is to the records of a store. What is known of
// the file itself counts first, then records of files that are gone.
func (im *fileImport) relate(index int, t text) relation {
	own, free, others := im.recordsFor(im.task, index)
	if rel := im.relateTo(index, own, t, false); rel.stored != nil || len(rel.replace) > 0 {
		return rel
	}
	if rel := im.relateTo(index, free, t, true); rel.stored != nil || len(rel.replace) > 0 {
		if rel.stored != nil {
			im.take(index, rel.stored, im.task)
		}
		return rel
	}
	rel := im.relateToOthers(others, t)
	for i := range own {
		if own[i].Rows > 0 && t.head != "" {
			rel.other = &own[i]
		}
	}
	return rel
}

// relateTo is relate for records that may be of the file. With moved, they are
// of another place.
func (im *fileImport) relateTo(index int, records []store.Record, t text, moved bool) (rel relation) {
	var same, alike []store.Record
	for _, rec := range records {
		alikeHead, agree := tstat.CompareHeads(rec.Head, t.head)
		part := rec.Damaged && (!moved || alikeHead)
		switch {
		case part && im.rd.Damage() == nil: // the file is repaired
			rel.replace = append(rel.replace, rec)
		case rec.Fingerprint == t.Fingerprint:
			same = append(same, rec)
		case rec.Length < t.Length && im.rd.Mark(rec.Length) == rec.SHA256:
			// A log without rows is the start of any log.
			if !moved || rec.Place == "" || rec.Rows > 0 {
				rel.replace = append(rel.replace, rec)
			}
		case rec.Length > t.Length && agree && !rec.Damaged,
			rec.Length > t.Length && rec.Head == "" && t.head != "" && im.fileStartsWith(&rec, t):
			rel.stored, rel.older = &rec, true
		case part: // it is damaged otherwise
			rel.replace = append(rel.replace, rec)
		case alikeHead:
			alike = append(alike, rec)
		}
	}
	switch {
	case len(rel.replace) > 0:
		// Should the whole text be stored as well, it is stored again.
		return relation{replace: append(rel.replace, same...)}
	case len(same) > 0:
		return relation{stored: &same[0]}
	case rel.stored == nil && len(alike) > 0:
		return relation{replace: alike, changed: true}
	}
	return rel
}

// relateToOthers is relate for records of other files of the scan. They stay,
// but a text that is only the beginning of theirs is an older state of the log,
// as in a backup. If such a text was stored before the longer one was read, it
// goes again.
func (im *fileImport) relateToOthers(records []store.Record, t text) (rel relation) {
	for _, rec := range records {
		_, agree := tstat.CompareHeads(rec.Head, t.head)
		switch {
		case rec.Length > t.Length && agree && im.fileStartsWith(&rec, t):
			return relation{stored: &rec, older: true}
		case rec.Length < t.Length && rec.Rows > 0 && im.rd.Mark(rec.Length) == rec.SHA256:
			if rec.Imported.Before(im.began) {
				rel.prefix = &rec
			} else {
				rel.replace = append(rel.replace, rec)
			}
		}
	}
	return rel
}

// fileStartsWith reports whether the file of a record, which must be as it was
// when it was stored, starts with a text.
func (im *fileImport) fileStartsWith(rec *store.Record, t text) bool {
	info, err := os.Stat(rec.Path)
	if err != nil || info.Size() != rec.Size || !info.ModTime().Equal(rec.ModTime) {
		return false
	}
	f, err := openPath(rec.Path)
	if err != nil {
		return false
	}
	defer f.Close()
	rd := im.readers.Get().(*tstat.Reader)
	defer im.readers.Put(rd)
	in := &sourceReader{ctx: im.ctx, in: f, limiter: im.limits.rate, progress: noProgress{}}
	rd.Reset(in, im.typ(), tstat.ReaderOptions{Marks: []int64{t.Length}})
	return rd.Drain() == nil && rd.Mark(t.Length) == t.SHA256
}

// needsComparison reports whether the file's text can be related to what is
// stored, so that it has to be read before it is imported.
func (im *fileImport) needsComparison() (bool, error) {
	var heads []string
	for _, g := range im.targets {
		own, free, others := im.recordsFor(im.task, g.index)
		if len(own)+len(free) > 0 {
			return true, nil
		}
		for _, rec := range others {
			heads = append(heads, rec.Head)
		}
	}
	if len(heads) == 0 {
		return false, nil
	}
	// Logs of other Tstat processes start otherwise.
	head, err := im.readHead()
	if err != nil {
		return false, err
	}
	for _, h := range heads {
		if same, _ := tstat.CompareHeads(h, head); same {
			return true, nil
		}
	}
	return false, nil
}

// prefix returns the record of the longest of the texts that the file starts
// with, nil if it starts with none.
func (im *fileImport) prefix(records []store.Record) (longest *store.Record) {
	for i, rec := range records {
		if im.rd.Mark(rec.Length) == rec.SHA256 && (longest == nil || rec.Length > longest.Length) {
			longest = &records[i]
		}
	}
	return longest
}
