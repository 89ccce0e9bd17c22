package store

import (
	"context"
	"time"
)

// Manager is a Store that can be listed, verified, pruned, repaired and
// compacted.
type Manager interface {
	Store
	// Records calls f with each record of the store, in any order,
	// including those with pruned rows. It stops at the first error of f
	// and returns it.
	Records(ctx context.Context, f func(Record) error) error
	// Count returns how many rows of each record are stored now, by reading
	// the rows or the metadata beside them. A store with
	// Properties.AppendOnly returns errors.ErrUnsupported.
	Count(ctx context.Context, records []Record) ([]int64, error)
	// Size returns the size in bytes of the file at a Record.Location, or 0
	// if the file does not exist.
	Size(location string) (int64, error)
	// Verify calls opt.Fault for each difference that Count does not find:
	// rows without a record, and unreadable data. Changes by concurrent
	// imports are not faults.
	Verify(ctx context.Context, opt VerifyOptions) error
	// Prune removes the rows of all files whose folder's time is before the
	// given time, which must be the start of a UTC day. It keeps the files'
	// records, with Pruned set, so that the files are not imported again.
	// The next call completes the work of a killed process. With dryRun
	// nothing is removed.
	Prune(ctx context.Context, before time.Time, dryRun bool) (PruneResult, error)
	// Repair makes the records match the stored rows, and leaves one copy
	// of each log whose rows are stored more than once. With dryRun it only
	// returns what it would remove. Only stores with Properties.Compacts
	// support it.
	Repair(ctx context.Context, dryRun bool) (RepairResult, error)
	// Compact merges the small files of past days into few large ones. Each
	// store documents what concurrent readers see. The next call cleans up
	// after a killed process. A concurrent call returns an error that wraps
	// state.ErrLocked. Only stores with Properties.Compacts support it.
	Compact(ctx context.Context, opt CompactOptions) (CompactResult, error)
}

// PruneResult is what Prune removed, or would remove.
type PruneResult struct {
	Files int64 `json:"files"` // log files whose rows were removed
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes,omitempty"` // of the store's files; 0 if unknown
}

// VerifyOptions configures Verify.
type VerifyOptions struct {
	// Deep reads all stored data.
	Deep bool
	// Wants reports whether to report a record's faults; nil means all
	// records. Faults without a record are always reported.
	Wants func(*Record) bool
	Fault func(Fault) // not called concurrently
}

// The kinds of Fault.
const (
	Unrecorded = "unrecorded" // rows or files without a record
	Doubled    = "doubled"    // the same rows are stored twice
	Unreadable = "unreadable" // no reader can open it
	Foreign    = "foreign"    // a file from another program among the store's files
	Damaged    = "damaged"    // cannot be read to the end, or its text differs from its record
	CR         = "cr"         // values end in CR, from logs whose lines ended in CR LF
)

// Fault is a difference between a store and its records.
type Fault struct {
	Kind   string
	Key    Key    // of the log; zero if unknown
	Path   string // file or table of the store
	Reason string
	Mend   string // an SQL statement that repairs it, or ""
}

// RepairResult is what Repair removed, or would remove.
type RepairResult struct {
	Logs int64 `json:"logs"` // logs whose rows were stored more than once
	Rows int64 `json:"rows"`
}

// Claimer is a Store that several importers on different machines share. Each file is
// imported by the importer that has claimed it. Claims only avoid duplicate work:
// FileTx.Commit guarantees that a file is stored once.
type Claimer interface {
	Store
	// Claim claims the keys that no other owner has claimed, and returns
	// them. The claims expire after ttl by the server's clock. Claim also
	// renews the owner's existing claims.
	Claim(ctx context.Context, owner string, keys []Key, ttl time.Duration) ([]Key, error)
	// Release ends the owner's claims on the keys.
	Release(ctx context.Context, owner string, keys []Key) error
}

// CompactOptions configures Compact.
type CompactOptions struct {
	// TargetSize is the approximate size of a large file in bytes; 0 means
	// DefaultTargetSize.
	TargetSize int64
	// Compact skips a day until ClosedAfter has passed since the day ended
	// and since its newest file was stored.
	ClosedAfter time.Duration
	DryRun      bool
	Jobs        int // number of days compacted at once; 0 means 1
	// Total receives the number of files and bytes to read. Done receives
	// the progress. Both may be nil.
	Total func(files int, bytes int64)
	Done  func(bytes, rows int64)
}

// Defaults for CompactOptions.
const (
	DefaultTargetSize  = 256 << 20
	DefaultClosedAfter = 24 * time.Hour
)

// CompactResult is the result of Compact or, with DryRun, the expected result.
type CompactResult struct {
	Days  int64 `json:"days"`  // folders, each for a log type, probe and day
	Files int64 `json:"files"` // files read from them
	Into  int64 `json:"into"`  // files written; an estimate with DryRun
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"` // read
	// Open counts the days skipped because of CompactOptions.ClosedAfter.
	// Whole counts the other days with fewer than two files to merge, and those whose
	// folder is a symbolic link.
	Open  int64 `json:"open"`
	Whole int64 `json:"whole"`
	// Failed counts the days that were left unchanged because of an error.
	// The errors are logged.
	Failed int64 `json:"failed"`
}
