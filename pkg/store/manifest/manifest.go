// Package manifest keeps the records of a store that lives in a folder of the
// file system: which source files it holds, and in which files of its own.
//
// It is a log of lines, each with its checksum, that several processes append
// to under a lock. What it says can be found out from the stored files
// themselves, only slower; so a line that a crash has cut or damaged is passed
// over, and the store that finds a file without a line writes it again.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// Dir is the folder below a store's root that is tstatrepo's own. Hive style
// readers pass over names that begin with '_'.
const Dir = "_tstatrepo"

const (
	name   = "manifest"
	format = 1
	banner = "tstatrepo manifest "
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Entry is a record and the file of the store that holds its rows, as it was
// when it was written. A file that differs now was replaced by a process that
// died before it could say so.
type Entry struct {
	store.Record
	StoredSize    int64     `json:"stored_size,omitempty"`
	StoredModTime time.Time `json:"stored_mtime,omitzero"`
}

// line is one line of the log.
type line struct {
	Put    *Entry `json:"put,omitempty"`
	Delete *id    `json:"delete,omitempty"`
}

type id struct {
	store.Key
	SHA256 string `json:"sha256"`
}

// Manifest is an open manifest. It is safe for concurrent use.
type Manifest struct {
	path string

	mu      sync.Mutex
	f       *os.File // nil if there is none yet and the manifest is read-only
	read    int64    // bytes of f that are in entries
	torn    bool     // f does not end in a newline
	damaged int
	entries map[store.Key][]Entry
}

// Open opens the manifest of the store in root. With readOnly it creates
// nothing and may not be updated.
func Open(root string, readOnly bool) (*Manifest, error) {
	m := &Manifest{path: filepath.Join(root, Dir, name), entries: map[store.Key][]Entry{}}
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if readOnly {
		flags = os.O_RDONLY
	} else if err := os.MkdirAll(filepath.Dir(m.path), 0o777); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(m.path, flags, 0o666)
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
		err = m.Update(func(*Tx) error { return nil })
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
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
	if m.f != nil {
		if err := m.load(); err != nil {
			return nil, err
		}
	}
	var rs []store.Record
	for _, k := range keys {
		for _, e := range m.entries[k] {
			rs = append(rs, e.Record)
		}
	}
	return rs, nil
}

// Close makes the manifest durable and closes it.
func (m *Manifest) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.f == nil {
		return nil
	}
	err := m.f.Sync()
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
func (m *Manifest) Update(f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := flock(m.f, syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", m.path, err)
	}
	defer flock(m.f, syscall.LOCK_UN)
	if err := m.load(); err != nil {
		return err
	}
	tx := &Tx{m: m}
	if m.read == 0 {
		// New, or its first process died in the middle of the first line.
		if err := m.f.Truncate(0); err != nil {
			return err
		}
		m.torn = false
		fmt.Fprintf(&tx.out, "%s%d\n", banner, format)
	}
	err := f(tx)
	return errors.Join(err, tx.flush())
}

// flock retries when a signal interrupts the wait.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			return err
		}
	}
}

// Lookup returns the entries of a key.
func (tx *Tx) Lookup(k store.Key) []Entry { return slices.Clone(tx.m.entries[k]) }

// All calls f for every entry.
func (tx *Tx) All(f func(Entry)) {
	for _, es := range tx.m.entries {
		for _, e := range es {
			f(e)
		}
	}
}

// Put adds an entry, or replaces the one with its key and fingerprint.
func (tx *Tx) Put(e Entry) { tx.add(line{Put: &e}) }

// Delete removes the entry with r's key and fingerprint.
func (tx *Tx) Delete(r store.Record) { tx.add(line{Delete: &id{r.Key, r.SHA256}}) }

// Refresh replaces size, mtime and path of the source in the entry with r's
// key and fingerprint.
func (tx *Tx) Refresh(r store.Record) error {
	for _, e := range tx.Lookup(r.Key) {
		if e.SHA256 == r.SHA256 {
			e.Size, e.ModTime, e.Path = r.Size, r.ModTime, r.Path
			tx.Put(e)
		}
	}
	return nil
}

