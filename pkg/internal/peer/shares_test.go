package peer

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestSharesWaitingPeerComesFirst checks that a free place goes to the peer with
// fewer places, even if it began to wait later.
func TestSharesWaitingPeerComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(2, 2)
		var mu sync.Mutex
		var order []string
		want := func(who string) {
			go func() {
				if err := s.Acquire(t.Context(), who); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, who)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		for _, who := range []string{"a", "a", "a", "a", "b", "c"} {
			want(who)
		}
		if !s.Contended("a") || s.Contended("b") {
			t.Errorf("contended: a %v, b %v, want that b and c wait for a", s.Contended("a"), s.Contended("b"))
		}
		for _, who := range []string{"a", "a", "b", "c"} {
			s.Release(who)
			synctest.Wait()
		}
		if want := []string{"a", "a", "b", "a", "c", "a"}; !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		s.Release("a")
		s.Release("a")
		if s.free != 2 || len(s.held) > 0 || len(s.waiting) > 0 {
			t.Errorf("left: %d free, held %v, %d waiting", s.free, s.held, len(s.waiting))
		}
	})
}

// TestSharesBound checks that a peer never exceeds its limit, even if no other peer
// is waiting, and that a canceled Acquire gets no place.
func TestSharesBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShares(4, 1)
		if ok, _ := s.TryAcquire("a"); !ok {
			t.Fatal("no place")
		}
		if ok, all := s.TryAcquire("a"); ok || all {
			t.Errorf("a second place: %v, for all %v", ok, all)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err := make(chan error)
		go func() { err <- s.Acquire(ctx, "a") }()
		synctest.Wait()
		if s.Contended("a") || s.Contended("b") {
			t.Error("who is at its bound waits for itself only")
		}
		cancel()
		if err := <-err; err == nil {
			t.Error("a second place after the end of the context")
		}
		for _, who := range []string{"b", "c", "d"} {
			if ok, _ := s.TryAcquire(who); !ok {
				t.Errorf("no place for %s", who)
			}
		}
		if ok, all := s.TryAcquire("e"); ok || !all {
			t.Errorf("a fifth place: %v, for all %v", ok, all)
		}
		s.Release("a")
		if ok, _ := s.TryAcquire("e"); !ok {
			t.Error("no place after one was given back")
		}
	})
}

func TestHost(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.7":             "10.0.0.7",
		"::ffff:10.0.0.7":      "10.0.0.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
		"127.0.0.2":            "",
		"::1":                  "",
	} {
		if got := Host(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}
