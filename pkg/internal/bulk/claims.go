package bulk

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// DefaultClaimTime is the default of Options.ClaimTime. It leaves a slow server enough
// time to renew claims. A longer time would delay the import of files that were claimed
// by an importer that died.
const DefaultClaimTime = 2 * time.Minute

// Limits on how many files are claimed at once. They are low so that several importers
// share the work evenly to the end, but high enough to claim several small files.
const (
	claimFiles = 32
	claimBytes = 8 << 20 // on disk
)

// Bounds of the interval at which files claimed by other importers are checked. The
// interval is about a tenth of the time waited so far, so the total wait is at most
// about a tenth too long.
const (
	minClaimWait    = 20 * time.Millisecond
	maxClaimWait    = 5 * time.Second
	reportClaimWait = 2 * time.Second // shorter waits are not reported
)

// releaseTime limits the time for releasing claims at the end of a pass. Claims
// that are not released expire.
const releaseTime = 3 * time.Second

// claims hands out the files of a pass to its workers. If several importers share stores,
// it first claims (reserves) each file in all shared stores, or in none. It skips
// unavailable stores: claims only avoid duplicate work, and Commit guarantees that each
// file is stored once.
type claims struct {
	*run
	share bool // with other importers

	// mu is locked during requests to stores, so that no claim is renewed
	// while it is released.
	mu     sync.Mutex
	todo   [][]*task          // not claimed yet
	ready  [][]*task          // claimed, not handed out yet
	others [][]*task          // claimed by other importers
	held   map[store.Key]bool // claimed or possibly claimed
	done   []store.Key        // to release

	stop func() // ends the renewal
}

// claimer is a store in which several importers can claim files.
type claimer struct {
	*dest
	store.Claimer
}

// claimers returns the available shared stores. They are sorted by name, so that all
// importers claim in the same order and do not block each other.
func (r *run) claimers() (shared []claimer) {
	for _, d := range r.available(r.passStores) {
		st, _ := d.store()
		if s, ok := st.(store.Claimer); ok {
			shared = append(shared, claimer{d, s})
		}
	}
	slices.SortStableFunc(shared, func(a, b claimer) int { return strings.Compare(a.dest.String(), b.dest.String()) })
	return shared
}

// Name and format of the state file with the random ID of this importer; see
// claimOwner.
const (
	importerFile   = "importer"
	importerFormat = 1
)

// claimOwner returns the name under which an import claims files. A restarted
// import has the same name, so that it does not wait for its own claims.
// Concurrent imports have different names, because they hold different locks.
func claimOwner(stateDir string, locks []string) (string, error) {
	var importer struct{ ID string }
	file := filepath.Join(stateDir, importerFile)
	err := state.Load(file, importerFormat, &importer)
	if errors.Is(err, fs.ErrNotExist) {
		importer.ID = rand.Text()
		err = state.Save(file, importerFormat, importer)
	}
	if err != nil {
		return "", err
	}
	host, _ := os.Hostname()
	locks = slices.Sorted(slices.Values(locks))
	sum := sha256.Sum256([]byte(strings.Join(locks, "\x00\x00")))
	return fmt.Sprintf("%s/%s/%x", cmp.Or(host, "unknown"), importer.ID, sum[:8]), nil
}

// newClaims returns claims with no files yet. If several importers share stores, it also
// starts renewing the claims in the background. The caller must call close.
func (r *run) newClaims(ctx context.Context) (*claims, error) {
	c := &claims{run: r, held: map[store.Key]bool{}, stop: func() {}}
	if r.opt.DryRun || len(r.claimers()) == 0 {
		return c, nil
	}
	if r.owner == "" {
		var err error
		if r.owner, err = claimOwner(r.opt.StateDir, r.locks); err != nil {
			return nil, err
		}
	}
	c.share = true
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		tick := time.NewTicker(r.opt.ClaimTime / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				c.renew(ctx)
			}
		}
	})
	c.stop = func() {
		cancel()
		renewal.Wait()
	}
	return c, nil
}

