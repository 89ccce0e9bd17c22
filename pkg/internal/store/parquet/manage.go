package parquet

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Prune implements store.Manager. It prunes one day's folder at a time.
//
// Pruned files are recorded only in the manifest. So Prune first durably marks the
// entries as pruned. Then removePruned removes the rows and clears the entries'
// locations. After a crash the next call to removePruned completes the work.
func (s *Store) Prune(ctx context.Context, before time.Time, dryRun bool) (store.PruneResult, error) {
	var res store.PruneResult
	if !dryRun {
		if err := s.manifest.Update(ctx, s.reconcile); err != nil {
			return res, store.Unavailable(err)
		}
	}
	entries, err := s.manifest.All()
	if err != nil {
		return res, err
	}
	days := map[string][]manifest.Entry{}
	for _, e := range entries {
		if e.HasRowsBefore(before) {
			days[filepath.Dir(e.Location)] = append(days[filepath.Dir(e.Location)], e)
		}
	}
	var errs []error
	for _, day := range slices.SortedFunc(maps.Keys(days), compareDays) {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		gone := days[day]
		if !dryRun {
			err = s.manifest.Update(ctx, func(tx *manifest.Tx) (err error) {
				gone, err = s.pruneFiles(tx, gone, before)
				return err
			})
		}
		seen := map[string]bool{}
		for _, e := range gone {
			res.Files++
			res.Rows += e.Rows
			if !seen[e.Location] {
				seen[e.Location] = true
				res.Bytes += e.StoredSize
			}
		}
		if err = store.Unavailable(err); errors.Is(err, store.ErrUnavailable) {
			return res, err
		}
		errs = append(errs, err)
	}
	if dryRun {
		return res, nil
	}
	return res, store.Unavailable(errors.Join(append(errs, s.manifest.Rewrite(ctx))...))
}

// compareDays compares the folders of two days by date, then by path.
func compareDays(a, b string) int {
	return cmp.Or(strings.Compare(filepath.Base(a), filepath.Base(b)), strings.Compare(a, b))
}

// pruneFiles prunes the given entries, except those that another process has already
// pruned or removed. It returns the pruned entries.
func (s *Store) pruneFiles(tx *manifest.Tx, entries []manifest.Entry, before time.Time) ([]manifest.Entry, error) {
	var gone []manifest.Entry
	for _, old := range entries {
		if e, ok := tx.Find(old.Record); ok && e.HasRowsBefore(before) {
			e.Pruned = time.Now().UTC()
			tx.Put(e)
			gone = append(gone, e)
		}
	}
	if err := tx.Sync(); err != nil {
		return nil, err
	}
	kept, err := s.removePruned(tx, gone)
	return slices.DeleteFunc(gone, func(e manifest.Entry) bool { return kept[e.Location] }), err
}

// removePruned removes the rows of the given entries, which are marked as pruned or
// replaced, and any folders that become empty. kept is the set of locations whose files it
// could not change; the logs in these files do not count as pruned.
func (s *Store) removePruned(tx *manifest.Tx, pruned []manifest.Entry) (kept map[string]bool, err error) {
	kept = map[string]bool{}
	var errs []error
	at := map[string][]manifest.Entry{}
	for _, e := range pruned {
		if e.Location != "" {
			at[e.Location] = append(at[e.Location], e)
		}
	}
	dirs := map[string]bool{}
	for loc, entries := range at {
		info, err := os.Stat(filepath.Join(s.dir, loc))
		if err == nil && entries[0].Matches(info) { // otherwise another file has the name now
			err = s.dropRows(tx, loc, entries)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			kept[loc] = true
			errs = append(errs, err)
		}
		for _, e := range entries {
			switch {
			case e.Replaced && kept[loc]:
				continue
			case e.Replaced:
				tx.Delete(e.Record)
				continue
			case kept[loc]:
				e.Pruned = time.Time{}
			default:
				e.Location, e.StoredSize, e.StoredModTime, e.FileRecords = "", 0, time.Time{}, 0
			}
			tx.Put(e)
		}
		dirs[filepath.Dir(loc)] = true
	}
	for dir := range dirs {
		errs = append(errs, durable.RemoveEmpty(s.dir, dir))
	}
	return kept, errors.Join(errs...)
}

// Count implements store.Manager. It reads only the footers of the files.
func (s *Store) Count(ctx context.Context, records []store.Record) ([]int64, error) {
	counts := make([]int64, len(records))
	at := map[string][]int{} // location -> indexes
	for i, r := range records {
		if r.Location != "" && r.Pruned.IsZero() {
			at[r.Location] = append(at[r.Location], i)
		}
	}
	for loc, indexes := range at {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(s.dir, loc)
		f, err := readFooter(path)
		if err != nil {
			s.opt.Log.Warn("file has no readable rows", "file", path, "err", err)
			continue
		}
		has := map[logText]int64{}
		for i, n := range f.rowsOf() {
			has[textOf(f.Records[i])] = n
		}
		for _, i := range indexes {
			counts[i] = has[textOf(records[i])]
		}
	}
	return counts, nil
}

// rowsOf returns the number of rows that each record has in the file. The rows are in the
// order of the records. If the file has too few rows, the last records get fewer; if it
// has too many, the surplus is attributed to the last record.
func (f *footer) rowsOf() []int64 {
	counts := make([]int64, len(f.Records))
	left := f.Rows
	for i, r := range f.Records {
		counts[i] = min(r.Rows, left)
		if i == len(f.Records)-1 {
			counts[i] = left
		}
		left -= counts[i]
	}
	return counts
}

