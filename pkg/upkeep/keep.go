package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/dest"
	"github.com/tstatrepo/tstatrepo/pkg/retry"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/stores"
)

// Before is the start of the first UTC day that stays if rows are kept for
// that long: days that ended at least that long ago go.
func Before(now time.Time, keep time.Duration) time.Time {
	return now.UTC().Add(-keep).Truncate(24 * time.Hour)
}

// Options of Start. Stores that cannot be compacted are only pruned.
type Options struct {
	To           []string      // destinations, see stores.Open
	Keep         time.Duration // how long rows stay; 0: for ever
	Compact      bool          // what is over, as store.CompactOptions has it by default
	Every        time.Duration // 0: a day
	RetryTimeout time.Duration // how long a database that is away is waited for
	Log          *slog.Logger  // nil: none
}

// Enabled reports whether there is anything to do.
func (o *Options) Enabled() bool { return o.Keep > 0 || o.Compact }

// Status is what was done to a store since Start.
type Status struct {
	Store       string // without secrets
	Failed      int64  // rounds that failed
	LastSuccess time.Time
	Pruned      store.PruneResult
	Compacted   store.CompactResult
}

// Keeper looks after stores beside the imports into them.
type Keeper struct {
	opt  Options
	done chan struct{}

	mu     sync.Mutex
	status []Status
}

// tryAgain is when a round that failed is repeated, if the next one is not
// earlier.
const tryAgain = time.Hour

// Start compacts and prunes at once and then regularly, until ctx ends. What
// goes wrong is told in the log and counted.
func Start(ctx context.Context, opt Options) *Keeper {
	if opt.Every == 0 {
		opt.Every = 24 * time.Hour
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{opt: opt, done: make(chan struct{})}
	for _, to := range opt.To {
		k.status = append(k.status, Status{Store: dest.Redact(to)})
	}
	go func() {
		defer close(k.done)
		if opt.Enabled() {
			k.run(ctx)
		}
	}()
	return k
}

// Wait returns when what was under way as ctx ended has stopped.
func (k *Keeper) Wait() { <-k.done }

// Status returns what was done so far, in the order of the destinations. If
// there is nothing to do, there is none. Neither has a nil Keeper any.
func (k *Keeper) Status() []Status {
	if k == nil || !k.opt.Enabled() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.status)
}

func (k *Keeper) run(ctx context.Context) {
	for {
		wait := k.opt.Every
		for i, dest := range k.opt.To {
			err := k.one(ctx, i, dest)
			if ctx.Err() != nil {
				return
			}
			k.mu.Lock()
			if err == nil {
				k.status[i].LastSuccess = time.Now()
			} else {
				k.status[i].Failed++
				wait = min(wait, tryAgain)
				k.opt.Log.Error("the store could not be looked after", "store", k.status[i].Store, "err", err)
			}
			k.mu.Unlock()
		}
		if retry.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// one looks after a store, which it opens for itself.
func (k *Keeper) one(ctx context.Context, i int, dest string) (err error) {
	st, err := stores.Open(ctx, dest, stores.Options{Log: k.opt.Log, RetryTimeout: k.opt.RetryTimeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if k.opt.Keep > 0 {
		res, err := st.Prune(ctx, Before(time.Now(), k.opt.Keep), false)
		k.mu.Lock()
		p := &k.status[i].Pruned
		p.Files += res.Files
		p.Rows += res.Rows
		p.Bytes += res.Bytes
		k.mu.Unlock()
		if res.Files > 0 {
			k.opt.Log.Info("pruned", "store", st.String(), "files", res.Files, "rows", res.Rows)
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
	p := &k.status[i].Compacted
	p.Days += res.Days
	p.Files += res.Files
	p.Into += res.Into
	p.Rows += res.Rows
	p.Bytes += res.Bytes
	p.Failed += res.Failed
	k.mu.Unlock()
	if res.Days > 0 {
		k.opt.Log.Info("compacted", "store", st.String(), "days", res.Days, "files", res.Files, "into", res.Into)
	}
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("%d days were not compacted", res.Failed)
	}
	return err
}
