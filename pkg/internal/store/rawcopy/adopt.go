package rawcopy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// adoptBatch is the number of files recorded in one update of the manifest.
const adoptBatch = 100

// Adopt adds to the manifest the copies that math_repo made in DIR/<stream>/. It records
// every existing log up to a.Copied, the time of the last folder that math_repo
// finished.
//
// The records lack the mtime of the source file, which math_repo did not keep. So a
// source file of the same size as its copy counts as unchanged. If the sizes differ,
// because math_repo left an incomplete copy, the importer copies the source file again.
func (s *Store) Adopt(ctx context.Context, a store.Adoption) error {
	if err := store.ValidProbe(a.Stream); err != nil {
		return err
	}
	if a.Copied.IsZero() {
		return nil
	}
	var entries []manifest.Entry
	flush := func() error {
		list := entries
		entries = nil
		if err := durable.SyncNames(s.dir, manifest.Locations(list)); err != nil {
			return store.Unavailable(err)
		}
		return store.Unavailable(s.manifest.Update(ctx, func(tx *manifest.Tx) error {
			for _, e := range list {
				if len(tx.Lookup(e.Key)) == 0 {
					tx.Put(e)
				}
			}
			return nil
		}))
	}
	// With a separator at the end, WalkDir follows a symbolic link.
	root := filepath.Join(s.dir, a.Stream) + string(filepath.Separator)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == root {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e, ok, err := s.adopted(a, name, d)
		if err != nil || !ok {
			return err
		}
		if entries = append(entries, e); len(entries) < adoptBatch {
			return nil
		}
		return flush()
	})
	return errors.Join(store.Unavailable(err), flush())
}

// adopted returns the manifest entry to add for a copy made by math_repo. name is the
// path of the copy. ok is false if the file must not be recorded, for example because it
// is not a log or already has a record.
func (s *Store) adopted(a store.Adoption, name string, d fs.DirEntry) (e manifest.Entry, ok bool, err error) {
	file := d.Name()
	if !d.Type().IsRegular() || !tstat.IsLog(file) {
		return e, false, nil
	}
	folder := filepath.Base(filepath.Dir(name))
	at, err := tstat.ParseFolder(folder, a.Location)
	if err != nil || at.Time.After(a.Copied) {
		return e, false, nil
	}
	plain, _ := compression.CutSuffix(file)
	key := store.Key{Probe: a.Probe, Folder: folder, File: plain}
	if rs, err := s.manifest.Lookup([]store.Key{key}); err != nil || len(rs) > 0 {
		return e, false, err
	}
	location, err := filepath.Rel(s.dir, name)
	if err != nil {
		return e, false, err
	}
	f, err := os.Open(name)
	if err != nil {
		return e, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return e, false, err
	}
	typ := tstat.TypeByName(key.File)
	if typ == nil {
		typ = &tstat.LogType{Name: key.File}
	}
	rd := new(tstat.Reader)
	rd.Reset(f, typ, tstat.ReaderOptions{})
	if err := rd.Drain(); err != nil {
		return e, false, err
	}
	if err := durable.Sync(f); err != nil { // math_repo does not sync
		return e, false, err
	}
	sha, length := rd.Fingerprint()
	return manifest.Entry{Record: store.Record{
		Key: key, Fingerprint: store.Fingerprint{SHA256: sha, Length: length}, Size: info.Size(), Path: name,
		Type: key.File, Time: at.Time, Rows: rd.Counts().Rows, Rejects: rd.Counts().Rejects, Cut: rd.Counts().Cuts, Damaged: rd.Damage() != nil, Imported: time.Now().UTC(), Location: location,
	}}, true, nil
}
