package bulk

import (
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowText is a file that delivers a few bytes at a time, after a wait.
type slowText struct {
	*strings.Reader
	each int
	wait time.Duration
}

func (s *slowText) Read(p []byte) (int, error) {
	time.Sleep(s.wait)
	return s.Reader.Read(p[:min(len(p), s.each)])
}

func (s *slowText) Close() error { return nil }

// read reads a file of a peer like an import, and returns how long that took.
func read(t *testing.T, l *Limits, peerName string, s *slowText, work time.Duration) time.Duration {
	begin := time.Now()
	p, err := l.enter(t.Context(), peerName)
	if err == nil {
		err = p.Acquire(t.Context())
	}
	if err != nil {
		t.Error(err)
		return 0
	}
	defer p.close()
	f := newPeerFile(t.Context(), s, p)
	size := s.Len()
	for buf, n := make([]byte, piece), 0; ; {
		m, err := f.Read(buf)
		if !p.acquired && err == nil {
			t.Errorf("%s works on its file without a place", peerName)
		}
		n += m
		time.Sleep(work)
		if err == io.EOF && n == size {
			return time.Since(begin)
		}
		if err != nil {
			t.Errorf("%s: %v after %d bytes", peerName, err, n)
			return 0
		}
	}
}

// TestSlowPeerLeavesPlaces checks that a file that arrives slowly occupies no
// place while it waits for data, even if the waits are short.
func TestSlowPeerLeavesPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(2, 0)
		var slow sync.WaitGroup
		defer slow.Wait()
		for range 5 {
			slow.Go(func() {
				if took := read(t, l, "slow", &slowText{strings.NewReader(strings.Repeat("x", 1<<20)), 200, 50 * time.Millisecond}, time.Millisecond); took < 4*time.Minute {
					t.Errorf("the slow files took %v", took)
				}
			})
		}
		time.Sleep(time.Minute)
		if took := read(t, l, "quick", &slowText{strings.NewReader(strings.Repeat("x", 1<<20)), 1 << 20, 0}, time.Millisecond); took > time.Second {
			t.Errorf("another peer's file took %v", took)
		}
	})
}

// TestQuickPeerSharesPlaces checks that files read at full speed yield to
// another peer, even if there is only one place.
func TestQuickPeerSharesPlaces(t *testing.T) {
	for _, jobs := range []int{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			l := NewLimits(jobs, 0)
			var many sync.WaitGroup
			defer many.Wait()
			for range 8 {
				many.Go(func() {
					read(t, l, "many", &slowText{strings.NewReader(strings.Repeat("x", 24<<20)), piece, 0}, time.Second/10)
				})
			}
			time.Sleep(time.Second)
			if took := read(t, l, "one", &slowText{strings.NewReader(strings.Repeat("x", 4<<20)), piece, 0}, time.Second/10); took > 10*time.Second {
				t.Errorf("%d jobs: a file that needs 2 s took %v", jobs, took)
			}
		})
	}
}
