package service

import (
	"log/slog"
	"runtime/debug"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// TestReloadAppliesMemory checks that a reload that gives the stores more memory raises
// the limit of the garbage collector too. Otherwise the collector would run all the time.
func TestReloadAppliesMemory(t *testing.T) {
	former := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(former)
	shared := NewShared(slog.DiscardHandler)
	options := func(memory int64) Options {
		return Options{Shared: shared, Repository: repository.Options{Logs: &repository.LogsOptions{
			Math:   mathproto.RepositoryOptions{Listen: []peer.Options{{Addr: "127.0.0.1:0"}}},
			Stores: repository.StoreOptions{Memory: memory},
		}}}
	}
	start := options(1 << 20)
	svc, err := New(start)
	if err != nil {
		t.Fatal(err)
	}
	debug.SetMemoryLimit(start.Memory())
	next := options(2 << 30)
	svc.reload(func() (*Change, error) { return &Change{Options: next, Applied: []string{"collect-log.memory"}}, nil })
	if limit := debug.SetMemoryLimit(-1); limit != next.Memory() {
		t.Errorf("the limit is %d, want %d", limit, next.Memory())
	}
}
