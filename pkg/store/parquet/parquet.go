// Package parquet stores rows as Parquet files in a folder: one file per log,
// below type=<log type>/probe=<probe>/date=<YYYY-MM-DD, UTC>/. All files of a
// log type have one schema, whatever Tstat wrote them, so that the folder is
// one dataset for every tool that reads Hive style partitions.
//
// A file appears by a rename, whole, with the record of its source in its
// footer. The manifest beside the files is there for speed; see package
// manifest.
package parquet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/parquet/file"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// RecordsKey is the key of the footer's metadata that holds the records of
// the source files whose rows the file has: a JSON array of store.Record.
const RecordsKey = "tstatrepo.records"

// Options of a store.
type Options struct {
	// Memory bounds what one open file buffers, in bytes. It sets the size
	// of the row groups. 0 means 200 MiB.
	Memory int64
	// ReadOnly opens for Lookup only and creates nothing.
	ReadOnly bool
	Log      *slog.Logger // warnings; nil: none
}

// Store is a folder of Parquet files.
type Store struct {
	dir      string
	opt      Options
	manifest *manifest.Manifest

	mu   sync.Mutex
	idle []*writer // their buffers are large
}

// Open opens the store in dir and makes it if need be. It brings the manifest
// in line with the files that are there, and removes what killed processes
// left.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Memory == 0 {
		opt.Memory = 200 << 20
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	m, err := manifest.Open(dir, opt.ReadOnly)
	if err != nil {
		return nil, store.Unavailable(err)
	}
	s := &Store{dir: dir, opt: opt, manifest: m}
	if !opt.ReadOnly {
		err = m.RemoveStale()
		if err == nil {
			err = m.Update(s.reconcile)
		}
		if err != nil {
			m.Close()
			return nil, store.Unavailable(err)
		}
		if n := m.Damaged(); n > 0 {
			opt.Log.Warn("damaged lines in the manifest were passed over; the stored files tell the same", "store", s.String(), "lines", n)
		}
	}
	return s, nil
}

// String returns the store's URL.
func (s *Store) String() string { return "parquet:" + s.dir }

// Close ends the use of the store.
func (s *Store) Close() error { return s.manifest.Close() }

// Lookup implements store.Store.
func (s *Store) Lookup(_ context.Context, keys []store.Key) ([]store.Record, error) {
	return s.manifest.Lookup(keys)
}

// Refresh implements store.Store.
func (s *Store) Refresh(_ context.Context, r store.Record) error {
	return store.Unavailable(s.manifest.Update(func(tx *manifest.Tx) error { return tx.Refresh(r) }))
}

// reconcile compares the manifest with the files. A process may have died
// between renaming a file and writing its line, and people remove files.
func (s *Store) reconcile(tx *manifest.Tx) error {
	known := map[string]manifest.Entry{}
	tx.All(func(e manifest.Entry) {
		if e.Location != "" {
			known[e.Location] = e
		}
	})
	paths, err := filepath.Glob(filepath.Join(escapeGlob(s.dir), "type=*", "probe=*", "date=*", "*.parquet"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		loc, err := filepath.Rel(s.dir, p)
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		e, ok := known[loc]
		delete(known, loc)
		if ok && e.StoredSize == info.Size() && e.StoredModTime.Equal(info.ModTime()) {
			continue
		}
		if ok {
			tx.Delete(e.Record)
		}
		rs, err := readRecords(p)
		if err != nil {
			s.opt.Log.Warn("no file of ours, or damaged: left alone", "file", p, "err", err)
			continue
		}
		for _, r := range rs {
			r.Location = loc
			tx.Put(manifest.Entry{Record: r, StoredSize: info.Size(), StoredModTime: info.ModTime()})
		}
	}
	for _, e := range known { // its file is gone
		tx.Delete(e.Record)
	}
	return nil
}

// escapeGlob makes the folder's own name mean itself in a pattern.
func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// readRecords returns the records in a file's footer.
func readRecords(path string) ([]store.Record, error) {
	r, err := file.OpenParquetFile(path, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	value := r.MetaData().KeyValueMetadata().FindValue(RecordsKey)
	if value == nil {
		return nil, errors.New("its footer has no " + RecordsKey)
	}
	var rs []store.Record
	if err := json.Unmarshal([]byte(*value), &rs); err != nil {
		return nil, fmt.Errorf("%s: %w", RecordsKey, err)
	}
	return rs, nil
}

// rowGroup is how many rows of that many columns the memory allows. A value
// takes up to 8 bytes and its NULL mark 2, in buffers that grow by half; the
// text of a row is about as much again.
func rowGroup(memory int64, columns int) int {
	return int(min(max(memory/int64(columns*24), minRowGroup), maxRowGroup))
}

const (
	minRowGroup = 1 << 10
	maxRowGroup = 64 << 10
)

// Begin implements store.Store.
func (s *Store) Begin(_ context.Context, f store.FileInfo) (store.FileTx, error) {
	if err := store.ValidProbe(f.Probe); err != nil {
		return nil, err
	}
	tmp, err := s.manifest.Temp()
	if err != nil {
		return nil, store.Unavailable(err)
	}
	tx := &tx{s: s, f: f, tmp: tmp, out: bufio.NewWriterSize(tmp, 256<<10), w: s.writer()}
	if err := tx.w.reset(tx.out, f.Columns, rowGroup(s.opt.Memory, len(f.Columns))); err != nil {
		tx.Abort()
		return nil, err
	}
	return tx, nil
}

// writer returns a writer that is not in use.
func (s *Store) writer() *writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		w := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return w
	}
	return new(writer)
}

