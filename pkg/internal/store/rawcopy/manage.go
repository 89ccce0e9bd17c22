package rawcopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

var (
	_ store.Manager  = (*Store)(nil)
	_ store.RawStore = (*Store)(nil)
)

// pruneBatch is the maximum number of copies that Prune removes in one update of the
// manifest.
const pruneBatch = 500

// Prune implements store.Manager. Since only the manifest records which files were
// pruned, Prune first marks the entries of these files as pruned and syncs the manifest.
// Then removePruned removes the copies and clears the entries' locations. A copy that
// cannot be removed does not count as pruned.
func (s *Store) Prune(ctx context.Context, before time.Time, dryRun bool) (store.PruneResult, error) {
	var res store.PruneResult
	failed := map[string]error{} // by location
	for {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		n := 0
		add := func(e manifest.Entry, size int64) {
			res.Files++
			res.Rows += e.Rows
			res.Bytes += size
		}
		if dryRun {
			entries, err := s.manifest.All()
			for _, e := range entries {
				if e.HasRowsBefore(before) {
					add(e, s.sizeOf(e))
				}
			}
			return res, err
		}
		err := s.manifest.Update(ctx, func(tx *manifest.Tx) error {
			var gone []manifest.Entry
			tx.All(func(e manifest.Entry) {
				if e.HasRowsBefore(before) && failed[e.Location] == nil && len(gone) < pruneBatch {
					gone = append(gone, e)
				}
			})
			sizes := map[string]int64{}
			for _, e := range gone {
				e.Pruned = time.Now().UTC()
				sizes[e.Location] = s.sizeOf(e)
				tx.Put(e)
			}
			if err := tx.Sync(); err != nil {
				return err
			}
			maps.Copy(failed, s.removePruned(tx))
			n = len(gone)
			for _, e := range gone {
				if failed[e.Location] == nil {
					add(e, sizes[e.Location])
				}
			}
			return nil
		})
		if err != nil {
			return res, store.Unavailable(err)
		}
		if n == 0 {
			err := errors.Join(slices.Collect(maps.Values(failed))...)
			return res, store.Unavailable(errors.Join(err, s.manifest.Rewrite(ctx)))
		}
	}
}

// sizeOf returns the size of e's copy in bytes, or 0 if the copy does not exist.
func (s *Store) sizeOf(e manifest.Entry) int64 {
	info, err := os.Lstat(filepath.Join(s.dir, e.Location))
	if err != nil {
		return 0
	}
	return info.Size()
}

// removePruned removes the copies whose entries are marked as pruned, and any folders
// that become empty. A killed process may have left some of these copies. If a copy
// cannot be removed, removePruned clears the mark of its entry. The result maps the
// locations of copies and folders that cannot be removed to the errors.
func (s *Store) removePruned(tx *manifest.Tx) map[string]error {
	pruned, kept := map[string]manifest.Entry{}, map[string]bool{}
	tx.All(func(e manifest.Entry) {
		switch {
		case e.Pruned.IsZero():
			kept[e.Location] = true
		case e.Location != "":
			pruned[e.Location] = e
		}
	})
	failed := map[string]error{}
	dirs := map[string]bool{}
	for loc, e := range pruned {
		if !kept[loc] { // otherwise another file has the name now
			if err := os.Remove(filepath.Join(s.dir, loc)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed[loc] = err
				e.Pruned = time.Time{}
				tx.Put(e)
				continue
			}
			dirs[filepath.Dir(loc)] = true
		}
		e.Location = ""
		tx.Put(e)
	}
	for dir := range dirs {
		if err := durable.RemoveEmpty(s.dir, dir); err != nil {
			failed[dir] = err
		}
	}
	return failed
}

// Count implements store.Manager. It reads each copy and counts its lines.
func (s *Store) Count(ctx context.Context, records []store.Record) ([]int64, error) {
	counts := make([]int64, len(records))
	rd := new(tstat.Reader)
	for i, r := range records {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.Location == "" || !r.Pruned.IsZero() {
			continue
		}
		n, err := s.lines(rd, r)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !r.Damaged { // the rows before the damage still count
			s.log.Warn("copy cannot be read to its end", "file", filepath.Join(s.dir, r.Location), "err", err)
			continue
		}
		counts[i] = n - r.Rejects // removed lines, and others if the rows also went to another store
	}
	return counts, nil
}

