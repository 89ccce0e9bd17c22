// Package rawcopy copies log files to DIR/<probe>/. By default each copy has the same
// content as its source file, byte for byte, and the same path as in the source; see
// Options.
package rawcopy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Store is a folder of copied logs. Its manifest holds the records. A killed
// process may leave a copy without a record; the next copy of the same log
// replaces it.
type Store struct {
	store.Defaults
	manifest.Base
	dir      string
	opt      Options
	manifest *manifest.Manifest
	log      *slog.Logger
}

// Open opens the store in dir, or creates it. With readOnly it creates nothing, and the
// caller must not modify the store. log receives warnings and may be nil.
func Open(ctx context.Context, dir string, opt Options, readOnly bool, log *slog.Logger) (*Store, error) {
	m, err := manifest.Open(ctx, dir, manifest.Copy, readOnly)
	if err != nil {
		return nil, store.Unavailable(err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{Base: m.Base(), dir: dir, opt: opt, manifest: m, log: log}
	if !readOnly {
		err = m.RemoveStale(ctx)
		if err == nil {
			err = m.Update(ctx, s.reconcile)
		}
		if err != nil {
			m.Close()
			return nil, store.Unavailable(err)
		}
	}
	return s, nil
}

// reconcile deletes records whose copy is missing. If several records name the same
// copy, it keeps only those whose fingerprint matches the copy. The others describe
// replaced copies, but the manifest has lost the lines that deleted these records. If a
// record was lost, the next copy of its source file recreates it, see tx.location.
func (s *Store) reconcile(tx *manifest.Tx) error {
	if tx.Damaged() {
		s.log.Warn("manifest is damaged: lost records return with the next import of their logs, and pruned logs may be imported again",
			"store", s.String())
	}
	for _, err := range s.removePruned(tx) {
		s.log.Warn("copy not pruned", "store", s.String(), "err", err)
	}
	var gone []store.Record
	at := map[string][]manifest.Entry{}
	tx.All(func(e manifest.Entry) {
		if e.Pruned.IsZero() {
			at[e.Location] = append(at[e.Location], e)
		}
	})
	for loc, es := range at {
		path := filepath.Join(s.dir, loc)
		_, err := os.Lstat(path)
		missing := errors.Is(err, fs.ErrNotExist)
		var now store.Fingerprint
		if len(es) > 1 && !missing {
			if now, err = fingerprint(path, true); err != nil {
				continue // verify reports it
			}
		}
		for _, e := range es {
			if missing || len(es) > 1 && e.Fingerprint != now {
				gone = append(gone, e.Record)
			}
		}
	}
	for _, r := range gone {
		tx.Delete(r)
	}
	if tx.Doubtful() {
		return tx.Rewrite()
	}
	return nil
}

// fingerprint returns the fingerprint of the decompressed content of the copy at path. It
// returns an error if the end of a compressed copy is missing, unless truncated is set
// because the source file may lack its end, too.
func fingerprint(path string, truncated bool) (store.Fingerprint, error) {
	f, err := os.Open(path)
	if err != nil {
		return store.Fingerprint{}, err
	}
	defer f.Close()
	rd := new(tstat.Reader)
	rd.Reset(f, &tstat.LogType{}, tstat.ReaderOptions{})
	if err := cmp.Or(rd.Drain(), rd.Damage()); err != nil {
		return store.Fingerprint{}, err
	}
	if rd.Truncated() && !truncated {
		return store.Fingerprint{}, errTruncated
	}
	sha, length := rd.Fingerprint()
	return store.Fingerprint{SHA256: sha, Length: length}, nil
}

var errTruncated = errors.New("the end of the compressed file is missing")

// String returns the store's URL.
func (s *Store) String() string { return "copy:" + s.dir }

// Accepts implements store.Store. Files of unknown log types are copied, too.
func (s *Store) Accepts(store.FileInfo) bool { return true }

// Begin implements store.Store. The result accepts no rows; see BeginRaw.
func (s *Store) Begin(ctx context.Context, f store.FileInfo) (store.FileTx, error) {
	return s.BeginRaw(ctx, f)
}

// BeginRaw implements store.RawStore.
func (s *Store) BeginRaw(ctx context.Context, f store.FileInfo) (store.RawTx, error) {
	if err := store.ValidProbe(f.Probe); err != nil {
		return nil, err
	}
	dir, rest, _ := strings.Cut(f.Name, "/")
	if dir == manifest.Dir {
		return nil, fmt.Errorf("a probe cannot be named %s: the store keeps its own files in that folder", dir)
	}
	if store.ValidProbe(dir) != nil || !filepath.IsLocal(filepath.FromSlash(rest)) {
		return nil, fmt.Errorf("file name %q leads out of the store", f.Name)
	}
	perm := f.Mode.Perm() | 0o600
	if f.Mode == 0 {
		perm = 0o666
	}
	tmp, err := s.manifest.Temp(ctx, perm)
	if err != nil {
		return nil, store.Unavailable(err)
	}
	return &tx{s: s, f: f, tmp: tmp}, nil
}

// tx is the transaction that copies one file.
type tx struct {
	s   *Store
	f   store.FileInfo
	tmp *os.File // nil once the transaction has ended

	compressed bool // tmp is compressed with zstd
}

// Write implements store.FileTx. It always fails, because a copy store accepts no rows.
func (t *tx) Write(context.Context, *tstat.Batch) error {
	return errors.New("a copy store accepts only the bytes of files, not rows")
}

// WriteRaw implements store.RawTx.
func (t *tx) WriteRaw(_ context.Context, p []byte) error {
	_, err := t.tmp.Write(p)
	return store.Unavailable(err)
}

// Flush implements store.FileTx.
func (t *tx) Flush(context.Context) (int64, error) { return 0, nil }

func (t *tx) Abort() error {
	if t.tmp == nil {
		return nil
	}
	err := errors.Join(os.Remove(t.tmp.Name()), t.tmp.Close())
	t.tmp = nil
	return err
}

func (t *tx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	defer t.Abort()
	if t.s.opt.Zstd && !r.Damaged {
		if err := t.compress(ctx); err != nil {
			return store.Unavailable(err)
		}
	}
	if !t.f.ModTime.IsZero() {
		if err := os.Chtimes(t.tmp.Name(), time.Time{}, t.f.ModTime); err != nil {
			return store.Unavailable(err)
		}
	}
	// The first copy in a folder makes the folder's name durable. This takes hardly any
	// time while the bytes are synced.
	dir := filepath.Join(t.s.dir, filepath.Dir(filepath.FromSlash(t.name())))
	err := durable.Together(
		func() error { return durable.Sync(t.tmp) },
		func() error {
			// Another process may remove the folder meanwhile. publish creates
			// the folder again if it is missing, and reports other errors.
			durable.MkdirAll(dir, 0o777)
			return nil
		})
	if err != nil {
		return store.Unavailable(err)
	}
	return store.Unavailable(t.s.manifest.Update(ctx, func(m *manifest.Tx) error {
		// Rmdir fails unless the folder is empty: the copy is in another one, or nowhere.
		defer syscall.Rmdir(dir)
		return t.publish(m, r, known, replace)
	}))
}

// publish renames the temporary file of t to its final path and writes the record r. It
// also removes stale copies and the copies of replaced records.
func (t *tx) publish(m *manifest.Tx, r store.Record, known, replace []store.Record) error {
	replaced, err := m.Replaced(r, known, replace)
	if err != nil {
		return err
	}
	if r.Location, err = t.location(m, replaced); err != nil {
		return err
	}
	path := filepath.Join(t.s.dir, r.Location)
	folder, err := durable.Prepare(filepath.Dir(path), 0o777)
	if err != nil {
		return err
	}
	if err := os.Rename(t.tmp.Name(), path); err != nil {
		return err
	}
	t.tmp.Close()
	t.tmp = nil
	// The copy is visible now, so write the record even if a later step
	// fails.
	errs := []error{folder.Sync()}
	var gone []string
	for _, e := range replaced {
		m.Delete(e.Record)
		gone = append(gone, e.Location)
	}
	for _, other := range otherForms(r.Location) {
		if m.CountAt(other) == 0 && t.s.isStaleCopy(other, r) {
			gone = append(gone, other)
		}
	}
	for _, loc := range gone {
		if loc != r.Location && loc != "" {
			old := filepath.Join(t.s.dir, loc)
			if err := os.Remove(old); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err, durable.SyncDir(filepath.Dir(old)))
			}
		}
	}
	m.Put(manifest.Entry{Record: r})
	return errors.Join(errs...)
}

