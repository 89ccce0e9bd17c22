package stream

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// origin says where lines come from. It does not change.
type origin struct {
	probe string
	path  string // of the log on the probe
	typ   string // the log's name without the suffix of a compression, which names its type
	// key tells the source of the lines from every other, for message ids:
	// the log with its content, or the connection.
	key string
	// prefix stands before each line on the wire: the path and a blank.
	prefix []byte
}

// batch is a run of whole lines of one log, in their order.
type batch struct {
	*origin
	// offset is the position of the first line in the source that key names.
	offset int64
	lines  int
	// raw is the text as the wire has it; nil if no consumer wants it.
	raw []byte
	// out is the text in the format that Options.Format names.
	out []byte
	// taken is called once, when every required consumer has the lines.
	// Batches of one source are taken in their order, but the calls may
	// overtake each other.
	taken func()

	required atomic.Int32 // consumers that have to take it yet
	readers  atomic.Int32 // consumers that still use raw and out
	buffers  [2]*buffer   // that raw and out lie in
}

// free gives the buffers back when the last consumer is done.
func (b *batch) free() {
	for _, buf := range b.buffers {
		if buf != nil {
			buf.release()
		}
	}
}

// buffer is memory that batches share. It goes back to its pool with the last
// of them.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

// Sizes of buffers are powers of two: reads of a quiet connection need little,
// and a large one costs less per line.
const minBuffer = 4 << 10

var pools [9]sync.Pool // of 4, 8, … 1024 KiB

func poolOf(size int) int { return bits.Len(uint((size - 1) / minBuffer)) }

// newBuffer returns a buffer of at least size bytes with one reference.
func newBuffer(size int) *buffer {
	i := poolOf(max(size, 1))
	if i >= len(pools) { // one very long line
		b := &buffer{b: make([]byte, size)}
		b.refs.Store(1)
		return b
	}
	b, ok := pools[i].Get().(*buffer)
	if !ok {
		b = &buffer{b: make([]byte, minBuffer<<i)}
	}
	b.refs.Store(1)
	return b
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	// One that grew while it was filled fits a smaller class.
	if i := bits.Len(uint(cap(b.b)/minBuffer)) - 1; i >= 0 && i < len(pools) {
		b.b = b.b[:minBuffer<<i]
		pools[i].Put(b)
	}
}
