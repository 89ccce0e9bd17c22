// Package manifest keeps the records of a store that lives in a folder of the
// file system: which source files it holds, and in which files of its own.
//
// It is a log of lines, each with its checksum, that several processes append
// to under a lock. A line that a crash has cut or damaged is passed over. The
// store then no longer trusts the rest: it reads the stored files themselves
// and writes the manifest again, see Tx.Doubtful. Only the records of logs
// without rows and of pruned logs are nowhere else.
//
// Format 1 had no Entry.Of, and names that are not UTF-8 were not restored.
package manifest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Dir is the folder below a store's root that is tstatrepo's own. Hive style
// readers pass over names that begin with '_'.
const Dir = "_tstatrepo"

const (
	name   = "manifest"
	format = 2
	banner = "tstatrepo manifest " // then the format's number and the kind of store
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Entry is a record and the file of the store that holds its rows, as it was
// when it was written. If the file differs now, a process replaced it and died
// before it wrote its line.
type Entry struct {
	store.Record
	StoredSize    int64     `json:"stored_size,omitempty"`
	StoredModTime time.Time `json:"stored_mtime,omitzero"`
	// Of is how many records the file has, so that a reader notices when some
	// of their lines are missing; 0: not known.
	Of int `json:"of,omitempty"`
	// Replaced says that another record replaced this one, whose rows could not
	// be removed. The store removes them later, and then the entry. Until then
	// Pruned is set too.
	Replaced bool `json:"replaced,omitempty"`
}

// Is reports whether a file is the one that the entry was made for.
func (e *Entry) Is(info fs.FileInfo) bool {
	return e.StoredSize == info.Size() && e.StoredModTime.Equal(info.ModTime())
}

// HasRowsBefore reports whether the entry is of a log before a time whose rows
// were not pruned.
func (e *Entry) HasRowsBefore(t time.Time) bool { return e.Pruned.IsZero() && e.Time.Before(t) }

// Locations returns the locations of entries.
func Locations(entries []Entry) []string {
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Location
	}
	return list
}

// line is one line of the log.
type line struct {
	Put    *Entry `json:"put,omitempty"`
	Delete *id    `json:"delete,omitempty"`
}

// id identifies a record, see store.Record.Same.
type id struct {
	store.Key
	SHA256 string `json:"sha256"`
	Place  string `json:"place,omitempty"`
}

// Manifest is an open manifest. It is safe for concurrent use.
type Manifest struct {
	path string
	kind string

	flags   int // to open it with
	mu      sync.Mutex
	f       *os.File // nil if there is none yet and the manifest is read-only
	read    int64    // bytes of f that are in entries
	torn    bool     // f does not end in a newline
	format  int      // of f
	lines   int      // of f
	damaged int
	entries map[store.Key][]Entry
	at      map[string]int // how many entries have a location
}

// Open opens the manifest of the store in root, which is one of the named
// kind. With readOnly it creates nothing and may not be updated.
func Open(ctx context.Context, root, kind string, readOnly bool) (*Manifest, error) {
	m := &Manifest{path: filepath.Join(root, Dir, name), kind: kind, flags: os.O_RDWR | os.O_CREATE | os.O_APPEND, entries: map[store.Key][]Entry{}, at: map[string]int{}}
	if readOnly {
		m.flags = os.O_RDONLY
	} else if err := durable.MkdirAll(filepath.Dir(m.path), 0o777); err != nil {
		return nil, err
	}
	f, err := m.open()
	if readOnly && errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	m.f = f
	if readOnly {
		err = m.load()
	} else {
		err = m.Update(ctx, func(*Tx) error { return nil })
	}
	if err != nil {
		m.f.Close()
		return nil, err
	}
	return m, nil
}

func (m *Manifest) open() (*os.File, error) {
	if m.flags == os.O_RDONLY {
		return os.Open(m.path)
	}
	return durable.OpenFile(m.path, m.flags, 0o666)
}

// Damaged returns how many lines could not be read.
func (m *Manifest) Damaged() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.damaged
}

