package bulk

import (
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Several Tstat processes may write log folders of the same name below one
// source, so that their logs have the same key. The place distinguishes such
// logs; see store.Record.Place. A record belongs to a file of the scan, or it is
// free: its file was moved or removed, or its place is unknown. A free record
// may belong to any one file with its key.

// sameKey holds the files of a scan that have the same key. A nil sameKey holds no
// files.
type sameKey struct {
	files []*task
	// Indexes of files by path and by place; nil for up to fewFiles files.
	paths, places map[string]*task
}

// fewFiles is the largest number of files in a sameKey that is searched linearly. Most
// keys have only one file.
const fewFiles = 16

func (s *sameKey) add(t *task) {
	s.files = append(s.files, t)
	if len(s.files) <= fewFiles {
		return
	}
	fresh := s.files[len(s.files)-1:]
	if s.paths == nil {
		s.paths, s.places, fresh = map[string]*task{}, map[string]*task{}, s.files
	}
	for _, t := range fresh {
		if s.paths[t.path] == nil {
			s.paths[t.path] = t
		}
		if s.places[t.place] == nil {
			s.places[t.place] = t
		}
	}
}

func (s *sameKey) all() []*task {
	if s == nil {
		return nil
	}
	return s.files
}

// withPath returns the file with the given path, or nil.
func (s *sameKey) withPath(path string) *task {
	if s != nil && s.paths != nil {
		return s.paths[path]
	}
	return findTask(s.all(), func(t *task) bool { return t.path == path })
}

// withPlace returns the first file with the given place, or nil.
func (s *sameKey) withPlace(place string) *task {
	if s != nil && s.places != nil {
		return s.places[place]
	}
	return findTask(s.all(), func(t *task) bool { return t.place == place })
}

func findTask(tasks []*task, is func(*task) bool) *task {
	if i := slices.IndexFunc(tasks, is); i >= 0 {
		return tasks[i]
	}
	return nil
}

// owner returns the file of the scan to which rec belongs. It returns nil if rec is
// free, that is, if no file of the scan has its path or place.
func (s *sameKey) owner(rec *store.Record) *task {
	// The path takes precedence over the place, because the sources of this
	// run may differ from those of the record.
	if t := s.withPath(rec.Path); t != nil || rec.Place == "" {
		return t
	}
	return s.withPlace(rec.Place)
}

// addScanned adds a file to the scanned files of its key, even if it will not
// be imported.
func (r *run) addScanned(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.scanned[t.key] == nil {
		r.scanned[t.key] = &sameKey{}
	}
	r.scanned[t.key].add(t)
}

// forgetScan frees the memory of a pass, because with Follow the next pass may
// start much later.
func (r *run) forgetScan() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scanned, r.examinedBefore, r.leftOpen = nil, nil, nil
	clear(r.elsewhere)
	clear(r.addresses)
}

// freeRecord identifies a free record in a store; see sameKey.owner.
type freeRecord struct {
	store int // index in Options.Stores
	key   store.Key
	text  string // Record.Text
}

// assign records that rec belongs to t. rec is a free record in the store
// Options.Stores[index].
func (r *run) assign(index int, rec *store.Record, t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.assigned[freeRecord{index, rec.Key, rec.Text()}] = t.path
}

// recordsFor returns the records that the store with the given index has for the key of
// t. It divides them into records of t itself, free records, and records of other files
// of the scan.
func (r *run) recordsFor(t *task, index int) (own, free, others []store.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	same := r.scanned[t.key]
	for _, rec := range t.records[index] {
		o := same.owner(&rec)
		taken := r.assigned[freeRecord{index, rec.Key, rec.Text()}]
		switch {
		case t.place == "", o == t, o == nil && rec.Place == "" && len(same.all()) <= 1:
			own = append(own, rec)
		case o == nil && (taken == "" || taken == t.path || same.withPath(taken) == nil):
			free = append(free, rec)
		default:
			others = append(others, rec)
		}
	}
	return own, free, others
}

// storedAsIs reports whether every available store has the current state of the file.
// It disregards records that were imported before the given time.
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
		if rec := r.otherTransform(t, i); rec != nil {
			r.skipOther(t, d, rec)
			d.recordStored(t.time.Time)
			continue
		}
		found := false
		hasTwin := sync.OnceValue(func() bool { return r.hasTwin(t) })
		own, free, _ := r.recordsFor(t, i)
		for _, rec := range own {
			found = found || fits(&rec)
		}
		for _, rec := range free {
			if !found && fits(&rec) && !hasTwin() {
				found = true
				r.assign(i, &rec, t)
			}
		}
		if !found && since.IsZero() {
			if rec := r.copies.find(t, d, t.records[i]); rec != nil {
				found = true
				r.assign(i, rec, t)
			}
		}
		if !found {
			return false
		}
		d.recordStored(t.time.Time)
	}
	return true
}

// hasTwin reports whether another file in the scan has the same key, size and modification
// time as t. If so, only the content shows which of the files a free record belongs to.
func (r *run) hasTwin(t *task) bool {
	r.mu.Lock()
	files := r.scanned[t.key].all()
	r.mu.Unlock()
	return slices.ContainsFunc(files, func(o *task) bool { return o != t && o.size == t.size && o.mtime.Equal(t.mtime) })
}

// text describes the content that was read from a file.
type text struct {
	store.Fingerprint
	head string
}

func (im *fileImport) text() text {
	sha, length := im.rd.Fingerprint()
	return text{store.Fingerprint{SHA256: sha, Length: length}, im.rd.Head()}
}

