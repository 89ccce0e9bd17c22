package parquet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
)

// Verify implements store.Manager. It compares the footers of all files with the
// manifest. It then rechecks suspicious files under a lock, so that no other process can
// change the store at the same time.
func (s *Store) Verify(ctx context.Context, opt store.VerifyOptions) error {
	if _, err := s.manifest.All(); err != nil {
		return err
	}
	s.manifest.Verify(opt.Fault)
	locs, err := s.files()
	if err != nil {
		return err
	}
	known, err := s.known()
	if err != nil {
		return err
	}
	var suspects []string
	for _, loc := range locs {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(s.dir, loc))
		es := known[loc]
		if err != nil || len(es) == 0 || slices.ContainsFunc(es, func(e manifest.Entry) bool { return !e.Matches(info) || e.FileRecords > 0 && e.FileRecords != len(es) }) {
			suspects = append(suspects, loc)
			continue
		}
		if f, err := readFooter(filepath.Join(s.dir, loc)); err != nil || len(f.Records) != len(es) {
			suspects = append(suspects, loc)
			continue
		}
		if opt.Deep {
			s.readAll(ctx, loc, opt)
		}
	}
	err = s.manifest.View(ctx, func(tx *manifest.Tx) error {
		for _, loc := range suspects {
			s.verifyFile(tx, loc, opt)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if opt.Deep {
		for _, loc := range suspects {
			s.readAll(ctx, loc, opt)
		}
	}
	return s.reportForeign(locs, opt)
}

// known returns the manifest's entries whose rows are stored, by location.
func (s *Store) known() (map[string][]manifest.Entry, error) {
	entries, err := s.manifest.All()
	known := map[string][]manifest.Entry{}
	for _, e := range entries {
		if e.Location != "" && e.Pruned.IsZero() {
			known[e.Location] = append(known[e.Location], e)
		}
	}
	return known, err
}

// verifyFile compares the footer of a file with the manifest, and reports
// differences as faults.
func (s *Store) verifyFile(tx *manifest.Tx, loc string, opt store.VerifyOptions) {
	fault := func(kind string, key store.Key, format string, args ...any) {
		opt.Fault(store.Fault{Kind: kind, Key: key, Path: loc, Reason: fmt.Sprintf(format, args...)})
	}
	f, err := readFooter(filepath.Join(s.dir, loc))
	switch {
	case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		return
	case errors.Is(err, errNoRecords):
		fault(store.Foreign, store.Key{}, "%v", err)
		return
	case err != nil:
		fault(store.Unreadable, store.Key{}, "%v", err)
		return
	}
	for _, r := range f.Records {
		if opt.Wants != nil && !opt.Wants(&r) {
			continue
		}
		switch has, ok := tx.Find(r); {
		case !ok:
			fault(store.Unrecorded, r.Key, "%d rows that the manifest does not know", r.Rows)
		case !has.Pruned.IsZero():
			fault(store.Unrecorded, r.Key, "%d rows of a log that was pruned or replaced", r.Rows)
		case has.Location == loc:
		case has.Location != "" && s.hasRowsOf(has.Location, r):
			fault(store.Doubled, r.Key, "its %d rows are also in %s", r.Rows, has.Location)
		default:
			fault(store.Unrecorded, r.Key, "%d rows that are in %q for the manifest", r.Rows, has.Location)
		}
	}
}

// hasRowsOf reports whether the file at a location has a record's rows.
func (s *Store) hasRowsOf(loc string, r store.Record) bool {
	f, err := readFooter(filepath.Join(s.dir, loc))
	return err == nil && slices.ContainsFunc(f.Records, r.Same)
}

// reportForeign reports files from other programs that are in the dataset's
// folders or have names that readers of the dataset accept. locs are the
// locations of the dataset's files.
func (s *Store) reportForeign(locs []string, opt store.VerifyOptions) error {
	inLocs := map[string]bool{}
	for _, loc := range locs {
		for ; loc != "."; loc = filepath.Dir(loc) { // a folder may be a symbolic link
			inLocs[loc] = true
		}
	}
	// With a separator at the end, WalkDir follows a symbolic link.
	return filepath.WalkDir(s.dir+string(filepath.Separator), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		loc, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if loc == manifest.Dir {
				return fs.SkipDir
			}
			return nil
		}
		isParquet := strings.HasSuffix(d.Name(), ".parquet")
		hidden := strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")
		if inLocs[loc] || !isParquet && (hidden || !strings.HasPrefix(loc, "type=")) {
			return nil
		}
		if inDataset(loc) {
			return nil // stored meanwhile
		}
		opt.Fault(store.Fault{Kind: store.Foreign, Path: loc, Reason: "not a file that tstatrepo writes here"})
		return nil
	})
}

