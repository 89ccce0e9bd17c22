package metrics

import (
	"sync"
	"time"
)

// Counts counts events per time interval and keeps the latest intervals. It is safe for
// concurrent use; each call takes one lock. NewCounts(time.Hour, 24) keeps one day,
// hour by hour; NewCounts(5*time.Second, 60) keeps the last five minutes of frequent
// events.
type Counts struct {
	width time.Duration
	start time.Time // of the Counts; see interval

	mu    sync.Mutex
	bins  []int64 // a ring: interval i is at index i % len(bins)
	first int64   // interval of the first event; -1: no event yet
	last  int64   // newest interval counted
}

// NewCounts returns a Counts with n intervals, which are aligned to multiples of width
// in UTC. Values of n below 2 are treated as 2.
func NewCounts(width time.Duration, n int) *Counts {
	return &Counts{width: width, start: time.Now(), bins: make([]int64, max(n, 2)), first: -1}
}

// Add counts n events that occurred at the given time. It ignores them if that time is
// before the oldest interval that c keeps.
func (c *Counts) Add(at time.Time, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.interval(at)
	if c.first < 0 {
		c.first, c.last = i, i
	}
	c.advance(i)
	if i > c.last-int64(len(c.bins)) {
		c.bins[i%int64(len(c.bins))] += n
	}
}

// Values returns the number of events per interval, oldest first. The last interval is
// the one that contains now.
func (c *Counts) Values(now time.Time) []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values(now)
}

// Rate returns the average number of events per second over the last two complete
// intervals. If there is only one complete interval, Rate uses that one. If there is
// none, Rate uses the current interval.
func (c *Counts) Rate(now time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.values(now)
	n := len(v)
	if c.first < 0 {
		return 0
	}
	switch c.interval(now) - c.first {
	case 0:
		return float64(v[n-1]) / c.width.Seconds()
	case 1:
		return float64(v[n-2]) / c.width.Seconds()
	}
	if n == 2 {
		return float64(v[0]) / c.width.Seconds()
	}
	return float64(v[n-2]+v[n-3]) / (2 * c.width.Seconds())
}

// interval returns the number of the interval that contains t. Intervals follow the
// monotonic clock if t has it. Otherwise a system clock that is set back would keep c from
// counting until it has caught up.
func (c *Counts) interval(t time.Time) int64 {
	return c.start.Add(t.Sub(c.start)).UnixNano() / int64(c.width)
}

// advance makes interval number i the newest one, unless a newer one exists. It sets the
// counts of the added intervals to zero, because they reuse the memory of the oldest
// ones.
func (c *Counts) advance(i int64) {
	n := int64(len(c.bins))
	for j := max(c.last+1, i-n+1); j <= i; j++ {
		c.bins[j%n] = 0
	}
	c.last = max(c.last, i)
}

func (c *Counts) values(now time.Time) []int64 {
	if c.first >= 0 {
		c.advance(c.interval(now))
	}
	n := int64(len(c.bins))
	values := make([]int64, n)
	for k := range values {
		values[k] = c.bins[(c.last+1+int64(k))%n]
	}
	return values
}
