package parquet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
)

// reconcile makes the manifest match the files. They may differ if a process was killed
// before it had written its entries, or if someone moved or removed files. reconcile does
// not read a file if the file is unchanged and none of its entries are missing. It reads
// the footers of all other files, and of every file if the manifest has lost lines.
func (s *Store) reconcile(tx *manifest.Tx) error {
	if tx.Damaged() {
		s.opt.Log.Warn("manifest is damaged: rebuilding it from the stored files; pruned logs may be imported again", "store", s.String())
	}
	var pruned []manifest.Entry
	tx.All(func(e manifest.Entry) {
		if e.Location != "" && !e.Pruned.IsZero() {
			pruned = append(pruned, e)
		}
	})
	if _, err := s.removePruned(tx, pruned); err != nil {
		s.opt.Log.Warn("rows not removed", "store", s.String(), "err", err)
	}
	v, err := s.survey(tx)
	if err != nil {
		return err
	}
	for _, e := range v.gone {
		tx.Delete(e.Record)
	}
	// The process that wrote these files may have been killed before it
	// synced their names.
	if err := durable.SyncNames(s.dir, v.unknown); err != nil {
		return err
	}
	for _, e := range v.found {
		tx.Put(e)
	}
	s.doubled = v.doubled
	s.removeLeft(tx, v.replacedBy)
	if n := len(s.doubled); n > 0 {
		s.opt.Log.Warn("rows of some logs are stored twice", "store", s.String(), "logs", n, "hint", "remove them: store verify, then store repair")
	}
	if tx.Doubtful() {
		return tx.Rewrite()
	}
	return nil
}

// removeLeft removes replaced rows that a killed process left. For replacedBy see survey.
func (s *Store) removeLeft(tx *manifest.Tx, replacedBy map[logText]store.Record) {
	var left []manifest.Entry
	tx.All(func(e manifest.Entry) {
		if r, ok := replacedBy[textOf(e.Record)]; ok && e.Location != r.Location && e.Imported.Before(r.Imported) {
			left = append(left, e)
		}
	})
	for _, e := range left {
		t := textOf(e.Record)
		by := replacedBy[t].Location
		if err := s.remove(tx, []manifest.Entry{e}, by); err != nil {
			s.opt.Log.Warn("rows not removed", "store", s.String(), "err", err)
		}
		// A log that was stored again replaces its own text.
		for _, d := range s.doubled[t] {
			if d.Location == by {
				tx.Put(d)
			}
		}
		delete(s.doubled, t)
	}
}

// survey holds the differences between the files and the manifest.
type survey struct {
	gone       []manifest.Entry             // entries whose file was removed, moved or replaced
	found      []manifest.Entry             // entries from the footers of files that were read
	unknown    []string                     // locations of files whose names may not be synced yet
	doubled    map[logText][]manifest.Entry // entries of logs whose rows are also in another file
	replacedBy map[logText]store.Record     // the record that replaces each text
}

// survey compares the files with the manifest.
func (s *Store) survey(tx *manifest.Tx) (*survey, error) {
	known := map[string][]manifest.Entry{}
	tx.All(func(e manifest.Entry) {
		if e.Location != "" {
			known[e.Location] = append(known[e.Location], e)
		}
	})
	locs, err := s.files()
	if err != nil {
		return nil, err // an unreadable folder may contain stored files
	}
	v := &survey{doubled: map[logText][]manifest.Entry{}, replacedBy: map[logText]store.Record{}}
	var found []manifest.Entry
	homes := map[logText]string{} // the location in the manifest, if its file exists
	for _, loc := range locs {
		path := filepath.Join(s.dir, loc)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		es := known[loc]
		complete := len(es) > 0 && !slices.ContainsFunc(es, func(e manifest.Entry) bool { return !e.Matches(info) || !tx.Complete(e) })
		if complete && !tx.Doubtful() {
			for _, e := range es {
				homes[textOf(e.Record)] = loc
			}
			delete(known, loc)
			continue
		}
		f, err := readFooter(path)
		if isReadError(err) {
			return nil, err // the file may hold logs of the manifest
		}
		if err != nil {
			s.opt.Log.Warn("parquet file skipped: damaged or not written by tstatrepo", "file", path, "err", err)
			if len(es) > 0 && es[0].Matches(info) {
				delete(known, loc) // nothing contradicts the manifest; verify reports the file
			}
			continue
		}
		for _, r := range f.Records {
			e := manifest.Entry{Record: r}
			if now, ok := tx.Find(r); ok {
				if now.Location == loc {
					homes[textOf(r)] = loc
				}
				if (now.Pruned.IsZero() || now.Replaced) && !r.Imported.After(now.Imported) {
					e = now // the entry may have newer details of the source
				}
			}
			e.Location, e.StoredSize, e.StoredModTime, e.FileRecords = loc, info.Size(), info.ModTime(), len(f.Records)
			found = append(found, e)
		}
		last := f.Records[len(f.Records)-1]
		last.Location = loc
		for _, t := range f.Replaces {
			v.replacedBy[logText{last.Key, t}] = last
		}
	}
	for _, es := range known {
		v.gone = append(v.gone, es...)
	}
	for _, e := range found {
		if homes[textOf(e.Record)] != e.Location {
			v.unknown = append(v.unknown, e.Location)
		}
	}
	for _, e := range found {
		t := textOf(e.Record)
		switch homes[t] {
		case "", e.Location:
			homes[t] = e.Location
			v.found = append(v.found, e)
		default:
			v.doubled[t] = append(v.doubled[t], e)
		}
	}
	return v, nil
}

// logText identifies a log by its key and its content.
type logText struct {
	store.Key
	text string // see store.Record.Text
}

// textOf returns the logText of a record.
func textOf(r store.Record) logText { return logText{r.Key, r.Text()} }

// levels are the prefixes of a location's path elements.
var levels = []string{"type=", "probe=", "date=", ""}

// inDataset reports whether a location looks like a result of entryLocation.
func inDataset(loc string) bool {
	names := strings.Split(loc, string(filepath.Separator))
	if len(names) != len(levels) || !strings.HasSuffix(loc, ".parquet") {
		return false
	}
	for i, prefix := range levels {
		if !strings.HasPrefix(names[i], prefix) {
			return false
		}
	}
	return true
}

// files returns the locations of all Parquet files in the dataset. It follows symbolic
// links to folders.
func (s *Store) files() ([]string, error) {
	locs := []string{"."}
	for _, prefix := range levels {
		var next []string
		for _, loc := range locs {
			entries, err := os.ReadDir(filepath.Join(s.dir, loc))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, e := range entries {
				isFile := prefix == ""
				if !strings.HasPrefix(e.Name(), prefix) || isFile && !strings.HasSuffix(e.Name(), ".parquet") {
					continue
				}
				path, isDir := filepath.Join(loc, e.Name()), e.IsDir()
				if !isFile && e.Type()&fs.ModeSymlink != 0 {
					info, err := os.Stat(filepath.Join(s.dir, path))
					if err != nil {
						return nil, fmt.Errorf("follow symbolic link: %w", err) // its disk may not be mounted
					}
					isDir = info.IsDir()
				}
				if isDir != isFile {
					next = append(next, path)
				}
			}
		}
		locs = next
	}
	return locs, nil
}