// Lookup returns the records of the keys, with what other processes have
// added meanwhile.
func (m *Manifest) Lookup(keys []store.Key) ([]store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		return nil, err
	}
	var rs []store.Record
	for _, k := range keys {
		for _, e := range m.entries[k] {
			rs = append(rs, e.Record)
		}
	}
	return rs, nil
}

// Base has the methods of store.Manager that only need the manifest. Stores
// embed it.
type Base struct{ m *Manifest }

// Base returns the methods that stores embed.
func (m *Manifest) Base() Base { return Base{m} }

// Lookup implements store.Store.
func (b Base) Lookup(_ context.Context, keys []store.Key) ([]store.Record, error) {
	return b.m.Lookup(keys)
}

// OtherProbes implements store.Store.
func (b Base) OtherProbes(_ context.Context, keys []store.Key) ([]store.Record, error) {
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		return nil, err
	}
	probes := map[string]bool{}
	for k := range m.entries {
		probes[k.Probe] = true
	}
	var rs []store.Record
	for _, k := range keys {
		for probe := range probes {
			if probe == k.Probe {
				continue
			}
			for _, e := range m.entries[store.Key{Probe: probe, Folder: k.Folder, File: k.File}] {
				rs = append(rs, e.Record)
			}
		}
	}
	return rs, nil
}

// All returns all entries, with what other processes have added meanwhile.
func (m *Manifest) All() ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		return nil, err
	}
	return slices.Concat(slices.Collect(maps.Values(m.entries))...), nil
}

// Refresh implements store.Store.
func (b Base) Refresh(ctx context.Context, r store.Record) error {
	return store.Unavailable(b.m.Update(ctx, func(tx *Tx) error {
		if e, ok := tx.Find(r); ok {
			e.Size, e.ModTime, e.Path = r.Size, r.ModTime, r.Path
			tx.Put(e)
		}
		return nil
	}))
}

// Close implements store.Store.
func (b Base) Close() error { return b.m.Close() }

// Records implements store.Manager.
func (b Base) Records(_ context.Context, f func(store.Record) error) error {
	entries, err := b.m.All()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := f(e.Record); err != nil {
			return err
		}
	}
	return nil
}

// Verify reports damaged lines: the records of some files are lost.
func (m *Manifest) Verify(fault func(store.Fault)) {
	if n := m.Damaged(); n > 0 {
		fault(store.Fault{Kind: store.Unrecorded, Path: filepath.Join(Dir, name), Reason: fmt.Sprintf("%d lines of the manifest are damaged", n)})
	}
}

// Close makes the manifest durable and closes it.
func (m *Manifest) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.f == nil {
		return nil
	}
	err := durable.Sync(m.f)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EBADF) {
		err = nil // opened read-only on some file systems
	}
	return errors.Join(err, m.f.Close())
}

// Tx changes the manifest while no other process does.
type Tx struct {
	m   *Manifest
	out bytes.Buffer
}

// Update calls f while this process alone may change the store, and then
// appends what f put and deleted, also if f fails.
func (m *Manifest) Update(ctx context.Context, f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.lock(ctx, syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", m.path, err)
	}
	defer func() { syscall.Flock(int(m.f.Fd()), syscall.LOCK_UN) }()
	if err := m.load(); err != nil {
		return err
	}
	tx := &Tx{m: m}
	if m.read == 0 {
		// New, or its first process died in the middle of the first line.
		if err := m.f.Truncate(0); err != nil {
			return err
		}
		m.torn, m.format = false, format
		fmt.Fprintf(&tx.out, "%s%d %s\n", banner, format, m.kind)
	}
	err := f(tx)
	return errors.Join(err, tx.flush())
}

