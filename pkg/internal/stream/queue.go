package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// minCost is what a batch counts at least, in bytes, so that a queue of tiny
// ones is bounded too.
const minCost = 1 << 10

// stallAfter is how long a required sink may ack nothing before a
// warning says which sink holds up the stream.
const stallAfter = 30 * time.Second

// queue holds the batches that a sink has not acked yet, including those that the
// sink has already received.
type queue struct {
	name     string // of the sink, without secrets
	optional bool   // the sink goes without a batch rather than hold up the stream
	size     int64  // bytes
	log      *slog.Logger
	stats    sinkCounts
	// closed ends when nothing more is put into the queue.
	closed context.Context

	room     *semaphore.Weighted
	ch       chan *batch
	end      context.CancelFunc
	stalled  atomic.Bool
	dropping rate.Sometimes // limits warnings
}

// newQueue returns an empty queue for the sink called name, which keeps up to size bytes.
func newQueue(name string, optional bool, size int64, log *slog.Logger) *queue {
	q := &queue{
		name: name, optional: optional, size: size, log: log,
		room: semaphore.NewWeighted(size),
		ch:   make(chan *batch, size/minCost),

		dropping: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	q.closed, q.end = context.WithCancel(context.Background())
	return q
}

// close says that nothing more is put.
func (q *queue) close() {
	close(q.ch)
	q.end()
}

// batches returns the channel that the sink receives batches from. It is
// closed with the queue.
func (q *queue) batches() <-chan *batch { return q.ch }

// cost is what a batch counts in the queue, in bytes.
func (q *queue) cost(b *batch) int64 {
	return min(q.size, int64(max(minCost, len(b.raw), len(b.out))))
}

// full reports whether the queue has no room for n bytes now.
func (q *queue) full(n int64) bool {
	if q.room.TryAcquire(n) {
		q.room.Release(n)
		return false
	}
	return true
}

// deliver puts a batch into all queues. It waits for room, but a sink that is optional
// goes without the batch if its queue has no room. The error is the cause of the end of ctx;
// the batch is not acked then.
func deliver(ctx context.Context, queues []*queue, b *batch) error {
	b.users.Store(int32(len(queues)))
	for _, q := range queues {
		if !q.optional {
			b.unacked.Add(1)
		}
	}
	if b.unacked.Load() == 0 && b.acked != nil {
		defer b.acked() // all sinks are optional
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
func (q *queue) put(ctx context.Context, b *batch) error {
	cost := q.cost(b)
	if !q.room.TryAcquire(cost) {
		if q.optional {
			q.drop(b)
			return nil
		}
		if err := q.wait(ctx, cost); err != nil {
			return err
		}
	}
	q.stats.queued.Add(cost)
	q.ch <- b // has room: every batch in it holds minCost at least
	return nil
}

func (q *queue) wait(ctx context.Context, cost int64) error {
	t := time.AfterFunc(stallAfter, func() {
		if q.stalled.CompareAndSwap(false, true) {
			q.log.Warn("consumer takes nothing and holds up the stream", "consumer", q.name, "for", stallAfter)
			q.trouble(errors.New("it holds up the stream"))
		}
	})
	defer t.Stop()
	return q.room.Acquire(ctx, cost)
}

// ack says that the sink has the lines of a batch safely, and makes its room free.
func (q *queue) ack(b *batch) {
	q.free(b)
	if q.stalled.CompareAndSwap(true, false) {
		q.trouble(nil)
		q.log.Warn("consumer goes on", "consumer", q.name)
	}
	q.stats.lines.Add(int64(b.lines))
	if !q.optional && b.unacked.Add(-1) == 0 && b.acked != nil {
		b.acked()
	}
	b.release()
}

// discard gives up a batch of an optional sink that has ended.
func (q *queue) discard(b *batch) {
	q.free(b)
	q.drop(b)
}

// drop counts a batch that an optional sink does not get.
func (q *queue) drop(b *batch) {
	n := q.stats.dropped.Add(int64(b.lines))
	q.dropping.Do(func() {
		q.log.Warn("optional consumer does not keep up: lines are dropped", "consumer", q.name, "dropped", n)
	})
	b.release()
}

// free makes the room of a batch free.
func (q *queue) free(b *batch) {
	cost := q.cost(b)
	q.stats.queued.Add(-cost)
	q.room.Release(cost)
}

// trouble records why the sink acks nothing; nil: it does.
func (q *queue) trouble(err error) {
	if err == nil {
		q.stats.trouble.Store(nil)
		return
	}
	text := err.Error()
	q.stats.trouble.Store(&text)
}
