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

// minCost is the minimum number of bytes that a batch occupies in a queue, see
// Queue.Cost. It limits how many tiny batches a queue can hold.
const minCost = 1 << 10

// stallAfter is how long a required sink may block the stream before a warning
// is logged.
const stallAfter = 30 * time.Second

// Queue holds the batches that a sink still has to ack, including those that the sink
// has already received.
type Queue struct {
	Name     string // of the sink, without secrets
	Optional bool   // skip batches when the queue is full, instead of blocking
	Size     int64  // bytes
	Log      *slog.Logger
	Stats    stats.Sink
	// Closed is canceled when the queue is closed.
	Closed context.Context

	room     *semaphore.Weighted
	ch       chan *Batch
	end      context.CancelFunc
	lines    atomic.Int64 // in queued batches
	stalled  atomic.Bool
	dropping rate.Sometimes // limits warnings
}

// NewQueue returns an empty queue for the named sink. size is the queue's limit in bytes.
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

// Close closes the queue. No batch may be delivered to it afterwards.
func (q *Queue) Close() {
	close(q.ch)
	q.end()
}

// Batches returns the channel from which the sink receives batches. Close closes the
// channel.
func (q *Queue) Batches() <-chan *Batch { return q.ch }

// Cost returns the number of bytes that a batch occupies in the queue.
func (q *Queue) Cost(b *Batch) int64 {
	return min(q.Size, int64(max(minCost, len(b.Raw), len(b.Out))))
}

// Deliver puts a batch into all queues. It waits for room in the queues of required
// sinks, and skips optional sinks whose queue is full. If ctx is done first,
// Deliver returns ctx's error, and the batch is never acked.
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

// put adds b to the queue. If the queue is full, put drops b if the sink is optional,
// and otherwise waits for room until ctx is done.
func (q *Queue) put(ctx context.Context, b *Batch) error {
	cost := q.Cost(b)
	if !q.room.TryAcquire(cost) {
		if q.Optional {
			n := q.Stats.Dropped.Add(int64(b.Lines))
			q.dropping.Do(func() {
				q.Log.Warn("optional sink is too slow, lines dropped", "sink", q.Name, "dropped", n)
			})
			b.release()
			return nil
		}
		if err := q.wait(ctx, cost); err != nil {
			return err
		}
	}
	q.Stats.Queued.Add(cost)
	q.lines.Add(int64(b.Lines))
	q.ch <- b // never blocks: each queued batch has acquired at least minCost
	return nil
}

func (q *Queue) wait(ctx context.Context, cost int64) error {
	t := time.AfterFunc(stallAfter, func() {
		if q.stalled.CompareAndSwap(false, true) {
			q.Log.Warn("sink accepts no lines, stream paused", "sink", q.Name, "for", stallAfter)
			q.Trouble(errors.New("it holds up the stream"))
		}
	})
	defer t.Stop()
	return q.room.Acquire(ctx, cost)
}

// Ack records that the sink has stored the lines of a batch, and frees the space that the
// batch takes up in the queue.
func (q *Queue) Ack(b *Batch) {
	q.free(b)
	if q.stalled.CompareAndSwap(true, false) {
		q.Trouble(nil)
		q.Log.Info("sink accepts lines again", "sink", q.Name)
	}
	q.Stats.Lines.Add(int64(b.Lines))
	if !q.Optional && b.unacked.Add(-1) == 0 && b.Acked != nil {
		b.Acked()
	}
	b.release()
}

// Discard drops a queued batch without acking it, and counts its lines as dropped. Use
// it for optional sinks that have ended.
func (q *Queue) Discard(b *Batch) {
	q.free(b)
	q.Stats.Dropped.Add(int64(b.Lines))
	b.release()
}

// CountLost counts the lines that an optional sink has not acked as dropped. Call it after
// the sink has ended. The lines of a required sink stay unacked instead.
func (q *Queue) CountLost() {
	if q.Optional {
		q.Stats.Dropped.Add(q.lines.Swap(0))
	}
}

// free releases the room that b takes up in the queue.
func (q *Queue) free(b *Batch) {
	cost := q.Cost(b)
	q.Stats.Queued.Add(-cost)
	q.lines.Add(-int64(b.Lines))
	q.room.Release(cost)
}

// Trouble records why the sink acks nothing at present. A nil err means that the sink
// works.
func (q *Queue) Trouble(err error) {
	if err == nil {
		q.Stats.Trouble.Store(nil)
		return
	}
	text := err.Error()
	q.Stats.Trouble.Store(&text)
}