// View calls f, which changes nothing, while no process changes the store. It
// also works for a manifest that was opened read-only.
func (m *Manifest) View(ctx context.Context, f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.f == nil {
		return f(&Tx{m: m})
	}
	if err := m.lock(ctx, syscall.LOCK_SH); err != nil {
		return fmt.Errorf("lock %s: %w", m.path, err)
	}
	defer func() { syscall.Flock(int(m.f.Fd()), syscall.LOCK_UN) }()
	if err := m.load(); err != nil {
		return err
	}
	return f(&Tx{m: m})
}

// lock waits until no other process has the lock, or, if how is LOCK_SH, to
// change the store. Waiting in the kernel could not be interrupted.
func (m *Manifest) lock(ctx context.Context, how int) error {
	for b := retry.New(time.Millisecond, 50*time.Millisecond); ; {
		err := syscall.Flock(int(m.f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			// The one that had the lock may have written the log anew.
			renewed, err := m.renew()
			if !renewed || err != nil {
				return err
			}
			continue
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return err
		}
		if b.Wait(ctx) != nil {
			return ctx.Err()
		}
	}
}

// Lookup returns the entries of a key.
func (tx *Tx) Lookup(k store.Key) []Entry { return slices.Clone(tx.m.entries[k]) }

// At returns how many entries have a location.
func (tx *Tx) At(location string) int { return tx.m.at[location] }

// Doubtful reports whether entries may be missing or old: lines were damaged or
// cut, or an older version wrote the manifest. The store then finds out from
// its files what they hold, and calls Rewrite.
func (tx *Tx) Doubtful() bool { return tx.Damaged() || tx.m.format < format }

// Damaged reports whether lines of the manifest were damaged or cut.
func (tx *Tx) Damaged() bool { return tx.m.damaged > 0 || tx.m.torn }

// Complete reports whether the manifest knows every record of the file at an
// entry's location.
func (tx *Tx) Complete(e Entry) bool { return e.Of > 0 && e.Of == tx.At(e.Location) }

// Rewrite replaces the manifest durably by one line per current entry.
func (tx *Tx) Rewrite() error {
	tx.out.Reset()
	return tx.m.rewrite()
}

// All calls f for every entry.
func (tx *Tx) All(f func(Entry)) {
	for _, es := range tx.m.entries {
		for _, e := range es {
			f(e)
		}
	}
}

// Put adds an entry, or replaces the one of the same record.
func (tx *Tx) Put(e Entry) { tx.add(line{Put: &e}) }

// Delete removes the entry of a record that is the same as r.
func (tx *Tx) Delete(r store.Record) { tx.add(line{Delete: &id{r.Key, r.SHA256, r.Place}}) }

// Find returns the entry of the record that is the same as r.
func (tx *Tx) Find(r store.Record) (Entry, bool) {
	es := tx.m.entries[r.Key]
	if i := slices.IndexFunc(es, func(e Entry) bool { return e.Same(r) }); i >= 0 {
		return es[i], true
	}
	return Entry{}, false
}

// Replaced returns the entries that go when r is stored, as
// store.FileTx.Commit has it.
func (tx *Tx) Replaced(r store.Record, known, replace []store.Record) ([]Entry, error) {
	isKnown, goes := store.Texts(known), store.Texts(replace)
	var replaced []Entry
	conflict := false
	for _, e := range tx.Lookup(r.Key) {
		switch {
		case goes[e.Text()]:
			replaced = append(replaced, e)
		case e.Same(r):
			return nil, store.ErrDuplicate
		case isKnown[e.Text()]:
		case r.Clashes(e.Record):
			return nil, store.ErrDuplicate
		default:
			conflict = true
		}
	}
	if conflict {
		return nil, store.ErrConflict
	}
	return replaced, nil
}

func (tx *Tx) add(l line) {
	tx.m.apply(l)
	tx.m.lines++
	tx.out.Write(encode(l))
}

func encode(l line) []byte {
	js, err := losslessjson.Marshal(l)
	if err != nil {
		panic(err) // all fields are plain
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(js, castagnoli), js)
}

// Sync makes durable what was put and deleted so far, before the store's files
// go whose records are nowhere else.
func (tx *Tx) Sync() error {
	return errors.Join(tx.flush(), durable.Sync(tx.m.f))
}

func (tx *Tx) flush() error {
	if tx.out.Len() == 0 {
		return nil
	}
	p := tx.out.Bytes()
	defer tx.out.Reset()
	if tx.m.torn {
		p = append([]byte{'\n'}, p...)
	}
	// After a failure what was written of a line is passed over by its checksum.
	_, err := tx.m.f.Write(p)
	tx.m.torn = err != nil
	info, serr := tx.m.f.Stat()
	if serr == nil {
		tx.m.read = info.Size()
	}
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("write %s: %w", tx.m.path, err)
	}
	return nil
}

