package upkeep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// Before returns the start of the first UTC day to keep. Pruning removes the days that
// ended at least the given duration before now.
func Before(now time.Time, keep time.Duration) time.Time {
	return now.UTC().Add(-keep).Truncate(24 * time.Hour)
}

// Options configures a Keeper. Stores that cannot be compacted are only pruned.
type Options struct {
	To           []string      // destinations, see stores.Open
	Keep         time.Duration // how long rows are kept; 0: forever
	Compact      bool          // compact finished days, with the defaults of store.CompactOptions
	Every        time.Duration // interval between rounds; 0: a day
	RetryTimeout time.Duration // how long an unavailable database is retried
	Log          *slog.Logger  // may be nil
}

// Enabled reports whether pruning or compaction is enabled.
func (o *Options) Enabled() bool { return o.Keep > 0 || o.Compact }

// Stats summarizes the upkeep of a store.
type Stats struct {
	Store       string // URL without secrets
	Failed      int64  // failed rounds
	LastSuccess time.Time
	Pruned      store.PruneResult
	Compacted   store.CompactResult
}

// Metrics defines the metrics that are computed from the Stats of a store.
var Metrics = metrics.New("store_", []string{"store"}, func(s *Stats) []string { return []string{s.Store} },
	metrics.Time("upkeep_last_success_timestamp_seconds", "When the last upkeep of the store succeeded.", func(s *Stats) time.Time { return s.LastSuccess }),
	metrics.Count("upkeep_failures_total", "Times that the upkeep of the store failed.", func(s *Stats) int64 { return s.Failed }),
	metrics.Count("compacted_files_total", "Files merged into larger ones.", func(s *Stats) int64 { return s.Compacted.Files }),
	metrics.Count("pruned_files_total", "Log files whose rows were removed.", func(s *Stats) int64 { return s.Pruned.Files }),
	metrics.Count("pruned_rows_total", "Rows removed.", func(s *Stats) int64 { return s.Pruned.Rows }),
)

// Keeper maintains stores. Imports into the stores may run at the same time.
type Keeper struct {
	opt Options

	mu    sync.Mutex
	stats []Stats
}

// retryAfter is the maximum time until the next round of upkeep if the upkeep of any
// store failed.
const retryAfter = time.Hour

// New returns a keeper. The caller must call Run.
func New(opt Options) *Keeper {
	opt.Every = cmp.Or(opt.Every, 24*time.Hour)
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	k := &Keeper{opt: opt}
	for _, to := range opt.To {
		name, _, _ := stores.SplitTransform(to) // imports name the store the same way
		k.stats = append(k.stats, Stats{Store: dest.Redact(name)})
	}
	return k
}

// Continue copies an earlier Keeper's Stats to k for each store that both maintain. The
// earlier Keeper's Run must have returned, and k.Run must not have been called yet. If
// the earlier Keeper is nil, Continue does nothing.
func (k *Keeper) Continue(former *Keeper) {
	for _, f := range former.Stats() {
		for i := range k.stats {
			if k.stats[i].Store == f.Store {
				k.stats[i] = f
			}
		}
	}
}

// Stats returns the Stats of each store, in the order of Options.To. It returns nil if
// nothing is enabled or k is nil.
func (k *Keeper) Stats() []Stats {
	if k == nil || !k.opt.Enabled() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.stats)
}

// Run prunes and compacts the stores immediately and then every Options.Every, until ctx
// is done. If the upkeep of a store fails, Run logs and counts the failure, and the next
// round starts after an hour or Options.Every, whichever is shorter. Run returns
// immediately if nothing is enabled.
func (k *Keeper) Run(ctx context.Context) {
	for k.opt.Enabled() {
		wait := k.opt.Every
		for i, dest := range k.opt.To {
			err := k.maintain(ctx, i, dest)
			if ctx.Err() != nil {
				return
			}
			k.mu.Lock()
			if err == nil {
				k.stats[i].LastSuccess = time.Now()
			} else {
				k.stats[i].Failed++
				wait = min(wait, retryAfter)
				k.opt.Log.Error("store upkeep failed", "store", k.stats[i].Store, "err", err)
			}
			k.mu.Unlock()
		}
		if retry.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// maintain prunes and compacts dest, the i-th store of Options.To.
func (k *Keeper) maintain(ctx context.Context, i int, dest string) (err error) {
	st, err := stores.Open(ctx, dest, stores.Options{Log: k.opt.Log, RetryTimeout: k.opt.RetryTimeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if k.opt.Keep > 0 {
		res, err := st.Prune(ctx, Before(time.Now(), k.opt.Keep), false)
		k.mu.Lock()
		p := &k.stats[i].Pruned
		p.Files += res.Files
		p.Rows += res.Rows
		p.Bytes += res.Bytes
		k.mu.Unlock()
		if res.Files > 0 {
			k.opt.Log.Info("store pruned", "store", st.String(), "files", res.Files, "rows", res.Rows)
		}
		if err != nil {
			return err
		}
	}
	if !k.opt.Compact || !st.Properties().Compacts {
		return nil
	}
	res, err := st.Compact(ctx, store.CompactOptions{ClosedAfter: store.DefaultClosedAfter})
	k.mu.Lock()
	p := &k.stats[i].Compacted
	p.Days += res.Days
	p.Files += res.Files
	p.Into += res.Into
	p.Rows += res.Rows
	p.Bytes += res.Bytes
	p.Failed += res.Failed
	k.mu.Unlock()
	if res.Days > 0 {
		k.opt.Log.Info("store compacted", "store", st.String(), "days", res.Days, "files", res.Files, "into", res.Into)
	}
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("%d days were not compacted", res.Failed)
	}
	return err
}