// tx is one Parquet file that is being written.
type tx struct {
	s    *Store
	f    store.FileInfo
	tmp  *os.File // nil once it ended
	out  *bufio.Writer
	w    *writer
	rows int64
}

func (t *tx) Write(_ context.Context, b *tstat.Batch) error {
	t.rows += int64(b.Len())
	return store.Unavailable(t.w.write(b))
}

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
	t.s.mu.Lock()
	t.s.idle = append(t.s.idle, t.w)
	t.s.mu.Unlock()
	t.w = nil
}

func (t *tx) Commit(_ context.Context, r store.Record, replace []store.Record) error {
	defer t.Abort()
	r.Location = ""
	js, err := json.Marshal([]store.Record{r})
	if err != nil {
		return err
	}
	if err := t.w.close(RecordsKey, string(js)); err != nil {
		return store.Unavailable(err)
	}
	if err := t.out.Flush(); err != nil {
		return store.Unavailable(err)
	}
	if err := t.tmp.Chmod(0o644); err != nil {
		return store.Unavailable(err)
	}
	if err := t.tmp.Sync(); err != nil {
		return store.Unavailable(err)
	}
	return store.Unavailable(t.s.manifest.Update(func(m *manifest.Tx) error { return t.publish(m, r, replace) }))
}

// publish makes the file visible: by one rename, over the file that it
// replaces if there is one, so that a reader sees the old rows or the new.
func (t *tx) publish(m *manifest.Tx, r store.Record, replace []store.Record) error {
	replaced, err := m.Replaced(r, replace)
	if err != nil {
		return err
	}
	var loc string
	for _, e := range replaced {
		if e.Location != "" {
			loc = e.Location
			break
		}
	}
	entry := manifest.Entry{Record: r}
	if t.rows > 0 {
		if loc == "" {
			loc = t.s.free(t.f)
		}
		path := filepath.Join(t.s.dir, loc)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return err
		}
		info, err := t.tmp.Stat()
		if err != nil {
			return err
		}
		if err := os.Rename(t.tmp.Name(), path); err != nil {
			return err
		}
		t.tmp.Close()
		t.end()
		if err := manifest.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
		entry.Location, entry.StoredSize, entry.StoredModTime = loc, info.Size(), info.ModTime()
	}
	for _, e := range replaced {
		m.Delete(e.Record)
		if e.Location != "" && e.Location != entry.Location {
			if err := os.Remove(filepath.Join(t.s.dir, e.Location)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	m.Put(entry)
	return nil
}

// free returns a location for a file that no other has: further content of
// the same key stands beside the first with a number.
func (s *Store) free(f store.FileInfo) string {
	dir := filepath.Join("type="+f.Type.Name, "probe="+f.Probe, "date="+f.Time.UTC().Format("2006-01-02"))
	base := strings.TrimSuffix(f.Folder, ".out")
	for n := 1; ; n++ {
		name := base + ".parquet"
		if n > 1 {
			name = base + "." + strconv.Itoa(n) + ".parquet"
		}
		loc := filepath.Join(dir, name)
		if _, err := os.Lstat(filepath.Join(s.dir, loc)); err != nil {
			return loc
		}
	}
}
