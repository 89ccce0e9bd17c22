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

// stallAfter is how long a required consumer may take nothing before a
// warning says who holds up the stream.
const stallAfter = 30 * time.Second

// queue holds the batches that a consumer has not taken yet, those under way
// included.
type queue struct {
	name     string
	optional bool
	size     int64 // bytes
	log      *slog.Logger

	room *semaphore.Weighted
	ch   chan *batch
	over context.Context // ends with close
	end  context.CancelFunc

	stats    consumerStats
	stalled  atomic.Bool
	dropping rate.Sometimes // warns
}

func newQueue(name string, optional bool, size int64, log *slog.Logger) *queue {
	q := &queue{
		name: name, optional: optional, size: size, log: log,
		room: semaphore.NewWeighted(size),
		ch:   make(chan *batch, size/minCost),

		dropping: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	q.over, q.end = context.WithCancel(context.Background())
	return q
}

// close says that nothing more is put.
func (q *queue) close() {
	close(q.ch)
	q.end()
}

// cost is what a batch counts in the queue.
func (q *queue) cost(b *batch) int64 {
	return min(q.size, int64(max(minCost, len(b.raw), len(b.out))))
}

// put appends a batch. It waits for room, or drops the batch if the consumer
// is optional.
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

func (q *queue) drop(b *batch) {
	n := q.stats.dropped.Add(int64(b.lines))
	q.dropping.Do(func() {
		q.log.Warn("optional consumer does not keep up: lines are dropped", "consumer", q.name, "dropped", n)
	})
	q.unused(b)
}

// unused takes back one use of a batch.
func (q *queue) unused(b *batch) {
	if b.readers.Add(-1) == 0 {
		b.free()
	}
}

// done says that the consumer has taken a batch, or that it is optional and
// gave it up.
func (q *queue) done(b *batch) {
	q.leave(b)
	if q.stalled.CompareAndSwap(true, false) {
		q.trouble(nil)
		q.log.Warn("consumer goes on", "consumer", q.name)
	}
	q.stats.lines.Add(int64(b.lines))
	if !q.optional && b.required.Add(-1) == 0 && b.taken != nil {
		b.taken()
	}
	q.unused(b)
}

// discard gives up a batch of an optional consumer that has ended.
func (q *queue) discard(b *batch) {
	q.leave(b)
	q.drop(b)
}

// leave makes the room of a batch free.
func (q *queue) leave(b *batch) {
	cost := q.cost(b)
	q.stats.queued.Add(-cost)
	q.room.Release(cost)
}

// trouble notes why the consumer takes nothing; nil: it does.
func (q *queue) trouble(err error) {
	if err == nil {
		q.stats.trouble.Store(nil)
		return
	}
	text := err.Error()
	q.stats.trouble.Store(&text)
}
