package retry_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

var errDown, errWrong = errors.New("server is down"), errors.New("wrong password")

func isDown(err error) bool { return errors.Is(err, errDown) }

// TestWaitsDoubleUpToTheMaximum checks that each delay is random, between half
// of its nominal length and all of it.
func TestWaitsDoubleUpToTheMaximum(t *testing.T) {
	nominal := []time.Duration{100, 200, 400, 800, 1000, 1000, 1000}
	seen := make([]map[time.Duration]bool, len(nominal))
	for range 200 {
		b := retry.New(100*time.Millisecond, time.Second)
		for i, n := range nominal {
			d, most := b.Next(), n*time.Millisecond
			if d < most/2 || d > most {
				t.Fatalf("wait %d is %v, want %v to %v", i+1, d, most/2, most)
			}
			if seen[i] == nil {
				seen[i] = map[time.Duration]bool{}
			}
			seen[i][d] = true
		}
		b.Reset()
		if d := b.Next(); d > 100*time.Millisecond {
			t.Fatalf("the wait after Reset is %v", d)
		}
	}
	for i, waits := range seen {
		if len(waits) < 100 {
			t.Errorf("wait %d has only %d lengths in 200 tries: no jitter", i+1, len(waits))
		}
	}
}

func TestExtremeBounds(t *testing.T) {
	for _, c := range []struct{ min, max, most time.Duration }{
		{0, 0, 0},
		{time.Second, 0, time.Second}, // the minimum prevails
		{math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64},
		{time.Hour, math.MaxInt64, math.MaxInt64},
	} {
		b := retry.New(c.min, c.max)
		for range 100 {
			if d := b.Next(); d < c.min/2 || d > c.most {
				t.Errorf("New(%v, %v): a wait of %v", c.min, c.max, d)
			}
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		b := retry.New(time.Hour, time.Hour)
		for range 2 { // the second starts after the context has ended
			if err := b.Wait(ctx); err != cause {
				t.Errorf("Wait returns %v", err)
			}
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("ended after %v", d)
		}
		if err := b.Wait(t.Context()); err != nil || time.Since(start) < 30*time.Minute {
			t.Errorf("a wait until its end returns %v after %v", err, time.Since(start))
		}
	})
}

// attempts runs f with a policy. It returns the time of each attempt since the
// start, how often Retrying was called, and the error.
func attempts(ctx context.Context, limit time.Duration, f func(n int) error) (at []time.Duration, retrying int, err error) {
	start := time.Now()
	p := retry.Policy{Transient: isDown, Limit: limit, Retrying: func(error) { retrying++ }}
	err = p.Do(ctx, func() error {
		at = append(at, time.Since(start))
		return f(len(at))
	})
	return at, retrying, err
}

func TestDoRetriesTransientErrorsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name               string
			limit              time.Duration
			errs               []error
			want               error
			attempts, retrying int
		}{
			{"success", time.Hour, []error{nil}, nil, 1, 0},
			{"success later", time.Hour, []error{errDown, errDown, nil}, nil, 3, 1},
			{"permanent", time.Hour, []error{errWrong}, errWrong, 1, 0},
			{"permanent later", time.Hour, []error{errDown, errWrong}, errWrong, 2, 1},
			{"without limit", math.MaxInt64, []error{errDown, errDown, nil}, nil, 3, 1},
			{"one attempt", 0, []error{errDown}, errDown, 1, 0},
		} {
			at, retrying, err := attempts(t.Context(), c.limit, func(n int) error { return c.errs[n-1] })
			if err != c.want || len(at) != c.attempts || retrying != c.retrying {
				t.Errorf("%s: error %v, attempts at %v, Retrying called %d times", c.name, err, at, retrying)
			}
		}
	})
}

// TestDoUsesItsLimitExactly checks that the last attempt starts exactly when
// the limit ends, and that the limit counts from the first failure, however
// long the first attempt took.
func TestDoUsesItsLimitExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at, _, err := attempts(t.Context(), time.Minute, func(n int) error {
			if n == 1 {
				time.Sleep(time.Hour)
			}
			return errDown
		})
		if last := at[len(at)-1]; err != errDown || last != time.Hour+time.Minute {
			t.Errorf("error %v, attempts at %v", err, at)
		}
		if len(at) > 20 {
			t.Errorf("%d attempts: the waits do not grow", len(at))
		}
	})
}

func TestDoEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		at, _, err := attempts(ctx, math.MaxInt64, func(int) error { return errDown })
		if err != errDown || len(at) < 5 || at[len(at)-1] > 10*time.Second {
			t.Errorf("error %v, attempts at %v", err, at)
		}
		if at, _, err := attempts(ctx, math.MaxInt64, func(int) error { return errDown }); err != errDown || len(at) != 1 {
			t.Errorf("with a context that has ended: error %v, attempts at %v", err, at)
		}
	})
}