// readAll reads all values in a file. It reports a fault if the file is damaged, and a
// fault for each log that has values ending in CR.
func (s *Store) readAll(ctx context.Context, loc string, opt store.VerifyOptions) {
	in, err := openStored(filepath.Join(s.dir, loc))
	if errors.Is(err, errColumns) {
		opt.Fault(store.Fault{Kind: store.Damaged, Path: loc, Reason: err.Error()})
	}
	if err != nil {
		return // reported, or removed meanwhile
	}
	defer in.close()
	carriage := map[int]int64{} // record -> values
	if err := in.readAll(ctx, carriage); err != nil && ctx.Err() == nil {
		opt.Fault(store.Fault{Kind: store.Damaged, Path: loc, Reason: err.Error()})
	}
	for i, n := range carriage {
		if r := in.Records[i]; opt.Wants == nil || opt.Wants(&r) {
			opt.Fault(store.Fault{Kind: store.CR, Key: r.Key, Path: loc, Reason: fmt.Sprintf("%d values end in CR", n)})
		}
	}
}

// readAll decodes all pages. carriage counts the values that end in CR, by the index of
// their record.
func (s *stored) readAll(ctx context.Context, carriage map[int]int64) (err error) {
	defer recoverDamage(&err)
	var ends []int64 // row number after the last row of each record
	sum := int64(0)
	for _, n := range s.rowsOf() {
		sum += n
		ends = append(ends, sum)
	}
	start := int64(0)
	for g := range s.r.NumRowGroups() {
		rg := s.r.RowGroup(g)
		for c := range rg.NumColumns() {
			if err := ctx.Err(); err != nil {
				return err
			}
			cr, err := rg.Column(c)
			if err == nil {
				err = readColumn(cr, rg.NumRows(), func(row int64) {
					i, _ := slices.BinarySearch(ends, start+row+1)
					carriage[min(i, len(ends)-1)]++ // the footer may count fewer rows
				})
			}
			if err != nil {
				return fmt.Errorf("row group %d, column %s: %w", g, s.columns[c].Name, err)
			}
		}
		start += rg.NumRows()
	}
	return nil
}

// readColumn reads a column chunk and calls carriage for each row whose value
// ends in CR.
func readColumn(cr file.ColumnChunkReader, rows int64, carriage func(row int64)) error {
	in := newInput()
	for pos := int64(0); pos < rows; {
		if !cr.HasNext() {
			return errors.Join(io.ErrUnexpectedEOF, cr.Err())
		}
		n, read, err := in.read(cr, min(batchSize, rows-pos))
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if _, ok := cr.(*file.ByteArrayColumnChunkReader); ok {
			texts := in.texts[:read]
			for i, d := range in.def[:n] {
				if d == 0 {
					continue
				}
				if strings.HasSuffix(string(texts[0]), "\r") {
					carriage(pos + int64(i))
				}
				texts = texts[1:]
			}
		}
		pos += n
	}
	return nil
}

// Repair implements store.Manager. If a log's rows are in several files, only the file
// that the manifest names keeps them.
func (s *Store) Repair(ctx context.Context, dryRun bool) (res store.RepairResult, err error) {
	if dryRun {
		err = s.manifest.View(ctx, func(tx *manifest.Tx) error {
			v, err := s.survey(tx)
			if err == nil {
				res, _ = repairs(v.doubled)
			}
			return err
		})
		return res, err
	}
	err = s.manifest.Update(ctx, func(tx *manifest.Tx) error {
		if err := s.reconcile(tx); err != nil {
			return err
		}
		var at map[string][]manifest.Entry
		res, at = repairs(s.doubled)
		var errs []error
		for loc, entries := range at {
			errs = append(errs, s.dropRows(tx, loc, entries))
		}
		return errors.Join(errs...)
	})
	return res, store.Unavailable(err)
}

// repairs returns what Repair has to remove: the totals, and the entries whose rows it
// removes, by location. For doubled see Store.doubled.
func repairs(doubled map[logText][]manifest.Entry) (res store.RepairResult, at map[string][]manifest.Entry) {
	at = map[string][]manifest.Entry{}
	for _, entries := range doubled {
		res.Logs++
		for _, e := range entries {
			res.Rows += e.Rows
			at[e.Location] = append(at[e.Location], e)
		}
	}
	return res, at
}
