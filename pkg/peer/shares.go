package peer

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// Shares gives out a number of places, so that no peer can keep them all from
// the others: a free place goes to the waiting peer that has the fewest, and
// no peer has more than its bound. The peer "", see Host, has no bound but the
// total. It is safe for concurrent use.
type Shares struct {
	each int // most places of one peer

	mu      sync.Mutex
	free    int
	held    map[string]int // only peers that have some: what a peer leaves behind is nothing
	waiting []*waiter      // by arrival
}

// waiter is a call of Acquire that waits.
type waiter struct {
	who     string
	granted chan struct{}
}

// NewShares returns total places, at most each of them for one peer.
func NewShares(total, each int) *Shares {
	return &Shares{each: each, free: total, held: map[string]int{}}
}

// Acquire waits for a place for a peer. Release gives it back. The error is
// that of ctx.
func (s *Shares) Acquire(ctx context.Context, who string) error {
	w := &waiter{who, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return ctx.Err()
	}
	return nil // granted just now
}

// TryAcquire takes a place for a peer if there is one now. all says, if not,
// whether it is for all that there are too many, or for this peer only.
func (s *Shares) TryAcquire(who string) (ok, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.within(who) {
		return false, false
	}
	if s.free == 0 {
		return false, true
	}
	s.take(who)
	return true, false
}

// Release gives back a place of a peer.
func (s *Shares) Release(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if s.held[who]--; s.held[who] == 0 {
		delete(s.held, who)
	}
	s.grant()
}

// Contended reports whether another peer, which has fewer places than who,
// waits for one: who should give one back and wait for its turn.
func (s *Shares) Contended(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.held[who]
	return slices.ContainsFunc(s.waiting, func(w *waiter) bool {
		return w.who != who && s.held[w.who] < mine && s.within(w.who)
	})
}

// within reports whether a peer may have one more place; the lock is held.
func (s *Shares) within(who string) bool { return who == "" || s.held[who] < s.each }

// take takes a free place; the lock is held.
func (s *Shares) take(who string) {
	s.free--
	s.held[who]++
}

// grant gives free places to those that wait; the lock is held.
func (s *Shares) grant() {
	for s.free > 0 {
		next := -1
		for i, w := range s.waiting {
			if n := s.held[w.who]; s.within(w.who) && (next < 0 || n < s.held[s.waiting[next].who]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := s.waiting[next]
		s.waiting = slices.Delete(s.waiting, next, next+1)
		s.take(w.who)
		close(w.granted)
	}
}

// Host names the peer that an address belongs to, for limits: the address, or
// of IPv6 its /64, of which a single host has all addresses. It is "" for a
// loopback address: who connects from this machine is trusted with it, and
// may be a proxy or a tunnel for many peers.
func Host(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	switch {
	case !addr.IsValid() || addr.IsLoopback():
		return ""
	case addr.Is4():
		return addr.String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}