// dropRows removes the rows of the given entries from the file at loc, and keeps the rows
// of other logs. The file may be missing.
func (s *Store) dropRows(tx *manifest.Tx, loc string, entries []manifest.Entry) error {
	path := filepath.Join(s.dir, loc)
	here := 0 // number of entries still at loc in the manifest
	for _, e := range entries {
		if now, ok := tx.Find(e.Record); ok && now.Location == loc {
			here++
		}
	}
	if here < len(entries) || entries[0].FileRecords != here {
		old, err := openStored(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		switch {
		case err == nil:
			keep, rest := old.selectRows(func(r store.Record) bool { return !containsRecord(entries, r) })
			if len(rest) > 0 {
				return s.rewrite(tx, loc, old, keep, rest)
			}
			old.close()
		case isReadError(err) || tx.CountAt(loc) > here:
			return err
		} // otherwise the file is damaged, and no other log is known to be in it
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// rewrite replaces the file at loc with a file that has only some of its rows: those in
// the given ranges, which belong to the given records. rewrite closes old, the replaced
// file.
func (s *Store) rewrite(tx *manifest.Tx, loc string, old *stored, keep []span, rest []store.Record) error {
	tmp, err := tx.Temp(0o666)
	if err != nil {
		old.close()
		return err
	}
	defer tmp.Close()
	if err = s.concat(context.Background(), tmp, old.columns, rest, nil, part{old, keep}); err != nil {
		os.Remove(tmp.Name())
		return err
	}
	info, err := tmp.Stat()
	if err == nil {
		err = durable.Rename(tmp.Name(), filepath.Join(s.dir, loc))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return err
	}
	for _, e := range entriesAt(tx, rest, loc) {
		e.StoredSize, e.StoredModTime, e.FileRecords = info.Size(), info.ModTime(), len(rest)
		tx.Put(e)
	}
	return nil
}

// selectRows returns the records for which keep returns true, and their rows.
func (s *stored) selectRows(keep func(store.Record) bool) (rows []span, records []store.Record) {
	from := int64(0)
	for i, n := range s.rowsOf() {
		if r := s.Records[i]; keep(r) {
			rows, records = append(rows, span{from, from + n}), append(records, r)
		}
		from += n
	}
	return rows, records
}

// containsRecord reports whether one of the entries is for r; see store.Record.Same.
func containsRecord(entries []manifest.Entry, r store.Record) bool {
	return slices.ContainsFunc(entries, func(e manifest.Entry) bool { return e.Same(r) })
}

// entriesAt returns the manifest's entries for the given records, but only those at loc.
func entriesAt(tx *manifest.Tx, records []store.Record, loc string) []manifest.Entry {
	var list []manifest.Entry
	for _, r := range records {
		if e, ok := tx.Find(r); ok && e.Location == loc {
			list = append(list, e)
		}
	}
	return list
}

// mergeOthers prepares the new file, t.tmp, for replacing the file at loc. If the old
// file also holds rows of other logs, mergeOthers adds these rows to the new file, except
// those that the manifest places elsewhere. It returns the entries whose rows it has
// added. ok is false if a column has different types in the two files.
func (t *tx) mergeOthers(ctx context.Context, m *manifest.Tx, loc string, replaced []manifest.Entry, replace []store.Record) (others []manifest.Entry, ok bool, err error) {
	here := slices.DeleteFunc(slices.Clone(replaced), func(e manifest.Entry) bool { return e.Location != loc })
	if here[0].FileRecords == len(here) {
		return nil, true, nil
	}
	old, err := openStored(filepath.Join(t.s.dir, loc))
	if err != nil {
		if !isReadError(err) && m.CountAt(loc) == len(here) {
			err = nil // the file is damaged, and no other log is known to be in it
		}
		return nil, true, err
	}
	mine, err := openStored(t.tmp.Name())
	if err != nil {
		old.close()
		return nil, false, err
	}
	others = slices.DeleteFunc(entriesAt(m, old.Records, loc), func(e manifest.Entry) bool { return e.Replaced || containsRecord(replaced, e.Record) })
	keep, rest := old.selectRows(func(r store.Record) bool { return containsRecord(others, r) })
	columns := widen(old.columns, mine.columns)
	var tmp *os.File
	if len(others) > 0 && columns != nil {
		tmp, err = m.Temp(0o666)
	}
	if tmp == nil {
		old.close()
		mine.close()
		return nil, len(others) == 0, err
	}
	if err := t.s.concat(ctx, tmp, columns, append(rest, mine.Records...), replace, part{old, keep}, part{mine, nil}); err != nil {
		os.Remove(tmp.Name())
		tmp.Close()
		return nil, false, err
	}
	os.Remove(t.tmp.Name())
	t.tmp.Close()
	t.tmp = tmp
	return others, true, nil
}

// part is a file with the ranges of rows to keep; nil keeps all rows.
type part struct {
	*stored
	keep []span
}

// concat writes a file with the rows of all parts, and closes the parts. The footer of
// the file lists the given records, which must be in the order of the rows, and the
// records that the file replaces.
func (s *Store) concat(ctx context.Context, out *os.File, columns []tstat.Column, records, replace []store.Record, parts ...part) error {
	a, err := s.assemble(ctx, out, columns)
	for i, p := range parts {
		if err != nil {
			parts[i].close()
			continue
		}
		err = a.add(p.stored, p.keep)
	}
	defer a.discard()
	if err != nil {
		return err
	}
	return a.finish(slices.Clone(records), textsOf(replace))
}

// Size implements store.Manager.
func (s *Store) Size(location string) (int64, error) { return manifest.Size(s.dir, location) }
