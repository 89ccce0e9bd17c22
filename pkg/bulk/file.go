package bulk

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// importFile imports one file into every store that does not have it. If
// another import stores the same file meanwhile, it looks again.
func (r *run) importFile(ctx context.Context, t *task) error {
	for try := 1; ; try++ {
		err := r.tryFile(ctx, t)
		if !errors.Is(err, store.ErrConflict) || t.stdin || try == maxTries {
			return err
		}
	}
}

// maxTries bounds how often a file is begun again, because of another import
// or because of columns that only a later header of it brings.
const maxTries = 16

// tryFile is importFile without the second look. Whatever a file holds, a
// mistake of ours in reading it does not stop the others.
func (r *run) tryFile(ctx context.Context, t *task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error, please report it: %v\n%s", p, debug.Stack())
		}
	}()
	select {
	case r.limits.jobs <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	idle := sync.OnceFunc(func() { <-r.limits.jobs })
	defer idle()
	rd := r.readers.Get().(*tstat.Reader)
	defer r.readers.Put(rd)
	n := len(r.opt.Stores)
	im := &fileImport{run: r, ctx: ctx, task: t, rd: rd, has: make([]bool, n), refused: make([]map[int64]string, n), grown: make([]*store.Record, n), after: make([]int64, n), idle: idle}
	if t.stdin {
		im.in = bufio.NewReaderSize(interruptible(ctx, r.opt.Stdin), peekSize)
	} else {
		f, err := t.open(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			r.vanished(t)
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		// From here on the file is the open one, whatever its name means now.
		t.size, t.mtime = f.Size, f.ModTime
		im.file = f
	}
	if t.key.Folder == "" {
		if err := im.nameByRows(); err != nil {
			return err
		}
		r.noteScanned(t)
		if !r.inTime(t) {
			return nil
		}
		if err := r.lookupElsewhere(ctx, []*task{t}); err != nil {
			return err
		}
	}
	if !t.fresh {
		if err := im.lookup(); err != nil {
			return err
		}
	}
	t.fresh = false // at a second try it is not
	if !t.stdin {
		// Often the same text, moved or compressed: reading is enough.
		if done, err := im.compare(); done || err != nil {
			return err
		}
	}
	if r.opt.DryRun {
		r.log.Info("would import", "file", t.path, "size", t.size)
		r.count(t, func(s *TypeSummary) { s.Files++; s.Bytes += t.size; s.spanned(t.time.Time) })
		return nil
	}
	var extra []string
	for try := 1; ; try++ {
		err := im.once(extra, false)
		var nc *tstat.NewColumnsError
		if errors.As(err, &nc) && !t.stdin && try < maxTries {
			extra = nc.Extra // a later header has more columns: begin again
			continue
		}
		if im.again && !t.stdin {
			im.again = false // without the row that a store refused
			continue
		}
		if t.stdin && errors.Is(err, store.ErrTransient) {
			return onceError{err} // it cannot be read again
		}
		return err
	}
}

// onceError takes the mark store.ErrTransient from an error.
type onceError struct{ err error }

func (e onceError) Error() string { return e.err.Error() }
func (e onceError) Unwrap() error { return store.ErrUnavailable }

// maxRefused bounds how often a file is begun again for rows that a store
// refused.
const maxRefused = 100

// refuse notes a row that a store refused, so that the file is begun again
// without it, and returns err.
func (im *fileImport) refuse(index int, err error) error {
	var re *store.RefusedError
	if errors.As(err, &re) && len(im.refused[index]) < maxRefused && im.refused[index][re.Line] == "" {
		if im.refused[index] == nil {
			im.refused[index] = map[int64]string{}
		}
		im.refused[index][re.Line] = re.Reason
		im.again = true
	}
	return err
}

// refusal is a line that a store refused.
type refusal struct {
	by   int
	line int64
}

// reject reports a line that is no row; once, however often the file is read.
// by is 0 for the reader, 1 and on for the stores.
func (im *fileImport) reject(by int) func(line int64, reason string, text []byte) {
	t := im.task
	if t.rejected == nil {
		t.rejected = make([]int64, len(im.opt.Stores)+1)
	}
	return func(line int64, reason string, text []byte) {
		switch {
		case line > t.rejected[by]:
			t.rejected[by] = line
		case by > 0 && im.refused[by-1][line] != "" && !t.told[refusal{by, line}]:
			// Lines behind it were reported before the store refused it.
		default:
			return
		}
		if by > 0 && im.refused[by-1][line] != "" {
			if t.told == nil {
				t.told = map[refusal]bool{}
			}
			t.told[refusal{by, line}] = true
		}
		im.rejects.add(t.path, line, reason, text)
	}
}

// interruptible returns a reader of in that ends with ctx, also while in has
// nothing to read.
func interruptible(ctx context.Context, in io.Reader) io.Reader {
	pr, pw := io.Pipe()
	context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(pw, in)
		pw.CloseWithError(err)
	}()
	return pr
}

