package store

import (
	"context"
	"time"
)

// Manager is a Store that tells what it holds and lets old rows go.
type Manager interface {
	Store
	// Records calls f with each record that the store holds, in no order,
	// also with those whose rows were pruned. An error of f ends it and is
	// returned.
	Records(ctx context.Context, f func(Record) error) error
	// Prune removes the rows of all files whose folder's time is before the
	// given one, the start of a UTC day. Their records stay, with Pruned set,
	// so that such a file is not imported again. What a process that died left
	// half done, the next call completes. With dryRun nothing is removed.
	Prune(ctx context.Context, before time.Time, dryRun bool) (PruneResult, error)
}

// PruneResult is what Prune removed, or would remove.
type PruneResult struct {
	Files int64 `json:"files"` // log files whose rows went
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes,omitempty"` // of the store's own files; 0 if it does not know
}

// Counter is a Manager whose rows tell their file.
type Counter interface {
	Manager
	// Count returns how many rows there are of each record now, by reading
	// them or what the store keeps beside them.
	Count(ctx context.Context, records []Record) ([]int64, error)
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
