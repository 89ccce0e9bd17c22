package peer

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// Shares divides a number of places among peers, so that no peer can keep them
// all from the others: a free place goes to the waiting peer that has the fewest,
// and no peer has more than its bound. The peer "", see Host, has no bound but
// the total. It is safe for concurrent use.
type Shares struct {
	each int // most places of one peer

	mu      sync.Mutex
	free    int
	held    map[string]int // by peer; only those that hold a place
	waiting []*waiter      // by arrival
}

// waiter is a call of Acquire or acquireWithin that waits.
type waiter struct {
	who    string
	within bool          // of acquireWithin
	done   chan struct{} // closed when err is set
	err    error         // nil: it has a place
}

// errBound is the error of acquireWithin for a peer that has as many places as
// one may have.
var errBound = errors.New("the peer has as many places as one may have")

// NewShares returns total places, at most each of them for one peer.
func NewShares(total, each int) *Shares {
	return &Shares{each: each, free: total, held: map[string]int{}}
}

// Acquire waits for a place for a peer, which Release releases. The error is
// that of ctx.
func (s *Shares) Acquire(ctx context.Context, who string) error {
	return s.acquire(ctx, &waiter{who: who})
}

// acquireWithin waits for a place for a peer as long as the peer is within its
// bound. The error is errBound or that of ctx.
func (s *Shares) acquireWithin(ctx context.Context, who string) error {
	return s.acquire(ctx, &waiter{who: who, within: true})
}

func (s *Shares) acquire(ctx context.Context, w *waiter) error {
	w.done = make(chan struct{})
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return ctx.Err()
	}
	return w.err // decided just now
}

// TryAcquire takes a place for a peer if it may have one now. If not, all says
// whether no place is free, or only this peer has as many as one may have.
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
	s.grant() // who may be at its bound now
	return true, false
}

// Release releases a place of a peer.
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
// waits for one: who should release one and wait for its turn.
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

// grant gives free places to those that wait, and refuses those that wait
// within a bound that their peer has reached; the lock is held.
func (s *Shares) grant() {
	for s.free > 0 {
		var next *waiter
		for _, w := range s.waiting {
			if s.within(w.who) && (next == nil || s.held[w.who] < s.held[next.who]) {
				next = w
			}
		}
		if next == nil {
			break
		}
		s.take(next.who)
		s.decide(next, nil)
	}
	for _, w := range slices.Clone(s.waiting) {
		if w.within && !s.within(w.who) {
			s.decide(w, errBound)
		}
	}
}

// decide ends the wait of w; the lock is held.
func (s *Shares) decide(w *waiter, err error) {
	i := slices.Index(s.waiting, w)
	s.waiting = slices.Delete(s.waiting, i, i+1)
	w.err = err
	close(w.done)
}

// Host names the peer that an address belongs to, for limits: the address, or
// of IPv6 its /64, of which a single host has all addresses. It is "" for a
// loopback address: a peer on this machine is trusted, and may be a proxy or a
// tunnel for many peers.
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
