package peer

import (
	"context"
	"io"
	"time"
)

// moment is how long a read may take before a PlaceReader releases its place: a
// peer that sends at full speed keeps it.
const moment = 100 * time.Millisecond

// Place is the right to work on what a peer sends.
type Place interface {
	// Acquire waits for the place, unless it is held. The error is that of ctx.
	Acquire(ctx context.Context) error
	// Release releases the place if it is held.
	Release()
}

// PlaceReader reads what a peer sends in pieces. It holds a place when Read
// returns, but releases it while a piece takes longer than a moment to arrive: a
// slow peer holds up nobody else. It reads whole pieces, because each single byte
// of a slow peer may arrive within a moment.
type PlaceReader struct {
	ctx   context.Context
	in    io.Reader
	place Place
	buf   []byte
	rest  []byte // of buf, not returned yet
	err   error  // to be returned after rest
}

// NewPlaceReader returns a reader of in, which needs no place before the first
// Read. size is the size of a piece in bytes. The place must not be used by others during a Read.
func NewPlaceReader(ctx context.Context, in io.Reader, place Place, size int) *PlaceReader {
	return &PlaceReader{ctx: ctx, in: in, place: place, buf: make([]byte, size)}
}

// Read implements io.Reader. Its errors are those of in and of the context.
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

// Reset discards what was read ahead. It is called after a seek in the input.
func (r *PlaceReader) Reset() { r.rest, r.err = nil, nil }

// fill reads the next piece.
func (r *PlaceReader) fill() {
	gone := make(chan struct{})
	timer := time.AfterFunc(moment, func() {
		r.place.Release()
		close(gone)
	})
	n := 0
	for n < len(r.buf) && r.err == nil {
		var m int
		m, r.err = r.in.Read(r.buf[n:])
		n += m
	}
	if !timer.Stop() {
		<-gone
	}
	r.rest = r.buf[:n]
	if err := r.place.Acquire(r.ctx); err != nil {
		r.rest, r.err = nil, err
	}
}
