package batch

import (
	"context"
	"sync"
)

// Window limits how far a source may deliver beyond its saved position. Lines
// beyond the saved position are delivered again after a crash.
type Window struct {
	size int64 // bytes

	mu                     sync.Mutex
	reserved, acked, saved int64         // bytes; saved <= acked <= reserved
	waiting                int           // callers of Reserve that are blocked
	room                   chan struct{} // closed and replaced when there is room
	wake                   chan struct{} // receives a value when the position should be saved
}

// NewWindow returns a window of the given size in bytes.
func NewWindow(size int64) *Window {
	return &Window{size: size, room: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// Reserve blocks until n more bytes may be delivered. If n exceeds the size of the
// window, it blocks until the saved position covers all earlier deliveries. If ctx is
// done first, Reserve returns context.Cause(ctx).
func (w *Window) Reserve(ctx context.Context, n int64) error {
	w.mu.Lock()
	for w.reserved > w.saved && w.reserved-w.saved+n > w.size {
		room := w.room
		w.waiting++
		w.mu.Unlock()
		w.signal()
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

// Ack records that n more bytes are acked.
func (w *Window) Ack(n int64) {
	w.mu.Lock()
	w.acked += n
	due := w.waiting > 0 || w.acked-w.saved > w.size/4
	w.mu.Unlock()
	if due {
		w.signal()
	}
}

// Due returns a channel that receives a value when the source should save its position,
// for example because a caller of Reserve is blocked.
func (w *Window) Due() <-chan struct{} { return w.wake }

func (w *Window) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Snapshot returns the number of bytes acked so far. Once the source has saved its
// position as of this call, pass the number to Save.
func (w *Window) Snapshot() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// Save records that the source has saved its position. acked is the number that Snapshot
// returned for that position. Save wakes blocked callers of Reserve.
func (w *Window) Save(acked int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saved = acked
	close(w.room)
	w.room = make(chan struct{})
}