// relation describes how a text relates to the records of a store.
type relation struct {
	// stored is the record of the same text or, if older is true, of a
	// longer text that starts with this text. The text is then skipped.
	// nil: the text must be stored.
	stored *store.Record
	older  bool
	// intact means that the file is damaged but stored describes its whole
	// text. The readable part must not replace that record.
	intact bool
	// replace lists the records that the text replaces. Their texts are
	// prefixes of this text. If changed is true, they only start like it.
	replace []store.Record
	changed bool
	// other is a record under the file's own name that is unrelated to the
	// text: Tstat recreated the folder.
	other *store.Record
	// prefix is a record of another file that is a prefix of the text.
	prefix *store.Record
	// anyPlace means that the text replaces a record of the same text without
	// a place. The new record must then have no place either, so that it
	// matches files at any place.
	anyPlace bool
}

// relate compares a text with the records of a store: first with the file's own
// records, then with free records, then with records of other files.
func (im *fileImport) relate(index int, t text) relation {
	own, free, others := im.recordsFor(im.task, index)
	if rel := im.relateTo(own, t, false); rel.stored != nil || len(rel.replace) > 0 {
		return rel
	}
	if rel := im.relateTo(free, t, true); rel.stored != nil || len(rel.replace) > 0 {
		if rel.stored != nil {
			im.assign(index, rel.stored, im.task)
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

// relateTo compares t with records that may belong to the file. If moved is true, the
// records are free, and the file may have been moved here from the place that a record
// names.
func (im *fileImport) relateTo(records []store.Record, t text, moved bool) (rel relation) {
	var same, alike []store.Record
	for _, rec := range records {
		alikeHead, agree := tstat.CompareHeads(rec.Head, t.head)
		part := rec.Damaged && (!moved || alikeHead)
		longerPart := part && im.rd.Truncated() && rec.Length > t.Length
		switch {
		case part && im.rd.Damage() == nil && !longerPart: // the file is repaired
			rel.replace = append(rel.replace, rec)
		case rec.Fingerprint == t.Fingerprint:
			same = append(same, rec)
		case im.startsWith(&rec, t):
			// A log without rows is the start of any log.
			if !moved || rec.Place == "" || rec.Rows > 0 {
				rel.replace = append(rel.replace, rec)
			}
		case im.rd.Damage() != nil && !rec.Damaged && (!moved || alikeHead):
			rel.stored, rel.older, rel.intact = &rec, true, true
		case rec.Length > t.Length && agree && !rec.Damaged, longerPart,
			rec.Length > t.Length && rec.Head == "" && t.head != "" && im.fileStartsWith(&rec, t):
			rel.stored, rel.older = &rec, true
		case part: // the file is now damaged differently
			rel.replace = append(rel.replace, rec)
		case alikeHead:
			alike = append(alike, rec)
		}
	}
	switch {
	case len(same) > 0 && (rel.stored != nil || len(rel.replace) == 0):
		return relation{stored: &same[0]}
	case rel.stored != nil:
		rel.replace = nil // the stored text is longer
	case len(rel.replace) > 0:
		// If the whole text is stored too, the new record replaces it as well.
		rel.replace = append(rel.replace, same...)
	case len(alike) > 0:
		return relation{replace: alike, changed: true}
	}
	return rel
}

// startsWith reports whether the file's text is longer than that of rec, and starts
// with it.
func (im *fileImport) startsWith(rec *store.Record, t text) bool {
	return rec.Length < t.Length && im.rd.Mark(rec.Length) == rec.SHA256
}

// relateToOthers compares t with records of other files of the scan, which must be kept.
// If t is a prefix of a stored text, t is an older state of that log, for example in a
// backup. A record of a prefix of t is replaced only if this pass stored it.
//
// Old versions of tstatrepo recorded no place, and did not store second copies. A record
// without a place therefore matches its text at any place.
func (im *fileImport) relateToOthers(records []store.Record, t text) (rel relation) {
	for _, rec := range records {
		_, agree := tstat.CompareHeads(rec.Head, t.head)
		switch {
		case rec.Place == "" && rec.Fingerprint == t.Fingerprint,
			rec.Length > t.Length && agree && im.fileStartsWith(&rec, t):
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

// fileStartsWith reports whether the file of rec starts with t and has not changed since
// it was stored.
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
	rd.Reset(in, im.typ(), im.readerOptions(im.task, tstat.ReaderOptions{Marks: []int64{t.Length}}))
	return rd.Drain() == nil && rd.Mark(t.Length) == t.SHA256
}

// needsComparison reports whether the file's text may relate to a stored text,
// so that the file must be read before the import.
func (im *fileImport) needsComparison() (bool, error) {
	var heads []string
	for _, g := range im.targets {
		own, free, others := im.recordsFor(im.task, g.index)
		if len(own)+len(free) > 0 {
			return true, nil
		}
		for _, rec := range others {
			if rec.Place == "" {
				return true, nil
			}
			heads = append(heads, rec.Head)
		}
	}
	if len(heads) == 0 {
		return false, nil
	}
	// Logs of other Tstat processes start differently.
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

// prefix returns the record whose text is the longest prefix of the file's text, or nil
// if no record's text is a prefix.
func (im *fileImport) prefix(records []store.Record) (longest *store.Record) {
	for i, rec := range records {
		if im.rd.Mark(rec.Length) == rec.SHA256 && (longest == nil || rec.Length > longest.Length) {
			longest = &records[i]
		}
	}
	return longest
}
