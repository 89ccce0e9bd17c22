// Package parquet stores rows as Parquet files in a folder: one file per log, below
// type=<log type>/probe=<probe>/date=<YYYY-MM-DD, UTC>/. All files of a log type have the
// same schema, regardless of the Tstat version, so that the folder is one dataset for
// every tool that reads Hive style partitions.
//
// Each file becomes visible in one step, by a rename. Its footer holds the record of its
// source. The manifest beside the files is an index; see package manifest.
package parquet

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// formatKey is the metadata key in the footer for the format number of tstatrepo's
// metadata. Files without this key have format 1.
const (
	formatKey = "tstatrepo.format"
	format    = 1
)

// Options configures Open.
type Options struct {
	// Memory limits the buffers of one open file, in bytes. It determines
	// the size of the row groups. 0 means 200 MiB.
	Memory int64
	// Files is the number of files expected to be open at once. If fewer are open,
	// they share the unused memory. 0 means 1.
	Files int
	// Cores is the number of cores that encode rows. 0 means all that this
	// process may use.
	Cores int
	// ReadOnly keeps Open from creating anything. The caller must then not modify the
	// store.
	ReadOnly bool
	Log      *slog.Logger // warnings; may be nil
}

// Store is a folder of Parquet files.
type Store struct {
	store.Defaults
	manifest.Base
	dir      string
	opt      Options
	manifest *manifest.Manifest

	// doubled maps a log's text to the entries of additional files with the
	// same rows. Access requires the manifest's lock.
	doubled map[logText][]manifest.Entry

	buffers *buffers
	mu      sync.Mutex
	idle    []*writer
}

// Open opens the store in dir, or creates it. Unless opt.ReadOnly is set, it makes
// the manifest match the existing files, and removes temporary files of killed
// processes.
func Open(ctx context.Context, dir string, opt Options) (*Store, error) {
	if opt.Memory == 0 {
		opt.Memory = 200 << 20
	}
	opt.Files = max(opt.Files, 1)
	opt.Cores = cmp.Or(opt.Cores, runtime.GOMAXPROCS(0))
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	m, err := manifest.Open(ctx, dir, manifest.Parquet, opt.ReadOnly)
	if err != nil {
		return nil, store.Unavailable(err)
	}
	s := &Store{Base: m.Base(), dir: dir, opt: opt, manifest: m, buffers: newBuffers(opt.Memory, opt.Files, opt.Cores)}
	if !opt.ReadOnly {
		err = m.RemoveStale(ctx)
		if err == nil {
			err = s.removeStaleUnlocked()
		}
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

// String returns the store's URL.
func (s *Store) String() string { return "parquet:" + s.dir }

// Properties implements store.Store.
func (s *Store) Properties() store.Properties { return store.Properties{Compacts: true} }

// Begin implements store.Store.
func (s *Store) Begin(ctx context.Context, f store.FileInfo) (store.FileTx, error) {
	if err := store.ValidProbe(f.Probe); err != nil {
		return nil, err
	}
	tmp, err := s.manifest.Temp(ctx, 0o666)
	if err != nil {
		return nil, store.Unavailable(err)
	}
	tx := &tx{s: s, f: f, tmp: tmp, out: bufio.NewWriterSize(tmp, 256<<10), w: s.writer()}
	tx.w.beginKept(tx.out, f.Columns, f.Kept)
	return tx, nil
}

// writer returns an idle or new writer.
func (s *Store) writer() *writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		w := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return w
	}
	return &writer{buffers: s.buffers}
}

// releaseWriter ends the file of a writer and keeps the writer for another file.
func (s *Store) releaseWriter(w *writer) {
	w.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, w)
}

// tx is a Parquet file that is being written.
type tx struct {
	s    *Store
	f    store.FileInfo
	tmp  *os.File // nil once the transaction has ended
	out  *bufio.Writer
	w    *writer
	rows int64
}

func (t *tx) Write(_ context.Context, b *tstat.Batch) error {
	t.rows += int64(b.Len())
	return store.Unavailable(t.w.write(b))
}

// Flush implements store.FileTx. Parquet accepts every row.
func (t *tx) Flush(context.Context) (int64, error) { return 0, nil }

func (t *tx) Abort() error {
	if t.tmp == nil {
		return nil
	}
	err := errors.Join(os.Remove(t.tmp.Name()), t.tmp.Close())
	t.end()
	return err
}

func (t *tx) end() {
	t.tmp = nil
	t.s.releaseWriter(t.w)
	t.w = nil
}

func (t *tx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	defer t.Abort()
	r.Location = ""
	meta, err := footerMetadata([]store.Record{r}, textsOf(replace))
	if err != nil {
		return err
	}
	if err := t.w.close(meta); err != nil {
		return store.Unavailable(err)
	}
	if err := t.out.Flush(); err != nil {
		return store.Unavailable(err)
	}
	if err := durable.Sync(t.tmp); err != nil {
		return store.Unavailable(err)
	}
	return store.Unavailable(t.s.manifest.Update(ctx, func(m *manifest.Tx) error { return t.publish(ctx, m, r, known, replace) }))
}

