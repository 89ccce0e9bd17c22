// Package store defines where log rows go: the Store interface that the
// import engine writes to, and the identity of what was written.
//
// A store keeps rows and the record of their source file together: both
// appear in one step or neither does. That is what makes an import exactly
// once through crashes, repeats and several importers.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// ErrUnavailable marks an error of a sink that may go away by itself: a full
// disk, a server that is down. Commands turn it into exit status 75.
var ErrUnavailable = errors.New("store unavailable")

// ErrTransient marks an error after which the same file may well be stored at
// a second try: a connection that broke, a deadlock, a server that restarts.
// Such an error is ErrUnavailable too, for those who do not try again.
var ErrTransient = errors.New("try again")

// IsTransient reports whether an error is marked as ErrTransient.
func IsTransient(err error) bool { return errors.Is(err, ErrTransient) }

// Unavailable marks err as ErrUnavailable if it is one of a file system that
// may recover, see durable.IsTransient.
func Unavailable(err error) error {
	if durable.IsTransient(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// Key names a log file wherever it lies: the same log of the same probe has
// the same key after its site folder was moved or the file was compressed.
type Key struct {
	Probe  string `json:"probe"`  // see ValidProbe
	Folder string `json:"folder"` // name of the log folder, with ".out"
	File   string `json:"file"`   // name of the log file, without the suffix of a compression
}

func (k Key) String() string { return k.Probe + ":" + k.Folder + "/" + k.File }

// Fingerprint identifies the text of a log file, decompressed, up to and
// including its last newline: exactly what an import takes.
type Fingerprint struct {
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Length int64  `json:"length"` // bytes of text
}

// Record says what was stored of one source file. It lives in the store. Key,
// SHA256 and Place identify it, see Same.
type Record struct {
	Key
	Fingerprint
	// Place is the folder of the log folder below the source, "." for the
	// source itself. It tells the logs of several Tstat processes apart that
	// write folders of the same name. It is "", unknown, for standard input and
	// in records of versions that had no places.
	Place string `json:"place,omitempty"`
	// Head tells how the text starts, see tstat.Reader.Head. It is "" in records
	// of versions that had no heads.
	Head string `json:"head,omitempty"`

	// The source file as it was when it was read. A file of the same key,
	// size and mtime is not read again; a zero ModTime fits all.
	Size    int64     `json:"size"` // bytes on disk, compressed if it was
	ModTime time.Time `json:"mtime"`
	Path    string    `json:"path"`

	Type    string    `json:"type"`             // log type
	Layout  string    `json:"layout,omitempty"` // Tstat's column layout, see tstat.Reader.Layout
	Time    time.Time `json:"time"`             // the folder's time, UTC
	Rows    int64     `json:"rows"`
	Rejects int64     `json:"rejects,omitempty"`
	Cut     int64     `json:"cut,omitempty"` // 1 if the end of the file was unfinished
	// Damaged says that the compressed file was damaged, and that only its
	// good part was stored.
	Damaged bool `json:"damaged,omitempty"`
	// Transform describes what was done to the text before it was stored, like how
	// it was anonymized. Fingerprint and Head are of the result. "": nothing was.
	Transform string `json:"transform,omitempty"`

	Imported time.Time `json:"imported"`
	// Pruned is when the rows were removed, see Manager; zero: they are there.
	Pruned time.Time `json:"pruned,omitzero"`
	// Location is the store's own: where the rows are.
	Location string `json:"location,omitempty"`
}

// Text names the text of a record among those of its key: by its SHA-256 and,
// if that is known, its place.
func (r *Record) Text() string {
	if r.Place == "" {
		return r.SHA256
	}
	return r.SHA256 + " " + r.Place
}

// Texts returns the texts of records of one key.
func Texts(records []Record) map[string]bool {
	texts := make(map[string]bool, len(records))
	for _, r := range records {
		texts[r.Text()] = true
	}
	return texts
}

// Same reports whether r and o are records of the same source file: of the
// same text of the same log at the same place.
func (r *Record) Same(o Record) bool {
	return r.Key == o.Key && r.SHA256 == o.SHA256 && r.Place == o.Place
}

// Clashes reports whether a store that has o has r already, as far as can be
// told: a record without a place may be that of any file with its text.
func (r *Record) Clashes(o Record) bool {
	return r.Key == o.Key && r.SHA256 == o.SHA256 && (r.Place == o.Place || r.Place == "" || o.Place == "")
}

// FileInfo is what is known of a file before it is read.
type FileInfo struct {
	Key
	Type    *tstat.LogType
	Time    time.Time      // the folder's time, UTC
	Columns []tstat.Column // columns of the typed batches, see tstat.Reader.Columns
	// Present says of each column whether the file has it, as far as its first
	// rows tell; nil: all of them.
	Present []bool
	// Kept says of each column whether it is stored; nil: all are. A column that is
	// not is absent from the batches.
	Kept []bool
	// Name is the file's path in a tree of copies: the probe, or the stream that
	// it came by, and the path below the source. It is slash separated.
	Name string
	// ModTime and Mode are the source file's; copy keeps them.
	ModTime time.Time
	Mode    fs.FileMode
	// ReadOnce is set if the file cannot be read again. The store then does not
	// return ErrReread.
	ReadOnce bool

	// Reject is called during Write and Flush for each row that the store cannot
	// take, like a value out of a column's range, perhaps from another goroutine;
	// text is only valid during the call. Nil disables reporting.
	Reject func(line int64, reason string, text []byte)
	// Prefix is the record of the longest stored text that the file starts with,
	// and PrefixLines counts its lines. Commit will replace that record. Nil: the
	// store has no such text, or the file cannot be read twice.
	Prefix      *Record
	PrefixLines int64
	// Next is the time of the next log folder, if there is one: no row of
	// this one can be much later.
	Next time.Time
}

// Store keeps log rows. It is safe for concurrent use, also by several
// processes.
type Store interface {
	// Accepts reports whether the store takes a file, of which Key, Type, Time and
	// Next are known. Files that it does not accept are not imported.
	Accepts(f FileInfo) bool
	// Lookup returns all records of the keys, in no order. A key may have
	// several records: Tstat can make a folder of the same name again.
	Lookup(ctx context.Context, keys []Key) ([]Record, error)
	// OtherProbes returns the records that have folder and file of one of the
	// keys, and another probe.
	OtherProbes(ctx context.Context, keys []Key) ([]Record, error)
	// Plan names all files that are about to be imported, before the first Begin;
	// of each Key, Type, Time and Next are known. It replaces the former plan.
	Plan(files []FileInfo)
	// Done reports that a planned file was stored, skipped or given up.
	Done(f FileInfo)
	// Begin starts a file. Nothing is visible before FileTx.Commit.
	Begin(ctx context.Context, f FileInfo) (FileTx, error)
	// Refresh replaces Size, ModTime and Path of the record that is the same as
	// r, so that an unchanged file is not read again.
	Refresh(ctx context.Context, r Record) error
	// Properties describes the kind of store.
	Properties() Properties
	// Close releases the store and makes the last commits durable.
	Close() error
	// String is the destination's URL without secrets.
	String() string
}

// Properties describe a kind of store.
type Properties struct {
	// AppendOnly: rows do not tell their file, so they can be neither replaced
	// nor counted by file.
	AppendOnly bool
	// Compacts: rows are in files that Manager.Compact and Manager.Repair work on.
	Compacts bool
}

// Defaults has the methods that most stores have in common. A store embeds it.
type Defaults struct{}

// Accepts accepts files of known log types.
func (Defaults) Accepts(f FileInfo) bool { return f.Type != nil }

// Plan does nothing.
func (Defaults) Plan([]FileInfo) {}

// Done does nothing.
func (Defaults) Done(FileInfo) {}

// Properties returns the zero value.
func (Defaults) Properties() Properties { return Properties{} }

// Size returns 0: the store has no files.
func (Defaults) Size(string) (int64, error) { return 0, nil }

// Repair is not supported.
func (Defaults) Repair(context.Context, bool) (RepairResult, error) {
	return RepairResult{}, errors.ErrUnsupported
}

// Compact is not supported.
func (Defaults) Compact(context.Context, CompactOptions) (CompactResult, error) {
	return CompactResult{}, errors.ErrUnsupported
}

// FileTx takes the rows of one file. Commit or Abort ends it; Abort after
// either does nothing.
type FileTx interface {
	// Write adds the rows of b, which is only valid during the call.
	Write(ctx context.Context, b *tstat.Batch) error
	// Flush waits until the store has taken all rows. It returns how many of them
	// were passed to FileInfo.Reject; they do not count as rows of the record.
	Flush(ctx context.Context) (rejected int64, err error)
	// Commit flushes and makes rows and record visible together. Of known, the
	// records of r's key that the caller has seen, those that replace holds go in
	// the same step, with their rows. If the store has other records of the key
	// meanwhile, nothing is stored and Commit returns ErrDuplicate if r clashes
	// with one of them, else ErrConflict. It also returns ErrDuplicate if a
	// known record stays that is the same as r.
	Commit(ctx context.Context, r Record, known, replace []Record) error
	Abort() error
}

// Adoption is what DBStream's importer math_repo knew of a stream when it
// stopped. A store that math_repo may have filled adopts the rows it finds, so
// that they are not stored again.
type Adoption struct {
	Stream   string // its name
	Probe    string // in the keys of its files
	Type     string // log type of its rows
	Location *time.Location
	// Copied is the time of the last log folder whose file was copied, and
	// Stored the time up to which rows are in DBStream. Zero: not known.
	Copied, Stored time.Time
}

// RawStore is a Store that keeps files as they are on disk, not rows. The
// engine uses BeginRaw where it is offered.
type RawStore interface {
	Store
	BeginRaw(ctx context.Context, f FileInfo) (RawTx, error)
}

// RawTx is a FileTx that takes the bytes of the file.
type RawTx interface {
	FileTx
	WriteRaw(ctx context.Context, p []byte) error
}

// ErrDuplicate is returned by Commit when another import stored the same
// content meanwhile. The file counts as skipped.
var ErrDuplicate = errors.New("already stored")

// ErrConflict is returned by Commit when another import stored other content
// of the same file meanwhile. The caller looks again.
var ErrConflict = errors.New("another import stored the same file meanwhile")

// ErrReread is returned by the methods of a FileTx if the caller must write the
// file again from its start, in a new FileTx: the store will then handle its rows
// differently.
var ErrReread = errors.New("the file is read again")

const probeChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// ValidProbe reports whether name may name a probe: 1 to 64 letters, digits,
// '_' and '-'. It must not begin with '-', because programs would parse it as an
// option.
func ValidProbe(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, probeChars) != "" {
		return fmt.Errorf("invalid probe name %q: use 1 to 64 letters, digits, '_' and '-'", name)
	}
	if name[0] == '-' {
		return fmt.Errorf("invalid probe name %q: it begins with '-'", name)
	}
	return nil
}
