// Package retry retries operations with increasing delays.
package retry

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// Backoff determines the delays between attempts. The delay doubles after each attempt,
// up to a maximum. A random part, at most half, is subtracted from each delay, so that
// clients that were disconnected at the same moment do not all reconnect at once.
type Backoff struct{ min, max, next time.Duration }

// New returns a Backoff whose first delay is at most min and whose later delays
// are at most max.
func New(min, max time.Duration) *Backoff { return &Backoff{min, max, min} }

// Next returns the next delay.
func (b *Backoff) Next() time.Duration {
	d := b.next
	if b.next > b.max/2 {
		b.next = max(b.min, b.max)
	} else {
		b.next *= 2
	}
	return d/2 + rand.N(d-d/2+1)
}

// Reset makes the next delay as short as the first. Call it after a success.
func (b *Backoff) Reset() { b.next = b.min }

// Wait waits for the next delay. If ctx is done first, Wait returns the cause of ctx.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits for d. If ctx is done first, Sleep returns the cause of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return context.Cause(ctx)
}

// Policy selects which errors are retried and for how long.
type Policy struct {
	// Transient reports whether an error may be temporary. Do returns any
	// other error at once.
	Transient func(error) bool
	// Limit is the maximum time from the first failure to the start of the last
	// attempt. With 0 there is only one attempt; with math.MaxInt64 Do retries until
	// ctx is done.
	Limit time.Duration
	// Retrying is called once, after the first failure, if another attempt
	// follows. It may be nil.
	Retrying func(error)
	// Min and Max limit the delays, as in New; 0 means 100ms and 15s, respectively.
	Min, Max time.Duration
}

// Do calls f until f succeeds or returns an error that is not transient. It also stops
// when p.Limit has passed or ctx is done. It returns the last result of f.
func (p Policy) Do(ctx context.Context, f func() error) error {
	b := New(cmp.Or(p.Min, 100*time.Millisecond), cmp.Or(p.Max, 15*time.Second))
	var end time.Time
	for {
		err := f()
		if err == nil || !p.Transient(err) || ctx.Err() != nil {
			return err
		}
		if end.IsZero() {
			end = time.Now().Add(p.Limit)
			if p.Limit > 0 && p.Retrying != nil {
				p.Retrying(err)
			}
		}
		left := time.Until(end)
		if left <= 0 || Sleep(ctx, min(b.Next(), left)) != nil {
			return err
		}
	}
}
