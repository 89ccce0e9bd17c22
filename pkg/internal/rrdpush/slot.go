package rrdpush

import "context"

// bodyPiece is the number of bytes read from a POST at a time.
const bodyPiece = 64 << 10

// slot is one of the places in Endpoint.slots, which limit the POSTs that are processed
// at the same time. It implements peer.Place, so that a POST releases its slot while it
// waits for data.
type slot struct {
	slots chan struct{}
	held  bool
}

func (s *slot) Acquire(ctx context.Context) error {
	if s.held {
		return nil
	}
	select {
	case s.slots <- struct{}{}:
		s.held = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slot) Release() {
	if s.held {
		s.held = false
		<-s.slots
	}
}