// peekSize is how much of a file outside a log folder is looked at for the
// time of its first row.
const peekSize = 1 << 20

func (r *run) vanished(t *task) {
	r.log.Warn("vanished before it was read", "file", t.path)
	r.count(t, func(s *TypeSummary) { s.Vanished++ })
}

// fileImport is the import of one file.
type fileImport struct {
	*run
	ctx  context.Context
	task *task
	rd   *tstat.Reader
	file *Content      // nil for standard input
	in   *bufio.Reader // standard input
	has  []bool        // per store, whether it has the file's text already
	idle func()        // lets another file be read

	// Per store: rows that it refused; the stored text that has grown, and how
	// many lines it had.
	refused []map[int64]string
	again   bool // there is a refused row more
	grown   []*store.Record
	after   []int64
}

// target is a store that lacks the file.
type target struct {
	index int // in Options.Stores
	store store.Store
	tx    store.FileTx // nil before it is begun

	rejected int64 // rows, known once all are flushed
}

// errNoTime is about a file whose log folder is not known.
var errNoTime = errors.New("it lies in no log folder, and no row in it has an absolute time")

// nameByRows puts a file that lies in no log folder into the one of its first
// row with an absolute time.
func (im *fileImport) nameByRows() error {
	t := im.task
	var head io.Reader
	if t.stdin {
		p, err := im.in.Peek(peekSize)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read standard input: %w", err)
		}
		head = bytes.NewReader(p)
	} else {
		head = io.LimitReader(im.file, peekSize)
		defer im.file.Seek(0, io.SeekStart)
	}
	first := int64(0)
	im.rd.Reset(head, t.typ, tstat.ReaderOptions{Location: im.opt.Location, Layout: im.opt.Layout})
	for first == 0 {
		b, err := im.rd.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.path, err)
		}
		for _, e := range b.Ends() {
			if first = e; e != 0 {
				break
			}
		}
	}
	if first == 0 {
		return hint.Add(fmt.Errorf("source %s: %w", t.path, errNoTime), "name its folder: `folder` YYYY_MM_DD_HH_MM.out")
	}
	utc := time.UnixMicro(first).UTC().Truncate(time.Minute)
	if err := im.name(t, tstat.FolderName(utc)); err != nil {
		return err
	}
	t.time = tstat.FolderTime{Time: utc, Latest: utc} // the name is in UTC, not in the probe's zone
	return nil
}

// lookup fetches the records of the file's key again: another file of the
// same key may have been stored since.
func (im *fileImport) lookup() error {
	t := im.task
	t.records = make([][]store.Record, len(im.opt.Stores))
	for i, s := range im.opt.Stores {
		rs, err := s.Lookup(im.ctx, []store.Key{t.key})
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		t.records[i] = rs
	}
	return nil
}

// marks are the lengths of the stored texts of the key.
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

