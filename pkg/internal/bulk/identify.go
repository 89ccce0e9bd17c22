package bulk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Identity describes a source file, for comparison with its record in a store.
type Identity struct {
	store.Key
	store.Fingerprint
	Path string
	Time time.Time // the folder's time, UTC
	// Open means that Tstat may still write to the file. Run would leave the
	// file for later. Fields that depend on its text are not set.
	Open bool
	// Place and Head are those of the file's record.
	Place, Head string
	// Selected is the number of selected rows plus rejects; -1 if
	// Options.Selection selects all rows.
	Selected int64
	// Heads are the SHA-256 sums of prefixes of the text, by length. The heads function
	// passed to Identify chooses the lengths.
	Heads map[int64]string
}

// Identify calls f for each file that Run would import, skip or leave for later. Calls to
// f do not overlap. Identify imports nothing and takes no lock. It logs unreadable files
// and returns how many there are. heads returns the lengths of the prefixes for
// Identity.Heads.
func Identify(ctx context.Context, opt Options, heads func(store.Key) []int64, f func(Identity) error) (failed int, err error) {
	opt.DryRun, opt.Follow = true, false
	r, err := newRun(ctx, opt)
	if err != nil {
		return 0, err
	}
	defer r.close()
	if err := r.openStores(ctx); err != nil {
		return 0, err
	}
	tasks, err := r.find(ctx)
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, t := range tasks {
		bytes += t.size
	}
	for _, t := range r.leftOpen {
		if err := f(Identity{Key: t.key, Path: t.path, Time: t.time.Time, Place: t.place, Open: true}); err != nil {
			return 0, err
		}
	}
	r.opt.Progress.Total(len(tasks), bytes)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opt.Jobs)
	for _, t := range tasks {
		g.Go(func() error {
			id, err := r.identify(ctx, t, heads)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, fs.ErrNotExist): // deleted by Tstat
				return nil
			case err != nil:
				r.problem(t.path, err)
				return nil
			case !r.inTime(t):
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			return f(id)
		})
	}
	err = errors.Join(g.Wait(), r.unavailableError())
	return r.problems, err
}

// identify reads a task's file and returns its identity.
func (r *run) identify(ctx context.Context, t *task, heads func(store.Key) []int64) (Identity, error) {
	file, err := t.open(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer file.Close()
	rd := r.readers.Get().(*tstat.Reader)
	defer r.readers.Put(rd)
	im := &fileImport{run: r, ctx: ctx, task: t, rd: rd, file: file, anonymize: r.opt.Anonymize, progress: r.opt.Progress}
	if t.key.Folder == "" {
		if err := im.nameByRows(); err != nil {
			return Identity{}, err
		}
	}
	lengths := heads(t.key)
	selected, err := im.countSelected(tstat.ReaderOptions{Marks: lengths})
	if err != nil {
		return Identity{}, err
	}
	sha, length := rd.Fingerprint()
	id := Identity{Key: t.key, Fingerprint: store.Fingerprint{SHA256: sha, Length: length}, Path: t.path, Time: t.time.Time,
		Place: t.place, Head: rd.Head(), Selected: selected, Heads: map[int64]string{}}
	for _, n := range lengths {
		id.Heads[n] = rd.Mark(n)
	}
	return id, nil
}

// countSelected reads the file with the given options, and returns the value for
// Identity.Selected.
func (im *fileImport) countSelected(opt tstat.ReaderOptions) (int64, error) {
	in := &sourceReader{ctx: im.ctx, in: im.file, limiter: im.limits.rate, progress: im.opt.Progress}
	if im.task.typ == nil || !im.opt.Selection.FiltersRows() {
		im.rd.Reset(in, im.typ(), im.readerOptions(im.task, opt))
		return -1, im.rd.Drain()
	}
	selection, err := im.opt.Selection.For(im.typ())
	if err != nil {
		return 0, err
	}
	opt.Use = selection.Uses()
	filtered := int64(0)
	err = readBatches(im.rd, func(extra []string) error {
		filtered, opt.Extra = 0, extra
		_, err := im.file.Seek(0, io.SeekStart)
		im.rd.Reset(in, im.typ(), im.readerOptions(im.task, opt))
		return err
	}, func(b *tstat.Batch) bool {
		filtered += int64(selection.Apply(b))
		return true
	})
	c := im.rd.Counts()
	return c.Rows - filtered + c.Rejects, err
}