// otherForms returns the other names under which the same log may have been stored. They
// differ from the given name only in the compression suffix, which may be missing.
func otherForms(name string) (names []string) {
	plain, is := compression.CutSuffix(name)
	for _, suffix := range append(compression.Suffixes(), "") {
		if suffix != is {
			names = append(names, plain+suffix)
		}
	}
	return names
}

// isStaleCopy reports whether the file at loc, which has no record, holds a prefix of r's
// decompressed content. Such a file was copied before the log was compressed, and its
// record was lost.
func (s *Store) isStaleCopy(loc string, r store.Record) bool {
	old, err := fingerprint(filepath.Join(s.dir, loc), true)
	if err != nil || old.Length == 0 || old.Length > r.Length {
		return false
	}
	if old == r.Fingerprint {
		return true
	}
	f, err := os.Open(filepath.Join(s.dir, r.Location))
	if err != nil {
		return false
	}
	defer f.Close()
	return textStartsWith(f, old)
}

// textStartsWith reports whether the decompressed content of f begins with content that
// has the given fingerprint.
func textStartsWith(f io.Reader, text store.Fingerprint) bool {
	rd := new(tstat.Reader)
	rd.Reset(f, &tstat.LogType{}, tstat.ReaderOptions{Marks: []int64{text.Length}})
	return rd.Drain() == nil && rd.Mark(text.Length) == text.SHA256
}