func (m *Manifest) apply(l line) {
	if l.Delete != nil {
		m.entries[l.Delete.Key] = slices.DeleteFunc(m.entries[l.Delete.Key], func(e Entry) bool {
			if e.SHA256 != l.Delete.SHA256 || e.Place != l.Delete.Place {
				return false
			}
			m.placed(e.Location, -1)
			return true
		})
		if len(m.entries[l.Delete.Key]) == 0 {
			delete(m.entries, l.Delete.Key)
		}
	}
	if l.Put != nil {
		es := m.entries[l.Put.Key]
		if i := slices.IndexFunc(es, func(e Entry) bool { return e.Same(l.Put.Record) }); i >= 0 {
			m.placed(es[i].Location, -1)
			es[i] = *l.Put
		} else {
			m.entries[l.Put.Key] = append(es, *l.Put)
		}
		m.placed(l.Put.Location, 1)
	}
}

// placed counts an entry at a location.
func (m *Manifest) placed(location string, n int) {
	if location == "" {
		return
	}
	if m.at[location] += n; m.at[location] == 0 {
		delete(m.at, location)
	}
}

// renew opens the log again if another process has written it anew, see
// Rewrite, and forgets what was read of the old one.
func (m *Manifest) renew() (bool, error) {
	now, err := os.Stat(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // removed by hand
	}
	if err != nil {
		return false, err
	}
	own, err := m.f.Stat()
	if err != nil || os.SameFile(now, own) {
		return false, err
	}
	f, err := m.open()
	if err != nil {
		return false, err
	}
	m.f.Close()
	m.f, m.read, m.torn, m.format, m.lines, m.damaged, m.entries, m.at = f, 0, false, 0, 0, 0, map[store.Key][]Entry{}, map[string]int{}
	return true, nil
}

// Rewrite compacts the log if most of its lines are superseded.
func (m *Manifest) Rewrite(ctx context.Context) error {
	return m.Update(ctx, func(tx *Tx) error {
		n := 0
		for _, es := range m.entries {
			n += len(es)
		}
		if m.lines <= 2*n+minLines {
			return nil
		}
		return m.rewrite()
	})
}

// minLines is how many superseded lines are tolerated.
const minLines = 1000

// rewrite replaces the log; the caller has its lock, and then that of the new
// one too.
func (m *Manifest) rewrite() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%d %s\n", banner, format, m.kind)
	lines := 0
	for _, es := range m.entries {
		for _, e := range es {
			b.Write(encode(line{Put: &e}))
			lines++
		}
	}
	old, err := m.f.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(m.path+".new", m.flags|os.O_TRUNC, old.Mode().Perm())
	if err != nil {
		return err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = f.Write(b.Bytes())
	}
	if err == nil {
		err = likeOwner(f, old)
	}
	if err == nil {
		err = durable.Sync(f)
	}
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		return fmt.Errorf("write %s anew: %w", m.path, err)
	}
	m.f.Close()
	m.f, m.read, m.torn, m.format, m.lines, m.damaged = f, int64(b.Len()), false, format, lines, 0
	return durable.SyncDir(filepath.Dir(m.path))
}

// likeOwner gives f the mode and owner of a file, which others write to as
// well.
func likeOwner(f *os.File, old fs.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()); err != nil {
		return err
	}
	a, ok := old.Sys().(*syscall.Stat_t)
	var b syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &b); err != nil || !ok || a.Uid == b.Uid && a.Gid == b.Gid {
		return err
	}
	return f.Chown(int(a.Uid), int(a.Gid))
}

