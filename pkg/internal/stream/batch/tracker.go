package batch

import "sync"

// Tracker tracks the position up to which a source is acked. The source chooses
// the unit of positions: bytes of a connection or offsets of a partition.
type Tracker struct {
	mu        sync.Mutex
	delivered int64 // end of the last delivered lines
	acked     int64
	read      int64         // nothing between delivered and read needs an ack
	changed   chan struct{} // nil without Notify
}

// Notify returns a channel that receives a value when the result of Position may have
// changed. Call Notify before the first delivery.
func (t *Tracker) Notify() <-chan struct{} {
	t.changed = make(chan struct{}, 1)
	return t.changed
}

// Deliver records that lines up to pos need an ack.
func (t *Tracker) Deliver(pos int64) {
	t.mu.Lock()
	t.delivered = pos
	t.mu.Unlock()
}

// Ack records that lines up to pos are acked. Calls may arrive out of order.
func (t *Tracker) Ack(pos int64) {
	t.mu.Lock()
	t.acked = max(t.acked, pos)
	t.mu.Unlock()
	t.signal()
}

// Skip records that nothing between the last delivered lines and pos needs an ack.
func (t *Tracker) Skip(pos int64) {
	t.mu.Lock()
	t.read = pos
	t.mu.Unlock()
	t.signal()
}

func (t *Tracker) signal() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Position returns the position up to which everything is acked.
func (t *Tracker) Position() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acked == t.delivered {
		return max(t.acked, t.read)
	}
	return t.acked
}

// End returns the position at which the most recently delivered lines end.
func (t *Tracker) End() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.delivered
}

// Drained reports whether all delivered lines are acked.
func (t *Tracker) Drained() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acked >= t.delivered
}