// close releases all claims, even after an error or an interrupt.
func (c *claims) close(ctx context.Context) {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.held {
		c.drop(k)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	c.release(ctx)
}

// add adds files to hand out, grouped by key.
func (c *claims) add(groups [][]*task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.share {
		c.ready = append(c.ready, groups...)
		return
	}
	c.todo = append(c.todo, groups...)
}

// next returns the next group of files to import, or nil after the last. An
// error ends the pass.
func (c *claims) next(ctx context.Context) ([]*task, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ready) == 0 && len(c.todo) > 0 {
		if err := c.claimNext(ctx); err != nil {
			return nil, err
		}
	}
	if len(c.ready) == 0 {
		c.release(ctx)
		return nil, nil
	}
	g := c.ready[0]
	c.ready = c.ready[1:]
	return g, nil
}

// finished marks a group returned by next as finished. Its claim is released
// later, together with other claims.
func (c *claims) finished(g []*task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(g[0].key)
}

// drop marks the claim on k for release. The caller must hold c.mu.
func (c *claims) drop(k store.Key) {
	if c.held[k] {
		delete(c.held, k)
		c.done = append(c.done, k)
	}
}

// removeOthers returns the files claimed by other importers, and removes them from c.
func (c *claims) removeOthers() []*task {
	c.mu.Lock()
	defer c.mu.Unlock()
	tasks := slices.Concat(c.others...)
	c.others = nil
	return tasks
}

// claimNext claims the next files and checks again whether they are stored:
// another importer may have stored them before it released its claim. The
// caller must hold c.mu.
func (c *claims) claimNext(ctx context.Context) error {
	c.release(ctx)
	var batch [][]*task
	var keys []store.Key
	var size int64
	for len(c.todo) > 0 && len(batch) < claimFiles && (len(batch) == 0 || size+c.todo[0][0].size <= claimBytes) {
		g := c.todo[0]
		c.todo = c.todo[1:]
		batch = append(batch, g)
		for _, t := range g {
			size += t.size
		}
		if claimable(g) {
			keys = append(keys, g[0].key)
		}
	}
	got, err := c.claim(ctx, keys)
	if err != nil {
		return err
	}
	var mine []*task
	for _, g := range batch {
		switch {
		case !claimable(g):
			c.ready = append(c.ready, g)
		case got[g[0].key]:
			mine = append(mine, g...)
		default:
			c.others = append(c.others, g)
		}
	}
	groups, stored, err := c.skipStored(ctx, mine)
	if err != nil {
		return err
	}
	c.ready = append(c.ready, groups...)
	for _, g := range groups {
		g[0].fresh = true
		delete(got, g[0].key)
	}
	for k := range got {
		c.drop(k)
	}
	c.countOthers(stored)
	return nil
}

// claimable reports whether the files of group g can be claimed. Their key must be
// known, and a later pass must be able to read them.
func claimable(g []*task) bool { return g[0].key.Folder != "" && !g[0].stdin }

// claim claims keys in all available shared stores. It returns the keys that all these
// stores granted, or all keys if no such store is available. The caller must hold c.mu.
func (c *claims) claim(ctx context.Context, keys []store.Key) (map[store.Key]bool, error) {
	for _, k := range keys { // a failed call may have claimed keys too
		c.held[k] = true
	}
	got := setOf(keys)
	shared := c.claimers()
	for _, s := range shared {
		if len(got) == 0 {
			break
		}
		err := c.use(ctx, s.dest, func(store.Store) error {
			granted, err := s.Claim(ctx, c.owner, sorted(got), c.opt.ClaimTime)
			if err == nil {
				got = setOf(granted)
			}
			return err
		})
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			return nil, err
		}
	}
	for _, k := range keys {
		switch {
		case got[k]:
		case len(shared) == 1:
			delete(c.held, k)
		default: // one of the stores may have granted the claim
			c.drop(k)
		}
	}
	if len(shared) > 1 {
		c.release(ctx) // at once: other importers may wait for these files
	}
	return got, nil
}

func setOf(keys []store.Key) map[store.Key]bool {
	set := make(map[store.Key]bool, len(keys))
	for _, k := range keys {
		set[k] = true
	}
	return set
}

// sorted returns the keys of a set in an order that is the same for all
// importers.
func sorted(set map[store.Key]bool) []store.Key {
	keys := make([]store.Key, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b store.Key) int {
		return cmp.Or(strings.Compare(a.Probe, b.Probe), strings.Compare(a.Folder, b.Folder), strings.Compare(a.File, b.File))
	})
	return keys
}