// load reads what was appended since the last time.
func (m *Manifest) load() error {
	if m.f == nil {
		return nil
	}
	if _, err := m.renew(); err != nil {
		return err
	}
	info, err := m.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == m.read {
		return nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(m.f, m.read, info.Size()-m.read), 1<<16)
	var noBanner error
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			// A line that is being written, or that a crash has cut.
			m.torn = len(text) > 0
			if noBanner != nil && m.lines > m.damaged {
				noBanner = nil // the lines are ours
				m.damaged++
			}
			if noBanner != nil {
				m.read = 0
			}
			return noBanner
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m.path, err)
		}
		first := m.read == 0
		m.read += int64(len(text))
		text = text[:len(text)-1]
		switch {
		case first:
			m.format, err = checkBanner(m.path, m.kind, text)
			if errors.Is(err, errNotOurs) {
				noBanner = err
			} else if err != nil {
				m.read = 0
				return err
			}
		case len(text) == 0: // put behind a cut line
		default:
			m.lines++
			if !m.parse(text) {
				m.damaged++
			}
		}
	}
}

func (m *Manifest) parse(text []byte) bool {
	sum, js, ok := bytes.Cut(text, []byte{' '})
	if !ok {
		return false
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != crc32.Checksum(js, castagnoli) {
		return false
	}
	var l line
	unmarshal := losslessjson.Unmarshal
	if m.format == 1 {
		unmarshal = json.Unmarshal
	}
	if err := unmarshal(js, &l); err != nil {
		return false
	}
	m.apply(l)
	return true
}

// Kinds of stores that have a manifest.
const (
	Parquet = "parquet"
	Copy    = "copy"
)

var errNotOurs = errors.New("is not a manifest of tstatrepo")

// checkBanner returns the format that the first line names.
func checkBanner(path, kind string, text []byte) (int, error) {
	rest, ok := strings.CutPrefix(string(text), banner)
	number, has, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil || n < 1:
	case n > format:
		return n, state.CheckFormat(path, n, format)
	case has == kind:
		return n, nil
	case has == Parquet || has == Copy:
		return n, hint.New(fmt.Sprintf("%s: is that of a %s store, not of %s", path, has, kind), "name another folder")
	}
	return 0, hint.Add(fmt.Errorf("%s: %w", path, errNotOurs), "name another folder, or remove the file: it is rebuilt from the stored files, except for pruned logs")
}

// Temp creates a file for rows that are not committed yet. It is locked as
// long as it is open, so that RemoveStale can tell it from one that a killed
// process left.
func (m *Manifest) Temp(ctx context.Context, perm fs.FileMode) (f *os.File, err error) {
	err = m.Update(ctx, func(tx *Tx) error {
		f, err = tx.Temp(perm)
		return err
	})
	return f, err
}

// Temp is Manifest.Temp while the store is changed.
func (tx *Tx) Temp(perm fs.FileMode) (*os.File, error) {
	dir := filepath.Join(filepath.Dir(tx.m.path), "tmp")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	// Not os.CreateTemp: the file keeps its mode, which umask has a say in.
	f, err := os.OpenFile(filepath.Join(dir, rand.Text()+".tmp"), os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		os.Remove(f.Name())
		f.Close()
		return nil, err
	}
	return f, nil
}

// RemoveStale removes the temporary files of processes that are gone.
func (m *Manifest) RemoveStale(ctx context.Context) error {
	dir := filepath.Join(filepath.Dir(m.path), "tmp")
	return m.Update(ctx, func(*Tx) error {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := removeUnlocked(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		return nil
	})
}

func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // another user's
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
	}
	return os.Remove(path)
}

// Size returns the size of a store's file; 0 if it is gone.
func Size(root, location string) (int64, error) {
	info, err := os.Stat(filepath.Join(root, location))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
