package peer

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// Shares divides a fixed number of places (slots for concurrent work or connections)
// among peers, so that no peer can occupy all of them. A free place goes to the waiting
// peer with the fewest places. The limit per peer does not apply to the peer ""; see
// Host. Shares is safe for concurrent use.
type Shares struct {
	each int // maximum places of one peer

	mu      sync.Mutex
	free    int
	held    map[string]int // places by peer, without zeros
	waiting []*waiter      // in order of arrival
}

// waiter is a blocked call to Acquire or acquireWithin.
type waiter struct {
	peer   string
	within bool          // the call is acquireWithin
	done   chan struct{} // closed when err is set
	err    error         // nil: the place was granted
}

// errBound is returned by acquireWithin if the peer is at its limit.
var errBound = errors.New("the peer has as many places as one may have")

// NewShares returns a Shares with the given total number of places and the given maximum
// for each peer. All places are free.
func NewShares(total, each int) *Shares {
	return &Shares{each: each, free: total, held: map[string]int{}}
}

// Acquire waits for a place for a peer. The caller must release the place with
// Release. Acquire returns an error only if ctx is done.
func (s *Shares) Acquire(ctx context.Context, peer string) error {
	return s.acquire(ctx, &waiter{peer: peer})
}

// acquireWithin is like Acquire, but returns errBound as soon as the peer is at its
// limit.
func (s *Shares) acquireWithin(ctx context.Context, peer string) error {
	return s.acquire(ctx, &waiter{peer: peer, within: true})
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
	return w.err // granted or refused meanwhile
}

// TryAcquire acquires a place for a peer if one is available at once, and reports whether
// it did. If not, the second result is false if the peer is at its limit, or true if no
// place is free.
func (s *Shares) TryAcquire(peer string) (ok, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasRoom(peer) {
		return false, false
	}
	if s.free == 0 {
		return false, true
	}
	s.assign(peer)
	s.grant() // refuses waiters if the peer has reached its limit
	return true, false
}

// Release releases one of a peer's places.
func (s *Shares) Release(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if s.held[peer]--; s.held[peer] == 0 {
		delete(s.held, peer)
	}
	s.grant()
}

// Contended reports whether a place of the given peer should go to a waiting peer that
// has fewer places. If so, the given peer should release a place and wait for another.
func (s *Shares) Contended(peer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.held[peer]
	return slices.ContainsFunc(s.waiting, func(w *waiter) bool {
		return w.peer != peer && s.held[w.peer] < mine && s.hasRoom(w.peer)
	})
}

// hasRoom reports whether a peer is below its limit. The caller must hold the lock.
func (s *Shares) hasRoom(peer string) bool { return peer == "" || s.held[peer] < s.each }

// assign assigns a free place to a peer. The caller must hold the lock.
func (s *Shares) assign(peer string) {
	s.free--
	s.held[peer]++
}

// grant assigns free places to waiters. It refuses waiters of acquireWithin whose
// peer has reached its limit. The caller must hold the lock.
func (s *Shares) grant() {
	for s.free > 0 {
		var next *waiter
		for _, w := range s.waiting {
			if s.hasRoom(w.peer) && (next == nil || s.held[w.peer] < s.held[next.peer]) {
				next = w
			}
		}
		if next == nil {
			break
		}
		s.assign(next.peer)
		s.finish(next, nil)
	}
	for _, w := range slices.Clone(s.waiting) {
		if w.within && !s.hasRoom(w.peer) {
			s.finish(w, errBound)
		}
	}
}

// finish ends w's wait with err. The caller must hold the lock.
func (s *Shares) finish(w *waiter, err error) {
	i := slices.Index(s.waiting, w)
	s.waiting = slices.Delete(s.waiting, i, i+1)
	w.err = err
	close(w.done)
}

// Host returns the string that identifies a host for per-host limits: the IPv4 address,
// or the /64 network of an IPv6 address, since a single host may use the whole network.
// For a loopback address, Host returns "", which has no limit. A local peer is trusted
// and may be a proxy or a tunnel for many peers.
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