// release releases the claims that are marked for release. If that fails, the next call
// repeats it, except for files that were claimed again. The caller must hold c.mu.
func (c *claims) release(ctx context.Context) {
	c.done = slices.DeleteFunc(c.done, func(k store.Key) bool { return c.held[k] })
	if len(c.done) == 0 {
		return
	}
	failed := false
	for _, s := range c.claimers() {
		if err := s.Release(ctx, c.owner, c.done); err != nil {
			failed = true
			c.log.Debug("claims not released", "store", s.dest.String(), "err", err)
		}
	}
	if !failed {
		c.done = nil
	}
}

// renew renews all claims. If a server or this process was suspended for too long,
// other importers may now hold some of them. renew leaves these files to the other
// importers, except for files whose import has started here. For those, Commit
// guarantees that each file is stored once.
func (c *claims) renew(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.opt.ClaimTime/3)
	defer cancel()
	keys := sorted(c.held)
	for _, s := range c.claimers() {
		granted, err := s.Claim(ctx, c.owner, keys, c.opt.ClaimTime)
		if err != nil {
			c.log.Debug("claims not renewed", "store", s.dest.String(), "err", err)
			continue
		}
		mine := setOf(granted)
		c.ready = slices.DeleteFunc(c.ready, func(g []*task) bool {
			lost := claimable(g) && !mine[g[0].key]
			if lost {
				c.drop(g[0].key)
				c.others = append(c.others, g)
			}
			return lost
		})
	}
}

// countOthers counts the files of tasks as stored by other importers since this pass
// found them missing.
func (r *run) countOthers(tasks []*task) {
	for _, t := range tasks {
		r.opt.Progress.Add(t.size, 0)
		r.count(t, func(s *TypeSummary) { s.Others++ })
		r.done(t)
	}
}

// work imports the files of the given groups, and returns those that other importers have
// claimed.
func (r *run) work(ctx context.Context, c *claims, groups [][]*task) (left []*task, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.add(groups)
	workers := r.opt.Jobs
	if !r.anyTyped() {
		workers *= 2 // half of them wait for the disk, see fileImport.commit
	}
	var wg sync.WaitGroup
	for range min(workers, len(groups)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				g, err := c.next(ctx)
				if err != nil {
					cancel(err)
				}
				if g == nil {
					return
				}
				// Files of one key are imported in sequence, because the
				// records of the first affect the second.
				for _, t := range g {
					if err := r.do(ctx, t); err != nil {
						cancel(err)
					}
				}
				c.finished(g)
			}
		})
	}
	wg.Wait()
	return c.removeOthers(), context.Cause(ctx)
}

// workAll imports the files of the given groups. Without Options.Follow it also waits
// until the files claimed by other importers are stored. If these claims expire, workAll
// imports the files itself.
func (r *run) workAll(ctx context.Context, groups [][]*task) error {
	c, err := r.newClaims(ctx)
	if err != nil {
		return err
	}
	defer c.close(ctx)
	var begun time.Time // of the wait
	for reported := false; ; {
		left, err := r.work(ctx, c, groups)
		if err != nil || r.opt.Follow || len(left) == 0 {
			r.recordClaimed(left)
			return err
		}
		if begun.IsZero() {
			begun = time.Now()
		}
		waited := time.Since(begun)
		if !reported && waited >= reportClaimWait {
			reported = true
			r.log.Info("waiting for files claimed by another importer", "files", len(left))
		}
		wait := min(max(waited/10, minClaimWait), maxClaimWait)
		select {
		case <-ctx.Done():
			r.recordClaimed(left)
			return ctx.Err()
		case <-time.After(wait/2 + mathrand.N(wait)):
		}
		var stored []*task
		if groups, stored, err = r.skipStored(ctx, left); err != nil {
			r.recordClaimed(left)
			return err
		}
		r.countOthers(stored)
	}
}

// recordClaimed counts the files that are left to other importers, and records their keys
// for the next pass.
func (r *run) recordClaimed(tasks []*task) {
	r.claimed = map[store.Key]bool{}
	for _, t := range tasks {
		r.claimed[t.key] = true
		r.count(t, func(s *TypeSummary) { s.Claimed++ })
	}
}
