package sink

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// TestPumpEndsWithEmptyQueue closes the queue of an unavailable sink. A pump with
// an empty queue ends. A pump with a queued batch tries at once to open the sink.
func TestPumpEndsWithEmptyQueue(t *testing.T) {
	for lacks, want := range map[bool]error{false: nil, true: context.Canceled} {
		q := batch.NewQueue("away", false, 1<<20, slog.New(slog.DiscardHandler))
		tries := make(chan bool, 2)
		p := newPump(q, func(b *batch.Batch) []byte { return b.Raw }, func(context.Context, func(int64)) (session, error) {
			tries <- true
			return nil, errors.New("away")
		}, retry.New(time.Hour, time.Hour))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		try := func() {
			t.Helper()
			select {
			case <-tries:
			case <-time.After(time.Minute):
				t.Fatalf("lacks something: %t: it is not tried", lacks)
			}
		}
		try()
		if lacks {
			if err := batch.Deliver(ctx, []*batch.Queue{q}, &batch.Batch{Raw: []byte("x\n"), Lines: 1}); err != nil {
				t.Fatal(err)
			}
		}
		q.Close()
		if lacks {
			try()
			cancel()
		}
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Errorf("lacks something: %t: %v", lacks, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("lacks something: %t: it does not end", lacks)
		}
		cancel()
	}
}
