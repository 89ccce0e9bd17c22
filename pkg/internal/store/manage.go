package store

import (
	"context"
	"time"
)

// Manager is a Store that can be listed, verified, pruned, repaired and
// compacted.
type Manager interface {
	Store
	// Records calls f with each record that the store holds, in no order,
	// also with those whose rows were pruned. An error of f ends it and is
	// returned.
	Records(ctx context.Context, f func(Record) error) error
	// Count returns how many rows there are of each record now, by reading
	// them or what the store keeps beside them. A store that is AppendOnly
	// returns errors.ErrUnsupported.
	Count(ctx context.Context, records []Record) ([]int64, error)
	// Size returns the size in bytes of the file at a Record.Location, or
	// 0.
	Size(location string) (int64, error)
	// Verify calls opt.Fault for each difference to the records that Count does
	// not find: in rows that no record is about, and in what cannot be read.
	// Imports may go on meanwhile; what they do is not a fault.
	Verify(ctx context.Context, opt VerifyOptions) error
	// Prune removes the rows of all files whose folder's time is before the
	// given one, the start of a UTC day. Their records stay, with Pruned set,
	// so that such a file is not imported again. What a process that died left
	// half done, the next call completes. With dryRun nothing is removed.
	Prune(ctx context.Context, before time.Time, dryRun bool) (PruneResult, error)
	// Repair brings the records in line with what is stored, and leaves one
	// of each log whose rows are stored more than once. With dryRun it only
	// says what it would remove. Only a store that Compacts supports it.
	Repair(ctx context.Context, dryRun bool) (RepairResult, error)
	// Compact makes few large files of many small ones, of the days that are over.
	// What readers may rely on meanwhile, the store says. What a process that died
	// left half done, the next one tidies up. A second one at the same time gets
	// an error that wraps state.ErrLocked. Only a store that Compacts supports it.
	Compact(ctx context.Context, opt CompactOptions) (CompactResult, error)
}

// PruneResult is what Prune removed, or would remove.
type PruneResult struct {
	Files int64 `json:"files"` // log files whose rows went
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes,omitempty"` // of the store's own files; 0 if it does not know
}

// VerifyOptions of Verify.
type VerifyOptions struct {
	// Deep reads all that is stored.
	Deep bool
	// Wants reports whether faults of a record are wanted; nil: of all. Faults
	// that cannot be assigned to a record always are.
	Wants func(*Record) bool
	Fault func(Fault) // not called concurrently
}

// The kinds of Fault.
const (
	Unrecorded = "unrecorded" // rows or files that no record is about
	Doubled    = "doubled"    // the same rows are stored twice
	Unreadable = "unreadable" // what no reader can open
	Foreign    = "foreign"    // a file of someone else among ours
	Damaged    = "damaged"    // cannot be read to its end, or has another text than its record
	CR         = "cr"         // values end in CR, from logs whose lines ended in CR LF
)

// Fault is a difference between a store and its records.
type Fault struct {
	Kind   string
	Key    Key    // of the log; zero if it is not known
	Path   string // file or table of the store
	Reason string
	Mend   string // an SQL statement that repairs it, or ""
}

// RepairResult is what Repair removed, or would remove.
type RepairResult struct {
	Logs int64 `json:"logs"` // whose rows were stored more than once
	Rows int64 `json:"rows"`
}

// Claimer is a Store that several importers on different machines share: each
// file is imported by the one that has claimed it. Claims save work. That a
// file is stored once is up to FileTx.Commit, with and without them.
type Claimer interface {
	Store
	// Claim claims those of the keys that no other owner holds, for the time
	// ttl by the server's clock, and returns them. Claiming again what is the
	// owner's own renews it.
	Claim(ctx context.Context, owner string, keys []Key, ttl time.Duration) ([]Key, error)
	// Release ends the owner's claims of the keys.
	Release(ctx context.Context, owner string, keys []Key) error
}

// CompactOptions of Compact.
type CompactOptions struct {
	// TargetSize is about how many bytes a file gets; 0: DefaultTargetSize.
	TargetSize int64
	// ClosedAfter is how long ago a day must have ended, and its newest file
	// must have been stored.
	ClosedAfter time.Duration
	DryRun      bool
	Jobs        int // days at a time; 0: 1
	// Total receives the number of files and bytes to read, Done the
	// progress; both may be nil.
	Total func(files int, bytes int64)
	Done  func(bytes, rows int64)
}

// Defaults of CompactOptions.
const (
	DefaultTargetSize  = 256 << 20
	DefaultClosedAfter = 24 * time.Hour
)

// CompactResult is what Compact did, or would do.
type CompactResult struct {
	Days  int64 `json:"days"`  // folders of a log type, probe and day
	Files int64 `json:"files"` // of them, read
	Into  int64 `json:"into"`  // files written; with DryRun: about
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"` // read
	// Open are days that ended, or whose newest file was stored, less than
	// ClosedAfter ago; Whole are days without two files to put together.
	Open  int64 `json:"open"`
	Whole int64 `json:"whole"`
	// Failed are days that were left as they are because of an error, which
	// the log has.
	Failed int64 `json:"failed"`
}
