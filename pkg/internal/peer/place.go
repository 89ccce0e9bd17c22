package peer

import (
	"context"
	"io"
	"time"
)

// placeTimeout is how long a read may take before a PlaceReader releases its place.
// A peer that sends at full speed keeps the place.
const placeTimeout = 100 * time.Millisecond

// Place is one of a limited number of slots for work on data from peers.
type Place interface {
	// Acquire waits for the place, unless it is already held. It returns an error
	// only if ctx is done.
	Acquire(ctx context.Context) error
	// Release releases the place if it is held.
	Release()
}

// PlaceReader reads data from a peer in pieces. It holds a place when Read returns.
// It releases the place while a piece takes longer than placeTimeout to arrive, so
// that a slow peer does not block others. It waits for whole pieces, since even
// from a slow peer each single byte may arrive within placeTimeout.
type PlaceReader struct {
	ctx   context.Context
	in    io.Reader
	place Place
	buf   []byte
	rest  []byte // of buf, not returned yet
	err   error  // to be returned after rest
}

// NewPlaceReader returns a reader that reads pieces of size bytes from in. The
// place need not be held before the first Read. Nothing else may use the place
// during a Read.
func NewPlaceReader(ctx context.Context, in io.Reader, place Place, size int) *PlaceReader {
	return &PlaceReader{ctx: ctx, in: in, place: place, buf: make([]byte, size)}
}

// Read implements io.Reader. It returns errors from in and from the context.
func (r *PlaceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		r.fill()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if n == 0 && len(p) > 0 {
		return 0, r.err
	}
	return n, nil
}

// Reset discards data that was read but not returned yet. Call it after seeking in the
// input.
func (r *PlaceReader) Reset() { r.rest, r.err = nil, nil }

// fill reads the next piece into r.rest and acquires the place.
func (r *PlaceReader) fill() {
	released := make(chan struct{})
	timer := time.AfterFunc(placeTimeout, func() {
		r.place.Release()
		close(released)
	})
	n := 0
	for n < len(r.buf) && r.err == nil {
		var m int
		m, r.err = r.in.Read(r.buf[n:])
		n += m
	}
	if !timer.Stop() {
		<-released
	}
	r.rest = r.buf[:n]
	if err := r.place.Acquire(r.ctx); err != nil {
		r.rest, r.err = nil, err
	}
}
