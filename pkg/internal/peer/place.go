package peer

import (
	"context"
	"io"
	"time"
)

// placeTimeout is how long a PlaceReader may take to read a piece before it releases its
// place. If the peer sends at full speed, the PlaceReader keeps its place.
const placeTimeout = 100 * time.Millisecond

// Place is one of a limited number of slots for work on data from peers.
type Place interface {
	// Acquire waits for the place, unless it is already held. It returns an error
	// only if ctx is done.
	Acquire(ctx context.Context) error
	// Release releases the place if it is held.
	Release()
}

// PlaceReader reads data from a peer in pieces. Its place is held when Read returns. If a
// piece takes longer than placeTimeout to arrive, the place is released in the meantime,
// so that a slow peer does not block others. The timeout applies to whole pieces, since
// even a slow peer may send each single byte within placeTimeout.
type PlaceReader struct {
	ctx   context.Context
	in    io.Reader
	place Place
	buf   []byte
	rest  []byte // of buf, not returned yet
	err   error  // to be returned after rest
}

// NewPlaceReader returns a PlaceReader that reads pieces of size bytes from in, and
// acquires and releases place. The place need not be held before the first Read. Nothing
// else may acquire or release the place during a Read.
func NewPlaceReader(ctx context.Context, in io.Reader, place Place, size int) *PlaceReader {
	return &PlaceReader{ctx: ctx, in: in, place: place, buf: make([]byte, size)}
}

// Read implements io.Reader. It returns errors from the input and from the context.
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

// Reset discards data that r has read from its input but not returned yet. Call it after
// seeking in the input.
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