// Replaced returns those entries that go when r is stored: the ones in
// replace that still exist. If another entry has r's content already, it
// returns store.ErrDuplicate.
func (tx *Tx) Replaced(r store.Record, replace []store.Record) ([]Entry, error) {
	goes := map[string]bool{}
	for _, old := range replace {
		goes[old.SHA256] = true
	}
	var replaced []Entry
	for _, e := range tx.Lookup(r.Key) {
		switch {
		case goes[e.SHA256]:
			replaced = append(replaced, e)
		case e.SHA256 == r.SHA256:
			return nil, store.ErrDuplicate
		}
	}
	return replaced, nil
}

func (tx *Tx) add(l line) {
	tx.m.apply(l)
	js, err := json.Marshal(l)
	if err != nil {
		panic(err) // all fields are plain
	}
	fmt.Fprintf(&tx.out, "%08x %s\n", crc32.Checksum(js, castagnoli), js)
}

func (tx *Tx) flush() error {
	if tx.out.Len() == 0 {
		return nil
	}
	p := tx.out.Bytes()
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
		m.entries[l.Delete.Key] = slices.DeleteFunc(m.entries[l.Delete.Key], func(e Entry) bool { return e.SHA256 == l.Delete.SHA256 })
		if len(m.entries[l.Delete.Key]) == 0 {
			delete(m.entries, l.Delete.Key)
		}
	}
	if l.Put != nil {
		es := m.entries[l.Put.Key]
		if i := slices.IndexFunc(es, func(e Entry) bool { return e.SHA256 == l.Put.SHA256 }); i >= 0 {
			es[i] = *l.Put
		} else {
			m.entries[l.Put.Key] = append(es, *l.Put)
		}
	}
}

// load reads what was appended since the last time.
func (m *Manifest) load() error {
	info, err := m.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == m.read {
		return nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(m.f, m.read, info.Size()-m.read), 1<<16)
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			// A line that is being written, or that a crash has cut.
			m.torn = len(text) > 0
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m.path, err)
		}
		first := m.read == 0
		m.read += int64(len(text))
		text = text[:len(text)-1]
		switch {
		case first:
			if err := checkBanner(m.path, text); err != nil {
				return err
			}
		case len(text) == 0: // put behind a cut line
		default:
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
	if err := json.Unmarshal(js, &l); err != nil {
		return false
	}
	m.apply(l)
	return true
}

// Error says that a manifest is not one that this program can use.
type Error struct{ Path, Reason, hint string }

func (e *Error) Error() string { return e.Path + ": " + e.Reason }

// Hint says what the user can do.
func (e *Error) Hint() string { return e.hint }

func checkBanner(path string, text []byte) error {
	s, ok := bytes.CutPrefix(text, []byte(banner))
	n, err := strconv.Atoi(string(s))
	if !ok || err != nil {
		return &Error{path, "is no manifest of tstatrepo", "name another folder, or remove the file: it is made again from the stored files"}
	}
	if n > format {
		return &Error{path, fmt.Sprintf("has format %d, this tstatrepo knows %d", n, format), "use the tstatrepo that wrote it, or a newer one"}
	}
	return nil
}

// Temp creates a file for rows that are not committed yet. It is locked as
// long as it is open, so that RemoveStale can tell it from one that a killed
// process left.
func (m *Manifest) Temp() (f *os.File, err error) {
	dir := filepath.Join(filepath.Dir(m.path), "tmp")
	err = m.Update(func(*Tx) error {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if f, err = os.CreateTemp(dir, "*.tmp"); err != nil {
			return err
		}
		return flock(f, syscall.LOCK_EX)
	})
	return f, err
}

// RemoveStale removes the temporary files of processes that are gone.
func (m *Manifest) RemoveStale() error {
	dir := filepath.Join(filepath.Dir(m.path), "tmp")
	return m.Update(func(*Tx) error {
		paths, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
		if err != nil {
			return err
		}
		for _, p := range paths {
			f, err := os.Open(p)
			if err != nil {
				continue
			}
			if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				err = os.Remove(p)
			}
			f.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// SyncDir makes a rename into dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
