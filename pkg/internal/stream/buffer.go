package stream

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// buffer is memory that batches share. It goes back to its pool with the last
// of them.
type buffer struct {
	bytes []byte
	refs  atomic.Int32
}

// minBuffer is the size of the smallest buffer in bytes. Sizes are powers of two: reads of a
// quiet connection need little, and a large one costs less per line.
const minBuffer = 4 << 10

var pools [9]sync.Pool // of 4, 8, … 1024 KiB

func poolOf(size int) int { return bits.Len(uint((size - 1) / minBuffer)) }

// newBuffer returns a buffer of at least size bytes with one reference.
func newBuffer(size int) *buffer {
	i := poolOf(max(size, 1))
	if i >= len(pools) { // one very long line
		b := &buffer{bytes: make([]byte, size)}
		b.refs.Store(1)
		return b
	}
	b, ok := pools[i].Get().(*buffer)
	if !ok {
		b = &buffer{bytes: make([]byte, minBuffer<<i)}
	}
	b.refs.Store(1)
	return b
}

// retain adds a reference.
func (b *buffer) retain() { b.refs.Add(1) }

// release drops a reference. The last one returns the buffer to its pool.
func (b *buffer) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	// One that grew while it was filled fits a smaller class.
	if i := bits.Len(uint(cap(b.bytes)/minBuffer)) - 1; i >= 0 && i < len(pools) {
		b.bytes = b.bytes[:minBuffer<<i]
		pools[i].Put(b)
	}
}
