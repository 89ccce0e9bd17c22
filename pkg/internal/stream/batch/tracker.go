package batch

import "sync"

// Tracker follows up to which position of a source everything is acked. The
// unit of positions is the source's: bytes of a connection, or messages of a partition.
type Tracker struct {
	mu        sync.Mutex
	delivered int64 // end of the last lines that were delivered
	acked     int64
	read      int64         // up to here there is nothing to deliver after delivered
	changed   chan struct{} // nil: nobody waits for a change
}

// Notify returns a channel that receives when the position may have changed.
// Call it before anything is delivered.
func (t *Tracker) Notify() <-chan struct{} {
	t.changed = make(chan struct{}, 1)
	return t.changed
}

// Deliver says that lines up to pos are to be acked.
func (t *Tracker) Deliver(pos int64) {
	t.mu.Lock()
	t.delivered = pos
	t.mu.Unlock()
}

// Ack says that lines up to pos are acked. Calls may overtake each other.
func (t *Tracker) Ack(pos int64) {
	t.mu.Lock()
	t.acked = max(t.acked, pos)
	t.mu.Unlock()
	t.poke()
}

// Skip says that there is nothing to ack between the last delivered lines and pos.
func (t *Tracker) Skip(pos int64) {
	t.mu.Lock()
	t.read = pos
	t.mu.Unlock()
	t.poke()
}

func (t *Tracker) poke() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Position returns up to where everything is acked.
func (t *Tracker) Position() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acked == t.delivered {
		return max(t.acked, t.read)
	}
	return t.acked
}

// End returns the end of the last lines that were delivered.
func (t *Tracker) End() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.delivered
}

// Drained reports whether everything that was delivered is acked.
func (t *Tracker) Drained() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acked >= t.delivered
}
