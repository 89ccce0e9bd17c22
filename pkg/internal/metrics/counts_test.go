package metrics

import (
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"
)

func TestCounts(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1_700_000_000+int64(s), 0) } // a multiple of 10 s
	check := func(c *Counts, now time.Time, rate float64, want ...int64) {
		t.Helper()
		if got := c.Values(now); !slices.Equal(got, want) {
			t.Errorf("values %v, want %v", got, want)
		}
		if got := c.Rate(now); got != rate {
			t.Errorf("rate %v, want %v", got, rate)
		}
	}
	c := NewCounts(10*time.Second, 4)
	check(c, at(0), 0, 0, 0, 0, 0)
	c.Add(at(3), 20)
	check(c, at(5), 2, 0, 0, 0, 20)
	c.Add(at(12), 5)
	check(c, at(19), 2, 0, 0, 20, 5)
	check(c, at(20), 1.25, 0, 20, 5, 0)
	c.Add(at(1), 7) // late, but its interval still exists
	check(c, at(20), 1.6, 0, 27, 5, 0)
	c.Add(at(-40), 100) // too late
	check(c, at(20), 1.6, 0, 27, 5, 0)
	check(c, at(45), 0, 5, 0, 0, 0)
	c.Add(at(1000), 1)
	check(c, at(1000), 0, 0, 0, 0, 1)
	check(c, at(5000), 0, 0, 0, 0, 0)
	// A clock that goes back must not lose events.
	c.Add(at(4990), 2)
	check(c, at(4000), 0.1, 0, 0, 2, 0)

	d := NewCounts(time.Second, 2)
	d.Add(at(0), 10)
	d.Add(at(1), 5)
	check(d, at(1), 10, 10, 5)
	check(d, at(2), 5, 5, 0)
}

// TestCountsIgnoreClockSteps checks that events count and rates are current after the
// system clock was set back.
func TestCountsIgnoreClockSteps(t *testing.T) {
	c := NewCounts(time.Minute, 4)
	begin := c.start
	after := func(d time.Duration) time.Time {
		at := begin.Add(d)
		// The first word of a time with a monotonic reading has the seconds of the
		// system clock above 30 bits of nanoseconds.
		*(*uint64)(unsafe.Pointer(&at)) -= 3600 << 30
		return at
	}
	c.Add(begin, 6)
	if at := after(0); begin.Sub(at) != 0 || begin.Unix()-at.Unix() != 3600 {
		t.Fatalf("the clock shows %v after %v", at, begin)
	}
	c.Add(after(2*time.Minute), 120)
	if got, want := c.Values(after(3*time.Minute)), []int64{6, 0, 120, 0}; !slices.Equal(got, want) {
		t.Errorf("values %v, want %v", got, want)
	}
	if got := c.Rate(after(3 * time.Minute)); got != 1 {
		t.Errorf("rate %v, want 1", got)
	}
}

// TestCountsConcurrentUse counts concurrently and checks the sum. It is meant
// for the race detector.
func TestCountsConcurrentUse(t *testing.T) {
	c := NewCounts(time.Hour, 8)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				c.Add(time.Now(), 1)
				c.Rate(time.Now())
			}
		})
	}
	wg.Wait()
	sum := int64(0)
	for _, n := range c.Values(time.Now()) {
		sum += n
	}
	if sum != 8000 {
		t.Errorf("sum %d, want 8000", sum)
	}
}

func BenchmarkCounts(b *testing.B) {
	c := NewCounts(time.Second, 60)
	now := time.Now()
	for b.Loop() {
		c.Add(now, 1)
	}
}