// location returns the location for t's copy. If t replaces a copy, this is usually the
// location of that copy. Otherwise it is the result of t.name, or NAME.2, NAME.3 and so on
// if another file has that name. A file may be overwritten if it has no record and t's
// copy begins with its content. Such a file was left by a killed process.
func (t *tx) location(m *manifest.Tx, replaced []manifest.Entry) (string, error) {
	name := filepath.FromSlash(t.name())
	for _, e := range replaced {
		if e.Location == "" { // pruned
			continue
		}
		// The log may have been compressed or moved.
		if e.Location == name || filepath.Ext(e.Location) == filepath.Ext(name) {
			return e.Location, nil
		}
	}
	for n := 1; ; n++ {
		loc := name
		if n > 1 {
			loc += "." + strconv.Itoa(n)
		}
		path := filepath.Join(t.s.dir, loc)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return loc, nil
		}
		if m.CountAt(loc) > 0 {
			continue
		}
		if same, err := t.beginsWith(path); err != nil || same {
			return loc, err
		}
		if t.compressed {
			old, err := fingerprint(path, true)
			if err == nil && old.Length > 0 && textStartsWith(io.NewSectionReader(t.tmp, 0, math.MaxInt64), old) {
				return loc, nil
			}
		}
	}
}

// beginsWith reports whether t's copy begins with the content of the file at path.
func (t *tx) beginsWith(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := f.Read(a)
		if n > 0 {
			m, _ := t.tmp.ReadAt(b[:n], off)
			if m < n || string(a[:n]) != string(b[:n]) {
				return false, nil
			}
			off += int64(n)
		}
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}
