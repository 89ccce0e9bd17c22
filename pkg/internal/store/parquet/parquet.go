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
	"cmp"
	"context"
	"errors"
	"fmt"
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

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// RecordsKey is the key of the footer's metadata that holds the records of
// the source files whose rows the file has: a JSON array of store.Record.
const RecordsKey = "tstatrepo.records"

// formatKey is the key of the format number, which counts for all keys of tstatrepo.
// Files without a number have format 1.
const (
	formatKey = "tstatrepo.format"
	format    = 1
)

// replacesKey is the key of the texts whose rows a file replaces, for whoever
// finds both because a process died in between; see store.Record.Text.
const replacesKey = "tstatrepo.replaces"

// Options of a store.
type Options struct {
	// Memory bounds what one open file buffers, in bytes. It sets the size
	// of the row groups. 0 means 200 MiB.
	Memory int64
	// Files is how many files are open at once, if known. If fewer are open, these
	// use the memory of the others. 0 means 1.
	Files int
	// Cores is how many cores encode rows. 0 means all that this process may use.
	Cores int
	// ReadOnly opens for Lookup only and creates nothing.
	ReadOnly bool
	Log      *slog.Logger // warnings; nil: none
}

// Store is a folder of Parquet files.
type Store struct {
	store.Defaults
	manifest.Base
	dir      string
	opt      Options
	manifest *manifest.Manifest

	// doubled are the entries of further files with the rows of a text. It
	// changes only while the manifest is updated.
	doubled map[logText][]manifest.Entry

	buffers *buffers
	mu      sync.Mutex
	idle    []*writer
}

// Open opens the store in dir and makes it if need be. It brings the manifest
// in line with the files that are there, and removes what killed processes
// left.
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
			err = s.tidy()
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

// reconcile compares the manifest with the files. A process may have died
// between renaming a file and writing its lines, or in the middle of them, and
// people move and remove files. A file is known only if it is as it was and the
// manifest has all of its records. Of every other file, and of all of them if
// lines were lost, the footer decides.
func (s *Store) reconcile(tx *manifest.Tx) error {
	if tx.Damaged() {
		s.opt.Log.Warn("the manifest is damaged: rebuilding it from the stored files; "+
			"logs that were pruned may be imported again", "store", s.String())
	}
	var pruned []manifest.Entry
	tx.All(func(e manifest.Entry) {
		if e.Location != "" && !e.Pruned.IsZero() {
			pruned = append(pruned, e)
		}
	})
	if _, err := s.settle(tx, pruned); err != nil {
		s.opt.Log.Warn("rows not removed", "err", err)
	}
	v, err := s.survey(tx)
	if err != nil {
		return err
	}
	for _, e := range v.gone {
		tx.Delete(e.Record)
	}
	// The process that wrote them may have died before it synced their names.
	if err := durable.SyncNames(s.dir, v.unknown); err != nil {
		return err
	}
	for _, e := range v.found {
		tx.Put(e)
	}
	s.doubled = v.doubled
	if n := len(s.doubled); n > 0 {
		s.opt.Log.Warn("the rows of some logs are stored twice: see store verify", "store", s.String(), "logs", n)
	}
	// A process may also have died before it removed all that it replaced.
	var left []manifest.Entry
	tx.All(func(e manifest.Entry) {
		if r, ok := v.replacedBy[textOf(e.Record)]; ok && e.Location != r.Location && e.Imported.Before(r.Imported) {
			left = append(left, e)
		}
	})
	if err := s.remove(tx, left, ""); err != nil {
		s.opt.Log.Warn("rows not removed", "err", err)
	}
	if tx.Doubtful() {
		return tx.Rewrite()
	}
	return nil
}