// lines reads r's copy with rd and returns the number of data lines in it.
func (s *Store) lines(rd *tstat.Reader, r store.Record) (int64, error) {
	f, err := os.Open(filepath.Join(s.dir, r.Location))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	rd.Reset(f, &tstat.LogType{Name: r.Type}, tstat.ReaderOptions{})
	err = rd.Drain()
	return rd.Counts().Rows + rd.Counts().Rejects, err
}

// Verify implements store.Manager. It searches for files without a record. With opt.Deep,
// it also compares the content of each copy with its record.
func (s *Store) Verify(ctx context.Context, opt store.VerifyOptions) error {
	entries, err := s.manifest.All()
	if err != nil {
		return err
	}
	s.manifest.Verify(opt.Fault)
	unrecorded, err := s.unrecorded(ctx, entries)
	if err != nil {
		return err
	}
	err = s.manifest.View(ctx, func(tx *manifest.Tx) error {
		for _, loc := range unrecorded {
			if _, err := os.Lstat(filepath.Join(s.dir, loc)); err != nil || tx.CountAt(loc) > 0 {
				continue // removed or recorded meanwhile
			}
			if tstat.IsLog(filepath.Base(loc)) {
				opt.Fault(store.Fault{Kind: store.Unrecorded, Path: loc, Reason: "a copy without a record"})
			} else {
				opt.Fault(store.Fault{Kind: store.Foreign, Path: loc, Reason: "not a copy of a log"})
			}
		}
		return nil
	})
	if err != nil || !opt.Deep {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Location == "" || !e.Pruned.IsZero() || opt.Wants != nil && !opt.Wants(&e.Record) {
			continue
		}
		now, err := fingerprint(filepath.Join(s.dir, e.Location), e.Cut > 0)
		switch {
		case errors.Is(err, fs.ErrNotExist): // Count reports the missing rows
		case err != nil && !e.Damaged:
			opt.Fault(store.Fault{Kind: store.Damaged, Key: e.Key, Path: e.Location, Reason: err.Error()})
		case err == nil && now != e.Fingerprint && !s.replaced(e):
			opt.Fault(store.Fault{Kind: store.Damaged, Key: e.Key, Path: e.Location,
				Reason: fmt.Sprintf("its text is not the one that was stored: SHA-256 %s, recorded %s", now.SHA256, e.SHA256)})
		}
	}
	return nil
}

// unrecorded returns the locations of all files of the store that no entry names. It
// follows symbolic links to folders with copies.
func (s *Store) unrecorded(ctx context.Context, entries []manifest.Entry) (locs []string, err error) {
	known, folders := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		known[e.Location] = true
		for dir := filepath.Dir(e.Location); !folders[dir]; dir = filepath.Dir(dir) {
			folders[dir] = true
		}
	}
	// With a separator at the end, WalkDir follows a symbolic link.
	const follow = string(filepath.Separator)
	var visit fs.WalkDirFunc
	visit = func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil { // removed meanwhile
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		loc, err := filepath.Rel(s.dir, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && loc == manifest.Dir:
			return fs.SkipDir
		case d.Type()&fs.ModeSymlink != 0 && folders[loc]:
			return filepath.WalkDir(path+follow, visit)
		case !d.IsDir() && !known[loc]:
			locs = append(locs, loc)
		}
		return nil
	}
	err = filepath.WalkDir(s.dir+follow, visit)
	return locs, err
}

// replaced reports whether another process has removed e from the manifest, or changed its
// location, since e was read.
func (s *Store) replaced(e manifest.Entry) bool {
	now, err := s.manifest.Lookup([]store.Key{e.Key})
	return err == nil && !slices.ContainsFunc(now, func(r store.Record) bool { return r.Same(e.Record) && r.Location == e.Location })
}

// Size implements store.Manager.
func (s *Store) Size(location string) (int64, error) { return manifest.Size(s.dir, location) }
