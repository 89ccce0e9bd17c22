package bulk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// maxCopies is the maximum number of copies that are recorded. Any others are read again
// in each run.
const maxCopies = 100_000

// copiesFormat is the format number of the state file that holds the known copies.
const copiesFormat = 1

// copies records, across runs, which files are older states or second copies of
// stored logs. Stores have no records of such files, so without copies every run
// would read these files again.
type copies struct {
	path string // path of the state file; "" disables copies
	part bool   // the run sees only some of the files, so it keeps the entries of the others

	mu    sync.Mutex
	known map[string]bool // from the last run
	seen  map[string]bool // in this run
}

// loadCopies loads the copies that the last run saved at path. A missing or damaged state
// file is not an error: this run reads the copies again. Set part if this run sees only
// some of the files.
func loadCopies(path string, part bool) (*copies, error) {
	c := &copies{path: path, part: part, known: map[string]bool{}, seen: map[string]bool{}}
	if path == "" {
		return c, nil
	}
	var ids []string
	err := state.Load(path, copiesFormat, &ids)
	if errors.Is(err, state.ErrNewer) {
		return nil, err
	}
	if err == nil {
		for _, id := range ids {
			c.known[id] = true
		}
	}
	return c, nil
}

// copyID returns an ID for the fact that t's file, in its current version, is a copy of a
// stored log. rec is the record of that log, and to.String() names its store.
func copyID(t *task, to fmt.Stringer, rec *store.Record) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %d %d %q %q %q", t.path, t.size, t.mtime.UnixNano(), to.String(), rec.Key, rec.Text()))
	return hex.EncodeToString(sum[:16])
}

// find searches records for a log of which t's file is a known copy. It returns the first
// such record, or nil. All records come from the store named by to.String().
func (c *copies) find(t *task, to fmt.Stringer, records []store.Record) *store.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) == 0 {
		return nil
	}
	for i := range records {
		if id := copyID(t, to, &records[i]); c.known[id] {
			c.seen[id] = true
			return &records[i]
		}
	}
	return nil
}

func (c *copies) add(t *task, to fmt.Stringer, rec *store.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) < maxCopies {
		c.seen[copyID(t, to, rec)] = true
	}
}

// save replaces the copies saved by the last run with those seen in this run. If c.part
// is set, it also keeps the copies of the last run.
func (c *copies) save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path == "" || maps.Equal(c.known, c.seen) {
		return nil
	}
	if c.part {
		for id := range c.known {
			if len(c.seen) < maxCopies {
				c.seen[id] = true
			}
		}
	}
	c.known = maps.Clone(c.seen)
	return state.Save(c.path, copiesFormat, slices.Sorted(maps.Keys(c.seen)))
}
