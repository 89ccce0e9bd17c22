// Package retry spaces the attempts of an operation that may succeed later.
package retry

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// Backoff returns the waits between attempts. Each is twice as long as the one
// before, up to a maximum. A random part, up to half, is then cut off, so that
// clients that lost a server at the same moment do not all return at once.
type Backoff struct{ min, max, next time.Duration }

// New returns a Backoff whose first wait is up to min and whose longest is up
// to max.
func New(min, max time.Duration) *Backoff { return &Backoff{min, max, min} }

// Next returns the next wait.
func (b *Backoff) Next() time.Duration {
	d := b.next
	if b.next > b.max/2 {
		b.next = max(b.min, b.max)
	} else {
		b.next *= 2
	}
	return d/2 + rand.N(d-d/2+1)
}

// Reset makes the next wait as short as the first, after a success.
func (b *Backoff) Reset() { b.next = b.min }

// Wait waits until the next attempt is due. If ctx ends before that, Wait
// returns its cause.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits for d. If ctx ends before that, Sleep returns its cause.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return context.Cause(ctx)
}

// Policy selects which errors are retried and for how long.
type Policy struct {
	// Transient reports whether an error may go away by itself; any other
	// error ends the attempts.
	Transient func(error) bool
	// Limit is the time from the first failure to the start of the last
	// attempt. 0 allows one attempt; math.MaxInt64 retries until the context
	// ends.
	Limit time.Duration
	// Retrying is called after the first failure if there will be another
	// attempt; nil disables the call.
	Retrying func(error)
	// Min and Max bound the waits, see New; 0 means 100ms and 15s.
	Min, Max time.Duration
}

// Do calls f until it succeeds, its error is not transient, the limit has
// passed or ctx ends. It returns f's last error.
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