// survey is what the files have other than the manifest says.
type survey struct {
	gone       []manifest.Entry             // whose file is gone, moved or another one now
	found      []manifest.Entry             // of files that the manifest does not know completely
	unknown    []string                     // locations of those of found that the manifest does not have there
	doubled    map[logText][]manifest.Entry // of logs that are in another file too
	replacedBy map[logText]store.Record     // texts that the last record of a file replaces
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
		return nil, err // what cannot be read may be there
	}
	v := &survey{doubled: map[logText][]manifest.Entry{}, replacedBy: map[logText]store.Record{}}
	var found []manifest.Entry
	homes := map[logText]string{} // the location that the manifest has, if its file is there
	for _, loc := range locs {
		path := filepath.Join(s.dir, loc)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		es := known[loc]
		complete := len(es) > 0 && !slices.ContainsFunc(es, func(e manifest.Entry) bool { return !e.Is(info) || !tx.Complete(e) })
		if complete && !tx.Doubtful() {
			for _, e := range es {
				homes[textOf(e.Record)] = loc
			}
			delete(known, loc)
			continue
		}
		f, err := readFooter(path)
		if isReadError(err) {
			return nil, err // its logs may be there
		}
		if err != nil {
			s.opt.Log.Warn("parquet file skipped: damaged or not written by tstatrepo", "file", path, "err", err)
			if len(es) > 0 && es[0].Is(info) {
				delete(known, loc) // nothing says otherwise; verify reports the file
			}
			continue
		}
		for _, r := range f.Records {
			e := manifest.Entry{Record: r}
			if now, ok := tx.Find(r); ok {
				if now.Location == loc {
					homes[textOf(r)] = loc
				}
				if now.Pruned.IsZero() || now.Replaced { // it may know the source better
					e = now
				}
			}
			e.Location, e.StoredSize, e.StoredModTime, e.Of = loc, info.Size(), info.ModTime(), len(f.Records)
			found = append(found, e)
		}
		last := found[len(found)-1].Record
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

// logText names the text of a log.
type logText struct {
	store.Key
	text string // see store.Record.Text
}

func textOf(r store.Record) logText { return logText{r.Key, r.Text()} }

// levels are the prefixes of the names in a location.
var levels = []string{"type=", "probe=", "date=", ""}

// inDataset reports whether a file at a location belongs to the dataset.
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

// files returns the locations of all Parquet files of the dataset.
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
				if e.IsDir() != isFile && strings.HasPrefix(e.Name(), prefix) && (!isFile || strings.HasSuffix(e.Name(), ".parquet")) {
					next = append(next, filepath.Join(loc, e.Name()))
				}
			}
		}
		locs = next
	}
	return locs, nil
}

// footer is what our metadata in a file's footer says.
type footer struct {
	Records  []store.Record // in the order of their rows
	Replaces []string       // the texts whose rows those of the last record replace, see store.Record.Text
	Rows     int64          // of the whole file
}

// textsOf names the texts of records.
func textsOf(records []store.Record) []string {
	var texts []string
	for _, r := range records {
		texts = append(texts, r.Text())
	}
	return texts
}

// errNoRecords says that another program wrote a file.
var errNoRecords = errors.New("its footer has no " + RecordsKey)

// isReadError reports whether a file could not be read, or not by this version.
// Other errors are about what is in it.
func isReadError(err error) bool {
	var e *fs.PathError
	return errors.As(err, &e) || errors.Is(err, state.ErrNewer)
}

func readFooter(path string) (footer, error) {
	r, err := file.OpenParquetFile(path, false)
	if err != nil {
		return footer{}, err
	}
	defer r.Close()
	return parseFooter(path, r.MetaData())
}

func parseFooter(path string, m *metadata.FileMetaData) (footer, error) {
	f := footer{Rows: m.NumRows}
	meta := m.KeyValueMetadata()
	if value := meta.FindValue(formatKey); value != nil {
		n, err := strconv.Atoi(*value)
		if err == nil {
			err = state.CheckFormat(path, n, format)
		}
		if err != nil {
			return f, err
		}
	}
	value := meta.FindValue(RecordsKey)
	if value == nil {
		return f, errNoRecords
	}
	if err := losslessjson.Unmarshal([]byte(*value), &f.Records); err != nil {
		return f, fmt.Errorf("%s: %w", RecordsKey, err)
	}
	if len(f.Records) == 0 {
		return f, errNoRecords
	}
	if value := meta.FindValue(replacesKey); value != nil {
		if err := losslessjson.Unmarshal([]byte(*value), &f.Replaces); err != nil {
			return f, fmt.Errorf("%s: %w", replacesKey, err)
		}
	}
	return f, nil
}

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
	tx.w.begin(tx.out, f.Columns)
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
	return &writer{buffers: s.buffers}
}

