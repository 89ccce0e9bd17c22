package source

import (
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"testing"
)

// TestConcurrentSavesKeepNewestPosition lets two followers save the checkpoint at the same
// time. The file then has the newest position of both.
func TestConcurrentSavesKeepNewestPosition(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	c, err := openCheckpoint(path, 1<<20, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for round := range int64(100) {
		var wg sync.WaitGroup
		for _, root := range []string{"a", "b", "c", "d"} {
			wg.Go(func() {
				c.ack(root, "log", round+1, position{Folder: "f", Offset: round}, 0)
				if err := c.save(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := c.save(); err != nil { // as at the end of a stream
			t.Fatal(err)
		}
		again, err := openCheckpoint(path, 1<<20, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for root, logs := range c.state.Roots {
			if !maps.Equal(again.state.Roots[root], logs) {
				t.Fatalf("round %d: the file has %v, want %v", round, again.state.Roots[root], logs)
			}
		}
	}
}