// compare reads the file and finds the stores that have its text; their
// records learn how the file looks now. done means that all have it.
func (im *fileImport) compare() (done bool, err error) {
	t := im.task
	if im.opt.Replace {
		return false, nil
	}
	if needed, err := im.needsComparison(); !needed || err != nil {
		return false, err
	}
	in := &sourceReader{ctx: im.ctx, in: im.file, limiter: im.limits.rate, progress: noProgress{}}
	im.rd.Reset(in, im.typ(), tstat.ReaderOptions{Marks: im.marks()})
	if err := im.rd.Drain(); err != nil {
		return false, err
	}
	if _, err := im.file.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	read := im.text()
	done = true
	for i, s := range im.opt.Stores {
		if !s.Accepts(t.info()) {
			continue
		}
		rel := im.relate(i, read)
		if im.has[i] = rel.stored != nil; !im.has[i] {
			if p := im.prefix(rel.replace); p != nil {
				im.grown[i], im.after[i] = p, im.rd.MarkLine(p.Length)
			}
			done = false
			continue
		}
		if im.opt.DryRun || rel.older || im.isOfOther(rel.stored) {
			continue
		}
		rec := *rel.stored
		rec.Size, rec.ModTime, rec.Path = t.size, t.mtime, t.path
		if err := s.Refresh(im.ctx, rec); err != nil {
			return false, fmt.Errorf("%s: %w", s, err)
		}
	}
	if done {
		im.opt.Progress.Add(t.size, 0)
		im.count(t, func(s *TypeSummary) { s.Skipped++; s.spanned(t.time.Time) })
	}
	return done, nil
}

// isOfOther reports whether a record of the text describes another file that
// is still there as it says: of two copies of a log, one is enough.
func (im *fileImport) isOfOther(rec *store.Record) bool {
	if rec.Path == im.task.path {
		return false
	}
	info, err := os.Stat(rec.Path)
	return err == nil && info.Size() == rec.Size && info.ModTime().Equal(rec.ModTime)
}

// headSize is how much of a file is read to tell it from those of other Tstat
// processes.
const headSize = 64 << 10

// readHead returns the head of the file's text, as far as it is needed.
func (im *fileImport) readHead() (string, error) {
	im.rd.Reset(io.LimitReader(im.file, headSize), im.typ(), tstat.ReaderOptions{})
	if err := im.rd.Drain(); err != nil {
		return "", err
	}
	_, err := im.file.Seek(0, io.SeekStart)
	return im.rd.Head(), err
}

// typ returns the file's log type; of an unknown one only the name counts.
func (im *fileImport) typ() *tstat.LogType {
	if im.task.typ != nil {
		return im.task.typ
	}
	return &tstat.LogType{Name: im.task.key.File}
}

// rateBurst is how much may be read at once under a rate.
const rateBurst = 256 << 10

type sourceReader struct {
	ctx      context.Context
	in       io.Reader
	limiter  *rate.Limiter
	progress Progress
}

func (s *sourceReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.limiter != nil && len(p) > rateBurst {
		p = p[:rateBurst]
	}
	n, err := s.in.Read(p)
	if n > 0 {
		s.progress.Add(int64(n), 0)
		if s.limiter != nil {
			if werr := s.limiter.WaitN(s.ctx, n); werr != nil {
				return n, werr
			}
		}
	}
	return n, err
}

