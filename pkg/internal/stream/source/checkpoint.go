package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// checkpointFormat is the format number of the state file that holds the checkpoint.
const checkpointFormat = 1

// saveEvery is the interval at which acked positions are saved.
const saveEvery = time.Second

// saved is what a checkpoint keeps in its state file.
type saved struct {
	// Session identifies this exporter to endpoints; see tstatrepo-ack(7).
	Session string `json:"session"`
	// Roots holds the positions by root ("PROBE PATH") and log name.
	Roots map[string]map[string]position `json:"roots"`
}

// position is the position up to which a log is acked.
type position struct {
	Folder string `json:"folder"`
	Offset int64  `json:"offset"` // bytes of decompressed text
	// Head is the SHA-256 of the first HeadLength bytes of text. It detects
	// different content under the same name.
	Head       string `json:"head"`
	HeadLength int    `json:"head_length"`

	// inOverlong means that Offset is inside an overlong line, whose rest must be
	// skipped. Saved positions are at the start of a line.
	inOverlong bool
}

// checkpoint saves the positions of followed logs.
type checkpoint struct {
	path string
	log  *slog.Logger

	window *batch.Window
	saving sync.Mutex // held while the file is written: older positions must not replace newer ones

	mu      sync.Mutex
	state   saved
	numbers map[string]int64 // highest number of an acked delivery by root and log, see ack
	dirty   bool             // there are unsaved positions
}

// openCheckpoint loads the checkpoint from path, or creates it. Sources may
// deliver up to window bytes beyond the saved positions.
func openCheckpoint(path string, window int64, log *slog.Logger) (*checkpoint, error) {
	c := &checkpoint{path: path, window: batch.NewWindow(window), log: log, numbers: map[string]int64{}}
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

// positions returns the saved positions of a root by log name.
func (c *checkpoint) positions(root string) map[string]position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.state.Roots[root])
}

// enter records that the reader of a log has reached the start of a folder. It does
// nothing while earlier lines of the log are unacked. number identifies the log's last
// delivery, see ack.
func (c *checkpoint) enter(root, log string, number int64, folder string) {
	c.mu.Lock()
	drained := c.numbers[root+"\x00"+log] == number
	c.mu.Unlock()
	if drained {
		c.ack(root, log, number, position{Folder: folder}, 0)
	}
}

// ack records that a delivery of n bytes was acked, and that p is the position in the log
// after it. number counts the log's deliveries. Calls may arrive out of order; a call with
// a lower number than an earlier call does not change the position.
func (c *checkpoint) ack(root, log string, number int64, p position, n int64) {
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
	c.window.Ack(n)
	c.mu.Unlock()
}

// run saves positions periodically until ctx is done. The caller must call save
// afterwards.
func (c *checkpoint) run(ctx context.Context) {
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	var saving retry.Alarm
	for {
		select {
		case <-c.window.Due():
		case <-t.C:
		case <-ctx.Done():
			return
		}
		err := c.save()
		saving.Set(err, c.log, "position cannot be saved: the stream pauses when the window is full", "position saved again")
		if err != nil {
			retry.Sleep(ctx, saveEvery)
		}
	}
}

// save saves the acked positions.
func (c *checkpoint) save() error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	acked := c.window.Snapshot()
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
	c.window.Save(acked)
	return nil
}
