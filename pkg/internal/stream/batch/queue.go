package batch

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// minCost is what a batch counts at least, in bytes, so that a queue of tiny
// ones is bounded too.
const minCost = 1 << 10

// stallAfter is how long a required sink may ack nothing before a
// warning says which sink holds up the stream.
const stallAfter = 30 * time.Second

// Queue holds the batches waiting for the ack of a sink, including those that
// the sink has already received.
type Queue struct {
	Name     string // of the sink, without secrets
	Optional bool   // the sink goes without a batch rather than hold up the stream
	Size     int64  // bytes
	Log      *slog.Logger
	Stats    stats.Sink
	// Closed ends when the queue is closed.
	Closed context.Context

	room     *semaphore.Weighted
	ch       chan *Batch
	end      context.CancelFunc
	stalled  atomic.Bool
	dropping rate.Sometimes // limits warnings
}

// NewQueue returns an empty queue for the sink called name, which keeps up to size bytes.
func NewQueue(name string, optional bool, size int64, log *slog.Logger) *Queue {
	q := &Queue{
		Name: name, Optional: optional, Size: size, Log: log,
		room: semaphore.NewWeighted(size),
		ch:   make(chan *Batch, size/minCost),

		dropping: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	q.Closed, q.end = context.WithCancel(context.Background())
	return q
}

// Close says that nothing more is delivered.
func (q *Queue) Close() {
	close(q.ch)
	q.end()
}

// Batches returns the channel that the sink receives batches from. It is
// closed with the queue.
func (q *Queue) Batches() <-chan *Batch { return q.ch }

// Cost is what a batch counts in the queue, in bytes.
func (q *Queue) Cost(b *Batch) int64 {
	return min(q.Size, int64(max(minCost, len(b.Raw), len(b.Out))))
}

// Deliver puts a batch into all queues. It waits for room, but a sink that is optional
// goes without the batch if its queue has no room. The error is the cause of the end of ctx;
// the batch is not acked then.
func Deliver(ctx context.Context, queues []*Queue, b *Batch) error {
	b.users.Store(int32(len(queues)))
	for _, q := range queues {
		if !q.Optional {
			b.unacked.Add(1)
		}
	}
	if b.unacked.Load() == 0 && b.Acked != nil {
		defer b.Acked() // all sinks are optional
	}
	for i, q := range queues {
		if err := q.put(ctx, b); err != nil {
			for range queues[i:] {
				b.release()
			}
			return err
		}
	}
	return nil
}

// put appends a batch.
func (q *Queue) put(ctx context.Context, b *Batch) error {
	cost := q.Cost(b)
	if !q.room.TryAcquire(cost) {
		if q.Optional {
			q.drop(b)
			return nil
		}
		if err := q.wait(ctx, cost); err != nil {
			return err
		}
	}
	q.Stats.Queued.Add(cost)
	q.ch <- b // has room: every batch in it holds minCost at least
	return nil
}

func (q *Queue) wait(ctx context.Context, cost int64) error {
	t := time.AfterFunc(stallAfter, func() {
		if q.stalled.CompareAndSwap(false, true) {
			q.Log.Warn("sink takes nothing and holds up the stream", "sink", q.Name, "for", stallAfter)
			q.Trouble(errors.New("it holds up the stream"))
		}
	})
	defer t.Stop()
	return q.room.Acquire(ctx, cost)
}

// Ack says that the sink has the lines of a batch safely, and makes its room free.
func (q *Queue) Ack(b *Batch) {
	q.free(b)
	if q.stalled.CompareAndSwap(true, false) {
		q.Trouble(nil)
		q.Log.Warn("sink goes on", "sink", q.Name)
	}
	q.Stats.Lines.Add(int64(b.Lines))
	if !q.Optional && b.unacked.Add(-1) == 0 && b.Acked != nil {
		b.Acked()
	}
	b.release()
}

// Discard gives up a batch of an optional sink that has ended.
func (q *Queue) Discard(b *Batch) {
	q.free(b)
	q.drop(b)
}

// drop counts a batch that an optional sink does not get.
func (q *Queue) drop(b *Batch) {
	n := q.Stats.Dropped.Add(int64(b.Lines))
	q.dropping.Do(func() {
		q.Log.Warn("optional sink does not keep up: lines are dropped", "sink", q.Name, "dropped", n)
	})
	b.release()
}

// free makes the room of a batch free.
func (q *Queue) free(b *Batch) {
	cost := q.Cost(b)
	q.Stats.Queued.Add(-cost)
	q.room.Release(cost)
}

// Trouble records why the sink acks nothing; nil says that it does.
func (q *Queue) Trouble(err error) {
	if err == nil {
		q.Stats.Trouble.Store(nil)
		return
	}
	text := err.Error()
	q.Stats.Trouble.Store(&text)
}
