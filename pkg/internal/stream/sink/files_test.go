package sink

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// TestFilesWithUnusableFolder checks that a folder in which no file can be looked up is an
// error, and not an endless search for an unused name.
func TestFilesWithUnusableFolder(t *testing.T) {
	dir := t.TempDir()
	const length = 4080 - len("/turin/log") // the name of the file exceeds PATH_MAX
	for len(dir) < length {
		dir = filepath.Join(dir, strings.Repeat("d", min(200, length-len(dir))))
	}
	f, err := newFiles(batch.NewQueue("files", false, 1<<20, slog.New(slog.DiscardHandler)), dir, batch.Raw, true)
	if err != nil {
		t.Fatal(err)
	}
	f.pending = []*batch.Batch{{Origin: &batch.Origin{Probe: "turin", Type: "log"}, Out: []byte("x\n")}}
	done := make(chan error, 1)
	go func() { done <- f.write() }()
	select {
	case err := <-done:
		if !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no end")
	}
}