// done ends the file of a writer and keeps the writer for another.
func (s *Store) done(w *writer) {
	w.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, w)
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

// Flush implements store.FileTx. Parquet takes every row.
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
	t.s.done(t.w)
	t.w = nil
}

func (t *tx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	defer t.Abort()
	r.Location = ""
	meta, err := ourMetadata([]store.Record{r}, textsOf(replace))
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

// publish makes the file visible: by one rename, over the file that it
// replaces if there is one, so that a reader sees the old rows or the new.
func (t *tx) publish(ctx context.Context, m *manifest.Tx, r store.Record, known, replace []store.Record) error {
	replaced, err := m.Replaced(r, known, replace)
	if err != nil {
		return err
	}
	first := entryLocation(t.f, 1)
	if _, err := os.Lstat(filepath.Join(t.s.dir, first)); m.Damaged() || err == nil && m.At(first) == 0 || !t.s.isCurrent(m, replaced) {
		// A process died before it could say what it had done.
		if err := t.s.reconcile(m); err != nil {
			return err
		}
		if replaced, err = m.Replaced(r, known, replace); err != nil {
			return err
		}
	}
	entry := manifest.Entry{Record: r}
	var others []manifest.Entry // in the same file
	if t.rows > 0 {
		for _, e := range replaced {
			if e.Location == "" {
				continue
			}
			var ok bool
			if others, ok, err = t.join(ctx, m, e.Location, replaced, replace); err != nil {
				return err
			}
			if ok {
				entry.Location = e.Location
				break
			}
		}
		if entry.Location == "" {
			if entry.Location, err = t.s.free(t.f, 1+len(m.Lookup(r.Key))-len(replaced)); err != nil {
				return err
			}
		}
		entry.Of = 1 + len(others)
		path := filepath.Join(t.s.dir, entry.Location)
		if err := durable.MkdirAll(filepath.Dir(path), 0o777); err != nil {
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
	// The rows are visible now, so the record is written even if a later step fails.
	var errs []error
	if entry.Location != "" {
		errs = append(errs, durable.SyncDir(filepath.Join(t.s.dir, filepath.Dir(entry.Location))))
	}
	errs = append(errs, t.s.remove(m, replaced, entry.Location))
	m.Put(entry)
	for _, e := range others {
		e.StoredSize, e.StoredModTime, e.Of = entry.StoredSize, entry.StoredModTime, entry.Of
		m.Put(e)
	}
	return errors.Join(errs...)
}

// remove removes replaced entries and, except from the file that replaced them,
// their rows. Entries whose rows cannot be removed stay, for settle.
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

// isCurrent reports whether the files of entries match the manifest.
func (s *Store) isCurrent(m *manifest.Tx, entries []manifest.Entry) bool {
	return !slices.ContainsFunc(entries, func(e manifest.Entry) bool {
		if e.Location == "" {
			return false
		}
		info, err := os.Stat(filepath.Join(s.dir, e.Location))
		return err != nil || !e.Is(info) || !m.Complete(e)
	})
}

// free returns a location for a file that no other has: further content of
// the same key stands beside the first with a number, from n on. That is not
// 1 if there is other content elsewhere: who listed its file under the first
// name must not find another there.
func (s *Store) free(f store.FileInfo, n int) (string, error) {
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

// entryLocation is where the n-th content of a file's key goes.
func entryLocation(f store.FileInfo, n int) string {
	name := strings.TrimSuffix(f.Folder, ".out") + ".parquet"
	if n > 1 {
		name = strings.TrimSuffix(f.Folder, ".out") + "." + strconv.Itoa(n) + ".parquet"
	}
	return filepath.Join("type="+f.Type.Name, "probe="+f.Probe, "date="+f.Time.UTC().Format(time.DateOnly), name)
}
