package batch_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// TestBatchIsAckedByAllRequiredSinks delivers a batch to two required sinks and an
// optional sink. Acked must be called when both required sinks have acked.
func TestBatchIsAckedByAllRequiredSinks(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	a, b, optional := batch.NewQueue("a", false, 1<<20, log), batch.NewQueue("b", false, 1<<20, log), batch.NewQueue("c", true, 1<<20, log)
	acked := 0
	in := &batch.Batch{Out: []byte("x\n"), Lines: 1, Acked: func() { acked++ }}
	if err := batch.Deliver(t.Context(), []*batch.Queue{a, optional, b}, in); err != nil {
		t.Fatal(err)
	}
	for i, q := range []*batch.Queue{a, optional, b} {
		if acked != 0 {
			t.Fatalf("acked before sink %d", i)
		}
		q.Ack(<-q.Batches())
		if q.Stats.Lines.Load() != 1 || q.Stats.Queued.Load() != 0 {
			t.Errorf("sink %d: %d lines acked, %d bytes queued", i, q.Stats.Lines.Load(), q.Stats.Queued.Load())
		}
	}
	if acked != 1 {
		t.Errorf("acked %d times, want once", acked)
	}
}

// TestFullOptionalQueueDropsBatch fills the queue of an optional sink. Further
// batches must be dropped without waiting for room.
func TestFullOptionalQueueDropsBatch(t *testing.T) {
	q := batch.NewQueue("slow", true, 4<<10, slog.New(slog.DiscardHandler))
	for range 6 {
		if err := batch.Deliver(t.Context(), []*batch.Queue{q}, &batch.Batch{Out: make([]byte, 1<<10), Lines: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if n := q.Stats.Dropped.Load(); n != 20 {
		t.Errorf("%d lines dropped, want 20", n)
	}
}

// TestFullWindowWaitsForSave reserves a whole window. Acked bytes must not make
// room until they are saved.
func TestFullWindowWaitsForSave(t *testing.T) {
	w := batch.NewWindow(100)
	if err := w.Reserve(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	w.Ack(60)
	full, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Reserve(full, 50); !errors.Is(err, context.Canceled) {
		t.Errorf("a full window: %v", err)
	}
	w.Save(w.Snapshot())
	if err := w.Reserve(t.Context(), 50); err != nil {
		t.Error(err)
	}
}
