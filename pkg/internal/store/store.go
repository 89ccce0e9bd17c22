// Package store defines the Store interface, through which the import engine
// writes, and the records that identify the stored files.
//
// A store keeps rows and the record of their source file together: both become
// visible in one step, or neither does. So every file is stored exactly once,
// despite crashes, repeated runs and concurrent importers.
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

// ErrUnavailable marks a transient error from a store, such as a full disk or a
// server that is down. Commands map it to exit status 75.
var ErrUnavailable = errors.New("store unavailable")

// ErrTransient marks an error after which an immediate retry of the same file
// may succeed, such as a broken connection, a deadlock or a server restart. For
// callers that do not retry, such an error is also marked as ErrUnavailable.
var ErrTransient = errors.New("try again")

// IsTransient reports whether an error is marked as ErrTransient.
func IsTransient(err error) bool { return errors.Is(err, ErrTransient) }

// Unavailable marks err as ErrUnavailable if it comes from a file system that
// may recover, see durable.IsTransient.
func Unavailable(err error) error {
	if durable.IsTransient(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// Key identifies a log file independently of its location: a log keeps its key if its log
// folder is moved or the file is compressed.
type Key struct {
	Probe  string `json:"probe"`  // see ValidProbe
	Folder string `json:"folder"` // name of the log folder, with ".out"
	File   string `json:"file"`   // name of the log file, without a compression suffix
}

func (k Key) String() string { return k.Probe + ":" + k.Folder + "/" + k.File }

// Fingerprint identifies the decompressed content of a log file up to and including its
// last newline, that is, exactly the imported part.
type Fingerprint struct {
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Length int64  `json:"length"` // bytes of text
}

// Record describes one stored source file. Records are kept in the store. Key,
// SHA256 and Place identify a record, see Same.
type Record struct {
	Key
	Fingerprint
	// Place is the path of the log folder's parent below the source, "."
	// for the source itself. It distinguishes the logs of several Tstat
	// processes that write folders of the same name. It is "" (unknown) for
	// standard input and in records written before this field existed.
	Place string `json:"place,omitempty"`
	// Head describes how the text starts, see tstat.Reader.Head. It is ""
	// in records written before this field existed.
	Head string `json:"head,omitempty"`

	// The state of the source file when it was read. A file with the same
	// key, size and mtime is not read again; a zero ModTime matches any
	// mtime.
	Size    int64     `json:"size"` // bytes on disk
	ModTime time.Time `json:"mtime"`
	Path    string    `json:"path"`

	Type    string    `json:"type"`             // log type
	Layout  string    `json:"layout,omitempty"` // Tstat's column layout, see tstat.Reader.Layout
	Time    time.Time `json:"time"`             // the folder's time, UTC
	Rows    int64     `json:"rows"`
	Rejects int64     `json:"rejects,omitempty"`
	Cut     int64     `json:"cut,omitempty"` // 1 if the last line was unfinished, or compressed data was truncated or damaged
	// Damaged means that the compressed file was damaged and that only its
	// intact part was stored.
	Damaged bool `json:"damaged,omitempty"`
	// Transform describes how the text was transformed before it was
	// stored, for example how it was anonymized. It is "" if the text was
	// not transformed. Fingerprint and Head describe the transformed text.
	Transform string `json:"transform,omitempty"`

	Imported time.Time `json:"imported"`
	// Pruned is when the rows were removed, see Manager; zero if they are
	// stored.
	Pruned time.Time `json:"pruned,omitzero"`
	// Location says where the rows are. Only the store interprets it.
	Location string `json:"location,omitempty"`
}

// Text returns an identifier that is unique among the records with the same key: the
// SHA-256 and the place, if known.
func (r *Record) Text() string {
	if r.Place == "" {
		return r.SHA256
	}
	return r.SHA256 + " " + r.Place
}

// Texts returns the set of the records' Text identifiers. The records must have
// the same key.
func Texts(records []Record) map[string]bool {
	texts := make(map[string]bool, len(records))
	for _, r := range records {
		texts[r.Text()] = true
	}
	return texts
}

// Same reports whether r and o describe the same source file, that is, whether
// their keys, SHA-256 and places are equal.
func (r *Record) Same(o Record) bool {
	return r.Key == o.Key && r.SHA256 == o.SHA256 && r.Place == o.Place
}

// Clashes reports whether r and o may describe the same source file. Unlike Same, it
// treats an unknown place as equal to any place.
func (r *Record) Clashes(o Record) bool {
	return r.Key == o.Key && r.SHA256 == o.SHA256 && (r.Place == o.Place || r.Place == "" || o.Place == "")
}

// FileInfo describes a file before it is read.
type FileInfo struct {
	Key
	Type    *tstat.LogType
	Time    time.Time      // the folder's time, UTC
	Columns []tstat.Column // columns of the typed batches, see tstat.Reader.Columns
	// Present says for each column whether the file has it, judging by the
	// file's first rows; nil means all.
	Present []bool
	// Kept says for each column whether to store it; nil means all. A
	// column that is not kept is missing from the batches.
	Kept []bool
	// Name is the file's slash-separated path in a tree of copies: the
	// probe or the stream, then the path below the source.
	Name string
	// ModTime and Mode are the source file's mtime and mode, which copy:
	// stores preserve.
	ModTime time.Time
	Mode    fs.FileMode
	// ReadOnce is set if the file cannot be read again. The store then does not
	// return ErrReread.
	ReadOnce bool

	// Reject is called during Write and Flush for each row that the store
	// cannot hold, for example because a value is out of a column's range.
	// The call may come from another goroutine; text is only valid during
	// the call. Nil disables reporting.
	Reject func(line int64, reason string, text []byte)
	// Private withholds the file's values: neither the reasons passed to
	// Reject nor the errors of FileTx quote them.
	Private bool
	// Prefix is the record of the longest stored text that is a prefix of
	// the file, and PrefixLines is the number of lines in that text. Commit
	// will replace the record. Prefix is nil if no such text is stored or
	// the file cannot be read twice.
	Prefix      *Record
	PrefixLines int64
	// Next is the time of the next log folder, or zero if none exists.
	// Rows in this file's folder cannot be much later than Next.
	Next time.Time
}

// Store keeps log rows. It is safe for concurrent use, also by several
// processes.
type Store interface {
	// Accepts reports whether the store accepts a file. Only Key, Type, Time
	// and Next of f are set. The importer skips rejected files.
	Accepts(f FileInfo) bool
	// Lookup returns all records of the keys, in any order. A key may have
	// several records: Tstat may recreate a folder with the same name.
	Lookup(ctx context.Context, keys []Key) ([]Record, error)
	// OtherProbes returns the records that have the same folder and file as
	// one of the keys, but another probe.
	OtherProbes(ctx context.Context, keys []Key) ([]Record, error)
	// Plan announces, before the first Begin, all files that are about to
	// be imported. Only Key, Type, Time and Next of each file are set. Each
	// call replaces the previous plan.
	Plan(files []FileInfo)
	// Done reports that a planned file was stored, skipped or abandoned.
	Done(f FileInfo)
	// Begin starts a file. Nothing is visible before FileTx.Commit.
	Begin(ctx context.Context, f FileInfo) (FileTx, error)
	// Refresh copies Size, ModTime and Path from r to the stored record of the
	// same file, see Record.Same. An unchanged file is then not read again.
	Refresh(ctx context.Context, r Record) error
	// Properties returns the properties of this kind of store.
	Properties() Properties
	// Close releases the store and makes the last commits durable.
	Close() error
	// String returns the destination's URL without secrets.
	String() string
}

// Properties describes a kind of store.
type Properties struct {
	// AppendOnly means that rows do not say which file they come from, so
	// they can be neither replaced nor counted by file.
	AppendOnly bool
	// Compacts means that rows are in files that Manager.Compact and
	// Manager.Repair can change.
	Compacts bool
}

// A TransformChecker is a Store that may be unable to store Record.Transform.
type TransformChecker interface {
	// CheckTransform returns an error if the store cannot record the transform of a
	// log.
	CheckTransform() error
}

// Defaults has default implementations of some Store and Manager methods.
// Stores embed it.
type Defaults struct{}

// Accepts accepts files of known log types.
func (Defaults) Accepts(f FileInfo) bool { return f.Type != nil }

// Plan does nothing.
func (Defaults) Plan([]FileInfo) {}

// Done does nothing.
func (Defaults) Done(FileInfo) {}

// Properties returns the zero value.
func (Defaults) Properties() Properties { return Properties{} }

// Size returns 0, because the store has no files.
func (Defaults) Size(string) (int64, error) { return 0, nil }

// Repair is not supported.
func (Defaults) Repair(context.Context, bool) (RepairResult, error) {
	return RepairResult{}, errors.ErrUnsupported
}

// Compact is not supported.
func (Defaults) Compact(context.Context, CompactOptions) (CompactResult, error) {
	return CompactResult{}, errors.ErrUnsupported
}

// FileTx stores the rows of one file. It ends with Commit or Abort; after that,
// Abort does nothing.
type FileTx interface {
	// Write adds the rows of b, which is only valid during the call.
	Write(ctx context.Context, b *tstat.Batch) error
	// Flush waits until the store has accepted all rows. It returns how
	// many rows were passed to FileInfo.Reject; Record.Rows does not include
	// them.
	Flush(ctx context.Context) (rejected int64, err error)
	// Commit flushes, and makes the rows and the record r visible together.
	// known lists the records with r's key that the caller has seen. In the
	// same step, Commit removes the records in replace, a subset of known,
	// and their rows.
	//
	// If the store has records with r's key that are not in known, Commit
	// stores nothing. It returns ErrDuplicate if r clashes with one of
	// them, and ErrConflict otherwise. It also returns ErrDuplicate if the
	// store has a record that is the same as r and not in replace.
	Commit(ctx context.Context, r Record, known, replace []Record) error
	// Abort discards the rows.
	Abort() error
}

// Adoption describes a stream that DBStream's importer math_repo filled, as of the time
// when math_repo stopped. A store adopts the rows that math_repo stored, so that they are
// not stored twice.
type Adoption struct {
	Stream   string // name of the stream
	Probe    string // Key.Probe of its files
	Type     string // log type of its rows
	Location *time.Location
	// Copied is the time of the last log folder whose file was copied.
	// Stored is the time up to which DBStream has rows. Zero means unknown.
	Copied, Stored time.Time
}

// RawStore is a Store that keeps whole files instead of rows. The engine calls
// BeginRaw instead of Begin for such a store.
type RawStore interface {
	Store
	BeginRaw(ctx context.Context, f FileInfo) (RawTx, error)
}

// RawTx is a FileTx that receives the bytes of the file instead of its rows.
type RawTx interface {
	FileTx
	WriteRaw(ctx context.Context, p []byte) error
}

// ErrDuplicate is returned by Commit if another import has already stored the same
// content. The file counts as skipped.
var ErrDuplicate = errors.New("already stored")

// ErrConflict is returned by Commit if another import has stored different content for
// the same file since the caller looked up its records. The caller must look them up
// again.
var ErrConflict = errors.New("another import stored the same file meanwhile")

// ErrReread is returned by the methods of a FileTx if the caller must write the
// file again from its start, in a new FileTx. The new FileTx handles the rows
// differently.
var ErrReread = errors.New("the file is read again")

const probeChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// ValidProbe returns an error unless name is a valid probe name: 1 to 64
// letters, digits, '_' and '-'. It must not begin with '-', because programs
// would parse it as an option.
func ValidProbe(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, probeChars) != "" {
		return fmt.Errorf("invalid probe name %q: use 1 to 64 letters, digits, '_' and '-'", name)
	}
	if name[0] == '-' {
		return fmt.Errorf("invalid probe name %q: it begins with '-'", name)
	}
	return nil
}
