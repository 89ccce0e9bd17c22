package stream

import (
	"context"
	"sync"
)

// window bounds how far a source may go beyond what is saved of its position:
// that is what comes again after a crash.
type window struct {
	size int64 // bytes

	mu                    sync.Mutex
	sent, confirmed, done int64 // bytes; done: of confirmed, saved
	waiting               int
	room                  chan struct{} // closed and made anew when there is room
	wake                  chan struct{} // says that it is time to save
}

func newWindow(size int64) window {
	return window{size: size, room: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// acquire waits until n further bytes may be sent.
func (w *window) acquire(ctx context.Context, n int64) error {
	w.mu.Lock()
	for w.sent > w.done && w.sent-w.done+n > w.size {
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
	w.sent += n
	w.mu.Unlock()
	return nil
}

// taken says that n bytes more are with all required consumers.
func (w *window) taken(n int64) {
	w.mu.Lock()
	poke := w.add(n)
	w.mu.Unlock()
	if poke {
		w.poke()
	}
}

// add is taken while mu is held. It reports whether it is time to save.
func (w *window) add(n int64) bool {
	w.confirmed += n
	return w.waiting > 0 || w.confirmed-w.done > w.size/4
}

func (w *window) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// snapshot returns what is to be passed to saved once it is saved.
func (w *window) snapshot() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.confirmed
}

// saved says that what snapshot has returned is saved.
func (w *window) saved(confirmed int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = confirmed
	close(w.room)
	w.room = make(chan struct{})
}
