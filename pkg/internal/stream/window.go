package stream

import (
	"context"
	"sync"
)

// window bounds how far a source may deliver beyond its saved position: the lines
// between are delivered again after a crash.
type window struct {
	size int64 // bytes

	mu                     sync.Mutex
	reserved, acked, saved int64 // bytes; saved: of acked
	waiting                int
	room                   chan struct{} // closed and replaced when there is room
	wake                   chan struct{} // receives when the position should be saved
}

// newWindow returns a window of size bytes.
func newWindow(size int64) *window {
	return &window{size: size, room: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// reserve waits until n further bytes may be delivered. The error is the cause of the
// end of ctx.
func (w *window) reserve(ctx context.Context, n int64) error {
	w.mu.Lock()
	for w.reserved > w.saved && w.reserved-w.saved+n > w.size {
		room := w.room
		w.waiting++
		w.mu.Unlock()
		w.poke()
		var err error
		select {
		case <-room:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		w.mu.Lock()
		w.waiting--
		if err != nil {
			w.mu.Unlock()
			return err
		}
	}
	w.reserved += n
	w.mu.Unlock()
	return nil
}

// ack says that n bytes more are acked.
func (w *window) ack(n int64) {
	w.mu.Lock()
	w.acked += n
	due := w.waiting > 0 || w.acked-w.saved > w.size/4
	w.mu.Unlock()
	if due {
		w.poke()
	}
}

// due returns a channel that receives when the position should be saved.
func (w *window) due() <-chan struct{} { return w.wake }

func (w *window) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// snapshot returns how much is acked; pass it to save once it is saved.
func (w *window) snapshot() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// save says that the position of what snapshot returned is saved.
func (w *window) save(acked int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saved = acked
	close(w.room)
	w.room = make(chan struct{})
}

// ahead returns how many bytes were reserved beyond the saved position.
func (w *window) ahead() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reserved - w.saved
}