// once reads the file from its start into all stores that lack it, or only
// into those that copy it.
func (im *fileImport) once(extra []string, rawOnly bool) error {
	t := im.task
	var raw, typed []*target
	for i, s := range im.opt.Stores {
		g := &target{index: i, store: s}
		if im.has[i] || !s.Accepts(t.info()) {
			continue
		}
		if _, ok := s.(store.RawStore); ok {
			raw = append(raw, g)
		} else if !rawOnly {
			typed = append(typed, g)
		}
	}
	abort := func() {
		for _, g := range slices.Concat(raw, typed) {
			if g.tx != nil {
				g.tx.Abort()
			}
		}
	}
	defer abort()
	info := store.FileInfo{Key: t.key, Type: im.typ(), Time: t.time.Time, Name: path.Join(t.key.Probe, t.name), ModTime: t.mtime, Next: t.next}
	if t.remote != nil {
		info.Name = path.Join(t.remote.Dir, t.name)
	}
	in := &sourceReader{ctx: im.ctx, in: im.in, limiter: im.limits.rate, progress: im.opt.Progress}
	if !t.stdin {
		if _, err := im.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		in.in, info.Mode = im.file, im.file.Mode
	}
	var src io.Reader = in
	for _, g := range raw {
		tx, err := g.store.(store.RawStore).BeginRaw(im.ctx, info)
		if err != nil {
			return fmt.Errorf("%s: %w", g.store, err)
		}
		g.tx = tx
		src = io.TeeReader(src, rawWriter{im.ctx, tx})
	}
	im.rd.Reset(src, im.typ(), tstat.ReaderOptions{
		Location: im.opt.Location, Layout: im.opt.Layout, Extra: extra, Marks: im.marks(),
		Reject: im.reject(0),
		Warn:   func(m string) { im.log.Warn(m, "file", t.path) },
	})
	if len(typed) > 0 {
		if err := im.rows(info, typed); err != nil {
			var nc *tstat.NewColumnsError
			if len(raw) == 0 || t.stdin || errors.As(err, &nc) || errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrSource) || im.again || isAboutContent(err) {
				return err
			}
			abort()
			return errors.Join(err, im.once(nil, true)) // what is no log can be copied
		}
	} else if err := cmp.Or(im.rd.Drain(), im.checkDamage()); err != nil {
		return err
	}
	// Behind a damaged gzip stream there may be more for those who copy.
	if _, err := io.Copy(io.Discard, src); err != nil {
		return err
	}
	return im.commit(raw, typed)
}

// rawWriter writes to a RawTx what is read from the file.
type rawWriter struct {
	ctx context.Context
	tx  store.RawTx
}

func (w rawWriter) Write(p []byte) (int, error) { return len(p), w.tx.WriteRaw(w.ctx, p) }

// rows reads all rows into typed stores.
func (im *fileImport) rows(info store.FileInfo, typed []*target) error {
	for first := true; ; first = false {
		b, err := im.rd.Next()
		if err != nil && err != io.EOF {
			return err
		}
		if first {
			info.Columns = im.rd.Columns()
			info.Present = make([]bool, len(info.Columns))
			for c := range info.Present {
				if b != nil {
					_, info.Present[c] = b.Column(c)
				}
			}
			for _, g := range typed {
				info.Refused, info.Reject = im.refused[g.index], im.reject(1+g.index)
				info.Prefix, info.PrefixLines = im.grown[g.index], im.after[g.index]
				if g.tx, err = g.store.Begin(im.ctx, info); err != nil {
					return fmt.Errorf("%s: %w", g.store, err)
				}
			}
		}
		if b == nil {
			if err := im.checkDamage(); err != nil {
				return err
			}
			for _, g := range typed {
				if g.rejected, err = g.tx.Flush(im.ctx); err != nil {
					return fmt.Errorf("%s: %w", g.store, im.refuse(g.index, err))
				}
			}
			return im.checkRows(typed)
		}
		if first {
			im.mu.Lock()
			im.zone.add(im.log, im.task.time, im.opt.Location, b.Ends())
			im.mu.Unlock()
		}
		for _, g := range typed {
			if err := g.tx.Write(im.ctx, b); err != nil {
				return fmt.Errorf("%s: %w", g.store, im.refuse(g.index, err))
			}
		}
		im.opt.Progress.Add(0, int64(b.Len()))
	}
}

