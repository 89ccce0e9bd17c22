package parquet

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

var _ store.Manager = (*Store)(nil)

// compactDir is the folder below manifest.Dir in which Compact builds new
// folders. compactLock is its lock file.
const (
	compactDir  = "compact"
	compactLock = "compact.lock"
)

// Compact implements store.Manager.
//
// Compact builds the new folder of a day in compactDir, with the merged files and hard
// links to the other files of the day. Then it exchanges this folder with the day's
// folder in one step. So a reader that lists the folder sees either all old files or all
// new ones. Merged files always get new names, so a reader that listed the old folder
// finds each file either unchanged or missing.
//
// Compact exchanges the folders and updates the manifest under the same lock.
// After a crash between the two steps, reconcile recognizes the merged files by
// their footers, which have the records of all source files, and removeStale
// removes the old folder.
func (s *Store) Compact(ctx context.Context, opt store.CompactOptions) (store.CompactResult, error) {
	var res store.CompactResult
	opt.TargetSize = cmp.Or(opt.TargetSize, store.DefaultTargetSize)
	if !opt.DryRun {
		unlock, err := s.lockCompact()
		if err != nil {
			return res, store.Unavailable(err)
		}
		defer unlock()
		defer os.Remove(filepath.Join(s.dir, manifest.Dir, compactDir))
		if err := s.removeStale(); err != nil {
			return res, store.Unavailable(err)
		}
		if err := s.canExchange(); err != nil {
			return res, err
		}
		if err := s.manifest.Update(ctx, s.reconcile); err != nil {
			return res, store.Unavailable(err)
		}
	}
	days, err := s.closedDays(opt, &res)
	if err != nil {
		return res, store.Unavailable(err)
	}
	var files int
	var bytes int64
	for _, d := range days {
		for _, f := range d.files {
			files++
			bytes += f.size()
		}
	}
	if opt.Total != nil {
		opt.Total(files, bytes)
	}
	var mu sync.Mutex
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(max(opt.Jobs, 1))
	for _, d := range days {
		g.Go(func() error {
			one, err := s.compactDay(running, d, opt)
			mu.Lock()
			defer mu.Unlock()
			res.Days += one.Days
			if one.Days == 0 && err == nil {
				res.Whole++
			}
			res.Files += one.Files
			res.Into += one.Into
			res.Rows += one.Rows
			res.Bytes += one.Bytes
			err = store.Unavailable(err)
			switch {
			case running.Err() != nil:
				return running.Err()
			case errors.Is(err, errChanged), errors.Is(err, fs.ErrNotExist):
				s.opt.Log.Info("folder changed meanwhile, not compacted in this run", "folder", filepath.Join(s.dir, d.dir))
			case errors.Is(err, store.ErrUnavailable):
				return err
			case err != nil:
				res.Failed++
				s.opt.Log.Error("folder not compacted", "folder", filepath.Join(s.dir, d.dir), "err", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || opt.DryRun {
		return res, err
	}
	return res, store.Unavailable(s.manifest.Rewrite(ctx))
}

// lockCompact locks the store against concurrent compactions. It returns
// state.ErrLocked if another compaction is running.
func (s *Store) lockCompact() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, manifest.Dir, compactLock), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o666)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("compaction of %s is %w by another run", s, state.ErrLocked)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// removeStale removes the folders that a killed compaction left behind. The caller must
// hold the compaction lock. compactDir contains only old folders and new folders that
// were never exchanged.
func (s *Store) removeStale() error {
	return os.RemoveAll(filepath.Join(s.dir, manifest.Dir, compactDir))
}

// removeStaleUnlocked calls removeStale unless a compaction is running.
func (s *Store) removeStaleUnlocked() error {
	if _, err := os.Stat(filepath.Join(s.dir, manifest.Dir, compactDir)); err != nil {
		return nil
	}
	unlock, err := s.lockCompact()
	if err == nil {
		defer unlock()
		err = s.removeStale()
	}
	if errors.Is(err, state.ErrLocked) || errors.Is(err, fs.ErrPermission) { // running, or another user's
		return nil
	}
	return err
}

// workDir creates a folder in compactDir and returns its path. Compact builds a day's new
// folder in it.
func (s *Store) workDir() (string, error) {
	dir := filepath.Join(s.dir, manifest.Dir, compactDir, rand.Text())
	return dir, os.MkdirAll(dir, 0o777)
}

// canExchange returns an error if the store's file system cannot exchange two folders
// in one step.
func (s *Store) canExchange() error {
	dir, err := s.workDir()
	if err != nil {
		return store.Unavailable(err)
	}
	defer os.RemoveAll(dir)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, d := range []string{a, b} {
		if err := os.Mkdir(d, 0o777); err != nil {
			return store.Unavailable(err)
		}
	}
	if err := exchange(a, b); err != nil {
		return hint.Usage(fmt.Sprintf("%s: its file system cannot exchange two folders in one step: %v", s, err),
			"readers would see rows twice or not at all; local ext4, XFS, Btrfs and tmpfs of Linux can")
	}
	return nil
}

// day is the folder for one log type, probe and day.
type day struct {
	dir   string       // below the store
	files []storedFile // candidates for merging, by time
}

// storedFile is one of the store's files, with its entries in the manifest.
type storedFile struct {
	loc     string
	entries []manifest.Entry
}

func (f *storedFile) size() int64 { return f.entries[0].StoredSize }

// closedDays returns the days with at least two small files to merge, oldest first. It
// omits days that ended or changed less than opt.ClosedAfter ago, and days whose folder is
// a symbolic link. It counts the omitted days in res.Open and res.Whole.
func (s *Store) closedDays(opt store.CompactOptions, res *store.CompactResult) ([]*day, error) {
	entries, err := s.manifest.All()
	if err != nil {
		return nil, err
	}
	files := map[string][]manifest.Entry{}
	for _, e := range entries {
		if e.Location != "" && e.Pruned.IsZero() {
			files[e.Location] = append(files[e.Location], e)
		}
	}
	latest := time.Now().Add(-opt.ClosedAfter)
	days := map[string]*day{}
	all, open := map[string]bool{}, map[string]bool{}
	for loc, es := range files {
		dir := filepath.Dir(loc)
		all[dir] = true
		date, err := time.Parse(time.DateOnly, strings.TrimPrefix(filepath.Base(dir), "date="))
		if err != nil || date.AddDate(0, 0, 1).After(latest) || es[0].StoredModTime.After(latest) {
			open[dir] = true
			continue
		}
		if es[0].StoredSize > opt.TargetSize/4*3 {
			continue // large enough
		}
		if n := es[0].FileRecords; n > 0 && n != len(es) {
			s.opt.Log.Warn("file not compacted: it has rows that are stored twice", "file", filepath.Join(s.dir, loc), "hint", "remove them with store repair")
			continue
		}
		if days[dir] == nil {
			days[dir] = &day{dir: dir}
		}
		days[dir].files = append(days[dir].files, storedFile{loc, es})
	}
	var list []*day
	for _, dir := range slices.SortedFunc(maps.Keys(days), compareDays) {
		d := days[dir]
		if open[dir] || len(d.files) < 2 {
			continue
		}
		if info, err := os.Lstat(filepath.Join(s.dir, dir)); err == nil && !info.IsDir() {
			s.opt.Log.Info("folder not compacted: it is a symbolic link", "folder", filepath.Join(s.dir, dir))
			continue
		}
		slices.SortFunc(d.files, func(a, b storedFile) int {
			return cmp.Or(a.entries[0].Time.Compare(b.entries[0].Time), strings.Compare(a.loc, b.loc))
		})
		list = append(list, d)
	}
	res.Open = int64(len(open))
	res.Whole = int64(len(all) - len(open) - len(list))
	return list, nil
}

// errChanged reports that a day's folder has changed since it was examined.
var errChanged = errors.New("its files changed meanwhile")

// large is a new, large file and the small files that are merged into it.
type large struct {
	columns []tstat.Column
	from    []storedFile
	bytes   int64 // total size of from
	rows    int64
	out     *os.File
}

// plan groups the files of a day for merging into files of about the target size. It
// groups only files with the same columns, and skips files that cannot be merged.
func (s *Store) plan(ctx context.Context, d *day, target int64) ([]*large, error) {
	var list []*large
	for _, f := range d.files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		in, err := openStored(filepath.Join(s.dir, f.loc))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil {
			s.opt.Log.Warn("file cannot be merged, left unchanged", "file", filepath.Join(s.dir, f.loc), "err", err)
			continue
		}
		in.close()
		rows := int64(0)
		for _, r := range in.Records {
			rows += r.Rows
		}
		if rows != in.Rows {
			s.opt.Log.Warn("rows of a file do not match its records, left unchanged", "file", in.f.Name(), "rows", in.Rows, "records", rows)
			continue
		}
		i := slices.IndexFunc(list, func(l *large) bool {
			return l.bytes+f.size() <= target+target/8 && slices.Equal(l.columns, in.columns)
		})
		if i < 0 {
			i = len(list)
			list = append(list, &large{columns: in.columns})
		}
		l := list[i]
		l.from, l.bytes, l.rows = append(l.from, f), l.bytes+f.size(), l.rows+rows
	}
	return slices.DeleteFunc(list, func(l *large) bool { return len(l.from) < 2 }), nil
}

// compactDay merges the small files of a day.
func (s *Store) compactDay(ctx context.Context, d *day, opt store.CompactOptions) (res store.CompactResult, err error) {
	list, err := s.plan(ctx, d, opt.TargetSize)
	if err != nil || len(list) == 0 {
		return res, err
	}
	if !opt.DryRun {
		work, err := s.workDir()
		if err != nil {
			return res, err
		}
		exchanged := false
		defer func() {
			// After a failed exchange, work is the new folder; after a
			// successful one, it is the old folder. If an error follows the
			// exchange, keep the old folder, because a power cut may still
			// undo the exchange.
			if err == nil || !exchanged {
				os.RemoveAll(work)
			}
		}()
		for _, l := range list {
			if err := s.write(ctx, l, work, d, opt); err != nil {
				return res, err
			}
		}
		var old []string
		err = s.manifest.Update(ctx, func(tx *manifest.Tx) (err error) {
			old, err = s.swap(tx, d, work, list)
			return err
		})
		if exchanged = old != nil; exchanged {
			err = errors.Join(err, s.moveNewFiles(d, work, old))
		}
		if err != nil {
			return res, err
		}
	}
	res.Days = 1
	for _, l := range list {
		res.Into++
		res.Files += int64(len(l.from))
		res.Bytes += l.bytes
		res.Rows += l.rows
	}
	return res, nil
}

// write merges the files in l.from into a new file in the work folder, and sets l.out.
func (s *Store) write(ctx context.Context, l *large, work string, d *day, opt store.CompactOptions) (err error) {
	// The name must not occur in the old folder.
	name := strings.TrimPrefix(filepath.Base(d.dir), "date=") + "." + strings.ToLower(rand.Text()[:10]) + ".parquet"
	if l.out, err = os.OpenFile(filepath.Join(work, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666); err != nil {
		return err
	}
	defer l.out.Close()
	a, err := s.assemble(ctx, l.out, l.columns)
	if err != nil {
		return err
	}
	defer a.discard()
	var records []store.Record
	for _, f := range l.from {
		in, err := openStored(filepath.Join(s.dir, f.loc))
		if err != nil {
			return err
		}
		own := in.recordsOf(f.entries)
		if own == nil {
			in.close()
			return errChanged
		}
		rows := in.Rows
		records = append(records, own...)
		if err := a.add(in, nil); err != nil {
			return err
		}
		if opt.Done != nil {
			opt.Done(f.size(), rows)
		}
	}
	return a.finish(records, nil)
}

// recordsOf returns the records of a file, in the order of their rows. It takes them from
// the manifest's entries for the file, and returns nil if the entries do not match the
// file.
func (s *stored) recordsOf(entries []manifest.Entry) []store.Record {
	info, err := s.f.Stat()
	if err != nil || len(entries) != len(s.Records) {
		return nil
	}
	var records []store.Record
	for _, r := range s.Records {
		i := slices.IndexFunc(entries, func(e manifest.Entry) bool { return e.Matches(info) && e.Same(r) })
		if i < 0 {
			return nil
		}
		records = append(records, entries[i].Record)
	}
	return records
}
