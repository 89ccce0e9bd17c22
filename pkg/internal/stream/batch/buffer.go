package batch

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffer is pooled memory with a reference count, shared by batches.
type Buffer struct {
	Bytes []byte
	refs  atomic.Int32
}

// MinBuffer is the size of the smallest buffer in bytes. All pooled sizes are
// powers of two.
const MinBuffer = 4 << 10

var pools [9]sync.Pool // of 4, 8, … 1024 KiB

func poolOf(size int) int { return bits.Len(uint((size - 1) / MinBuffer)) }

// NewBuffer returns a buffer of at least size bytes with one reference.
func NewBuffer(size int) *Buffer {
	i := poolOf(max(size, 1))
	if i >= len(pools) { // a very long line
		b := &Buffer{Bytes: make([]byte, size)}
		b.refs.Store(1)
		return b
	}
	b, ok := pools[i].Get().(*Buffer)
	if !ok {
		b = &Buffer{Bytes: make([]byte, MinBuffer<<i)}
	}
	b.refs.Store(1)
	return b
}

// Retain adds a reference.
func (b *Buffer) Retain() { b.refs.Add(1) }

// Release drops a reference. When no reference is left, the buffer returns to its pool.
func (b *Buffer) Release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	// append may have grown the buffer to a capacity between two sizes. Such a
	// buffer goes to the pool of the smaller size.
	if i := bits.Len(uint(cap(b.Bytes)/MinBuffer)) - 1; i >= 0 && i < len(pools) {
		b.Bytes = b.Bytes[:MinBuffer<<i]
		pools[i].Put(b)
	}
}
