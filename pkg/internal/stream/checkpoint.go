package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

// checkpointFormat is the format number of the state file.
const checkpointFormat = 1

// saveEvery is how long a confirmed position may wait until it is saved.
const saveEvery = time.Second

// saved is what the state file holds.
type saved struct {
	// Session names this exporter to endpoints, see tstatrepo-ack(7).
	Session string `json:"session"`
	// Roots are the followed folders, by probe and path.
	Roots map[string]map[string]position `json:"roots"`
}

// position is up to where a log is with all required consumers.
type position struct {
	Folder string `json:"folder"`
	Offset int64  `json:"offset"` // of text
	// Head is the SHA-256 of the first HeadLength bytes of text, to notice
	// other content under the same name.
	Head       string `json:"head"`
	HeadLength int    `json:"head_length"`
}

// checkpoint saves the positions of followed logs.
type checkpoint struct {
	path string
	log  *slog.Logger

	window  // its lock is for what follows too
	state   saved
	numbers map[string]int64 // of the last position taken, by root and log
	dirty   bool             // something is to be saved
}

// statePath is the file of a run's state: kind "checkpoint" or "layouts".
func statePath(opt *Options, kind string) string {
	return filepath.Join(opt.StateDir, "stream", opt.Name+"."+kind)
}

func openCheckpoint(opt *Options, log *slog.Logger) (*checkpoint, error) {
	c := &checkpoint{
		path: statePath(opt, "checkpoint"), window: newWindow(opt.Window), log: log, numbers: map[string]int64{},
	}
	err := state.Load(c.path, checkpointFormat, &c.state)
	if errors.Is(err, fs.ErrNotExist) {
		c.state = saved{Session: rand.Text(), Roots: map[string]map[string]position{}}
		err = state.Save(c.path, checkpointFormat, c.state)
	}
	if err != nil {
		return nil, err
	}
	if c.state.Roots == nil {
		c.state.Roots = map[string]map[string]position{}
	}
	return c, nil
}

// of returns the saved positions of a root.
func (c *checkpoint) of(root string) map[string]position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.state.Roots[root])
}

// enter notes that a log has come to the begin of a folder, unless lines
// before it are not confirmed yet; number is that of the last ones.
func (c *checkpoint) enter(root, log string, number int64, folder string) {
	c.mu.Lock()
	settled := c.numbers[root+"\x00"+log] == number
	c.mu.Unlock()
	if settled {
		c.confirm(root, log, number, position{Folder: folder}, 0)
	}
}

// confirm takes the position of a log after n bytes more. Calls may overtake
// each other; number tells their order.
func (c *checkpoint) confirm(root, log string, number int64, p position, n int64) {
	c.mu.Lock()
	key := root + "\x00" + log
	if number >= c.numbers[key] {
		c.numbers[key] = number
		if c.state.Roots[root] == nil {
			c.state.Roots[root] = map[string]position{}
		}
		c.state.Roots[root][log] = p
	}
	c.dirty = true
	poke := c.add(n)
	c.mu.Unlock()
	if poke {
		c.poke()
	}
}

// run saves positions until ctx ends; call save then.
func (c *checkpoint) run(ctx context.Context) {
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	var saving retry.Alarm
	for {
		select {
		case <-c.wake:
		case <-t.C:
		case <-ctx.Done():
			return
		}
		err := c.save()
		saving.Set(err, c.log, "the position cannot be saved: the stream pauses when the window is full", "the position is saved again")
		if err != nil {
			retry.Sleep(ctx, saveEvery)
		}
	}
}

// save writes what is confirmed.
func (c *checkpoint) save() error {
	c.mu.Lock()
	confirmed := c.confirmed
	if !c.dirty {
		c.mu.Unlock()
		return nil
	}
	c.dirty = false
	snapshot := saved{Session: c.state.Session, Roots: map[string]map[string]position{}}
	for root, logs := range c.state.Roots {
		snapshot.Roots[root] = maps.Clone(logs)
	}
	c.mu.Unlock()
	if err := state.Save(c.path, checkpointFormat, snapshot); err != nil {
		c.mu.Lock()
		c.dirty = true
		c.mu.Unlock()
		return fmt.Errorf("position of the stream: %w", err)
	}
	c.window.saved(confirmed)
	return nil
}
