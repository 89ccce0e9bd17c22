// Package manifest keeps the records of a store in a folder of the file system. The
// records say which source files the store holds, and which stored files contain their
// rows.
//
// A manifest is a log of lines, each with a checksum. Several processes append to it
// under a lock. Lines that a crash truncated or damaged are skipped. The store then
// does not trust the other lines either: it reads the stored files and rewrites the
// manifest, see Tx.Doubtful. The records of empty and pruned logs exist only in the
// manifest.
//
// Format 1 lacked Entry.FileRecords and did not preserve names that are not valid
// UTF-8.
package manifest

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Dir is tstatrepo's folder below a store's root. Hive style readers ignore
// names that begin with '_'.
const Dir = "_tstatrepo"

const (
	name   = "manifest"
	format = 2
	banner = "tstatrepo manifest " // followed by the format number and the kind of store
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Entry is a record, with the size and mtime of the stored file that holds its rows,
// as they were when the entry was written. If the file has a different size or mtime
// now, a process replaced it and was killed before it wrote the new entry.
type Entry struct {
	store.Record
	StoredSize    int64     `json:"stored_size,omitempty"`
	StoredModTime time.Time `json:"stored_mtime,omitzero"`
	// FileRecords is the number of records whose rows are in the stored
	// file, or 0 if unknown. If the manifest has fewer entries for this
	// file, it has lost lines.
	FileRecords int `json:"of,omitempty"`
	// Replaced means that another record replaced this one, but its rows
	// could not be removed. The store later removes the rows and then the
	// entry. Until then Pruned is also set.
	Replaced bool `json:"replaced,omitempty"`
}

// Matches reports whether the stored file described by info is unchanged since the
// entry was written.
func (e *Entry) Matches(info fs.FileInfo) bool {
	return e.StoredSize == info.Size() && e.StoredModTime.Equal(info.ModTime())
}

// HasRowsBefore reports whether the entry's log is older than t and its rows
// have not been pruned.
func (e *Entry) HasRowsBefore(t time.Time) bool { return e.Pruned.IsZero() && e.Time.Before(t) }

// Locations returns the locations of entries.
func Locations(entries []Entry) []string {
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Location
	}
	return list
}

// line is one line of a manifest.
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

	flags   int // flags for opening the file
	mu      sync.Mutex
	f       *os.File // nil if the file does not exist yet and the manifest is read-only
	read    int64    // number of bytes of f that were read
	torn    bool     // f does not end in a newline
	format  int      // of f
	lines   int      // of f
	damaged int
	entries map[store.Key][]Entry
	countAt map[string]int // number of entries by location
}

// Open opens the manifest in root for a store of the given kind. With readOnly
// it creates nothing, and Update must not be called.
func Open(ctx context.Context, root, kind string, readOnly bool) (*Manifest, error) {
	m := &Manifest{path: filepath.Join(root, Dir, name), kind: kind, flags: os.O_RDWR | os.O_CREATE | os.O_APPEND, entries: map[store.Key][]Entry{}, countAt: map[string]int{}}
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

// Damaged returns the number of damaged lines.
func (m *Manifest) Damaged() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.damaged
}

// Lookup returns the records of the keys, including those that other processes
// have added.
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

// All returns all entries, including those that other processes have added.
func (m *Manifest) All() ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		return nil, err
	}
	return slices.Concat(slices.Collect(maps.Values(m.entries))...), nil
}

// Verify calls fault once if any line of the manifest is damaged, since the
// records of some files may then be lost.
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
		err = nil // read-only, on some file systems
	}
	return errors.Join(err, m.f.Close())
}

// Kinds of stores that have a manifest.
const (
	Parquet = "parquet"
	Copy    = "copy"
)

// Size returns the size in bytes of the file at location in the store at root, or 0 if
// the file does not exist.
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