// commit makes the file visible in the stores, and counts it.
func (im *fileImport) commit(raw, typed []*target) error {
	t, c := im.task, im.rd.Counts()
	if c.Lines != c.Rows+c.Rejects+c.Cuts {
		return fmt.Errorf("internal error: read %d lines, but %d rows, %d rejects and %d cuts", c.Lines, c.Rows, c.Rejects, c.Cuts)
	}
	read := im.text()
	rec := store.Record{
		Key: t.key, Fingerprint: read.Fingerprint, Place: t.place, Head: read.head,
		Size: t.size, ModTime: t.mtime, Path: t.path,
		Type: t.key.File, Layout: im.rd.Layout(), Time: t.time.Time,
		Rows: c.Rows, Rejects: c.Rejects, Cut: c.Cuts, Damaged: im.rd.Damage() != nil, Imported: time.Now().UTC(),
	}
	if len(typed) == 0 {
		im.idle() // what is left is to wait for the disk
	}
	for _, g := range slices.Concat(raw, typed) {
		if err := im.checkElsewhere(g.index, &rec); err != nil {
			return err
		}
	}
	var commits, replacements int
	var rejected int64
	for _, g := range slices.Concat(raw, typed) {
		rel := im.replaced(g.index, read)
		if rel.stored != nil {
			continue
		}
		if p, was := im.prefix(rel.replace), im.grown[g.index]; !t.stdin && !im.opt.Replace && p != nil && (was == nil || !p.Same(*was)) {
			return store.ErrConflict // the file changed while it was read
		}
		mine := rec
		mine.Rows -= g.rejected
		mine.Rejects += g.rejected
		err := g.tx.Commit(im.ctx, mine, t.records[g.index], rel.replace)
		if errors.Is(err, store.ErrDuplicate) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", g.store, im.refuse(g.index, err))
		}
		rejected = max(rejected, g.rejected)
		commits++
		replacements += len(rel.replace)
		im.warn(g.store, rel)
	}
	if commits > 0 {
		im.warnTruncated()
	}
	im.count(t, func(s *TypeSummary) {
		s.spanned(t.time.Time)
		if commits == 0 {
			s.Skipped++
			return
		}
		if rec.Damaged {
			s.Damaged++
		}
		if replacements > 0 {
			s.Replaced++
		}
		s.Files++
		s.Lines += c.Lines
		s.Rows += c.Rows - rejected
		s.Rejects += c.Rejects + rejected
		s.Cuts += c.Cuts
		s.Escaped += c.Escaped
		s.Bytes += t.size
		s.Text += c.Text
	})
	return nil
}

// warn reports what was stored other than a new log or one that has grown.
func (im *fileImport) warn(s store.Store, rel relation) {
	t := im.task
	switch {
	case rel.changed:
		im.log.Warn("the log changed other than by growing; its rows were replaced", "file", t.path, "store", s.String(),
			"rows_before", rel.replace[0].Rows, "read_before_from", rel.replace[0].Path)
	case rel.other != nil:
		im.log.Warn("another file was stored under this name; stored beside it", "file", t.path, "store", s.String())
	case rel.prefix != nil:
		im.log.Warn("another stored log is the beginning of this one; both are stored", "file", t.path, "store", s.String(), "other", rel.prefix.Path)
	}
}

// replaced is relate, or what Options.Replace makes of it: all records of the
// file go that were there when the run started.
func (im *fileImport) replaced(index int, t text) relation {
	if !im.opt.Replace {
		return im.relate(index, t)
	}
	var rel relation
	own, free, _ := im.recordsFor(im.task, index)
	for _, rec := range free {
		if related := im.relateTo(index, []store.Record{rec}, t, true); rec.Place == "" || related.stored != nil || len(related.replace) > 0 {
			own = append(own, rec)
		}
	}
	for _, rec := range own {
		if rec.Imported.Before(im.sum.Started) {
			rel.replace = append(rel.replace, rec)
		}
	}
	return rel
}