// publish makes the file visible with a rename, which may replace another file.
// So a reader sees either the old rows or the new ones.
func (t *tx) publish(ctx context.Context, m *manifest.Tx, r store.Record, known, replace []store.Record) error {
	replaced, err := m.Replaced(r, known, replace)
	if err != nil {
		return err
	}
	first := entryLocation(t.f, 1)
	if _, err := os.Lstat(filepath.Join(t.s.dir, first)); m.Damaged() || err == nil && m.CountAt(first) == 0 || !t.s.isCurrent(m, replaced) {
		// A process was killed before it recorded its changes.
		if err := t.s.reconcile(m); err != nil {
			return err
		}
		if replaced, err = m.Replaced(r, known, replace); err != nil {
			return err
		}
	}
	entry := manifest.Entry{Record: r}
	var others []manifest.Entry // of other logs in the same file
	var folder *durable.Folder
	if t.rows > 0 {
		for _, e := range replaced {
			// The folder is another one if the log had another time zone or type.
			if filepath.Dir(e.Location) != filepath.Dir(first) {
				continue
			}
			var ok bool
			if others, ok, err = t.mergeOthers(ctx, m, e.Location, replaced, replace); err != nil {
				return err
			}
			if ok {
				entry.Location = e.Location
				break
			}
		}
		if entry.Location == "" {
			if entry.Location, err = t.s.freeLocation(t.f, 1+len(m.Lookup(r.Key))-len(replaced)); err != nil {
				return err
			}
		}
		entry.FileRecords = 1 + len(others)
		path := filepath.Join(t.s.dir, entry.Location)
		if folder, err = durable.Prepare(filepath.Dir(path), 0o777); err != nil {
			return err
		}
		info, err := t.tmp.Stat()
		if err != nil {
			return err
		}
		entry.StoredSize, entry.StoredModTime = info.Size(), info.ModTime()
		if err := os.Rename(t.tmp.Name(), path); err != nil {
			return err
		}
		t.tmp.Close()
		t.end()
	}
	// The rows are visible now, so write the record even if a later step
	// fails.
	var errs []error
	if folder != nil {
		errs = append(errs, folder.Sync())
	}
	errs = append(errs, t.s.remove(m, replaced, entry.Location))
	m.Put(entry)
	for _, e := range others {
		e.StoredSize, e.StoredModTime, e.FileRecords = entry.StoredSize, entry.StoredModTime, entry.FileRecords
		m.Put(e)
	}
	return errors.Join(errs...)
}

// remove removes replaced entries and their rows. It leaves the file at the given
// location alone, because that file already has the new rows. Entries whose rows cannot
// be removed stay marked as replaced, and removePruned retries them.
func (s *Store) remove(tx *manifest.Tx, replaced []manifest.Entry, by string) error {
	at := map[string][]manifest.Entry{}
	for _, e := range replaced {
		for _, e := range append([]manifest.Entry{e}, s.doubled[textOf(e.Record)]...) {
			if e.Location != "" && e.Location != by {
				at[e.Location] = append(at[e.Location], e)
			}
		}
	}
	var failed []manifest.Entry
	var errs []error
	dirs := map[string]bool{}
	for loc, entries := range at {
		if err := s.dropRows(tx, loc, entries); err != nil {
			failed = append(failed, entries...)
			errs = append(errs, err)
		}
		dirs[filepath.Dir(loc)] = true
	}
	for _, e := range replaced {
		tx.Delete(e.Record)
	}
	for _, e := range failed {
		e.Pruned, e.Replaced = time.Now().UTC(), true
		tx.Put(e)
	}
	for dir := range dirs {
		errs = append(errs, durable.SyncDir(filepath.Join(s.dir, dir)))
	}
	return errors.Join(errs...)
}

// isCurrent reports whether the entries' files match the manifest.
func (s *Store) isCurrent(m *manifest.Tx, entries []manifest.Entry) bool {
	return !slices.ContainsFunc(entries, func(e manifest.Entry) bool {
		if e.Location == "" {
			return false
		}
		info, err := os.Stat(filepath.Join(s.dir, e.Location))
		return err != nil || !e.Matches(info) || !m.Complete(e)
	})
}

// freeLocation calls entryLocation with n, n+1 and so on, and returns the first location
// that is unused. If different content with the same key is already stored, n must be
// greater than 1: a reader that has listed the first file's name must not find other rows
// under that name.
func (s *Store) freeLocation(f store.FileInfo, n int) (string, error) {
	for ; ; n++ {
		loc := entryLocation(f, n)
		_, err := os.Lstat(filepath.Join(s.dir, loc))
		if errors.Is(err, fs.ErrNotExist) {
			return loc, nil
		}
		if err != nil {
			return "", err
		}
	}
}

// entryLocation returns the location of the n-th file stored for the key of f. For n > 1
// the file's name contains n.
func entryLocation(f store.FileInfo, n int) string {
	name := strings.TrimSuffix(f.Folder, ".out") + ".parquet"
	if n > 1 {
		name = strings.TrimSuffix(f.Folder, ".out") + "." + strconv.Itoa(n) + ".parquet"
	}
	return filepath.Join("type="+f.Type.Name, "probe="+f.Probe, "date="+f.Time.UTC().Format(time.DateOnly), name)
}
