package parquet

import (
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/parquetfile"
)

// buffers shares row groups, which take most of the memory, among the open files.
// Each file has one. While there are fewer files than cores, files get extra ones,
// which they fill while others are encoded.
type buffers struct {
	memory int64 // bytes of a row group
	most   int   // row groups of all files, unless more files are open

	mu    sync.Mutex
	open  int // files being written
	extra int // row groups besides one for each file
	idle  []*parquetfile.RowGroup
}

// maxParallel bounds the row groups of one file: one core parses as fast as two
// others encode.
const maxParallel = 3

// newBuffers returns buffers for the given number of files of memory bytes each,
// which that many cores encode.
func newBuffers(memory int64, files, cores int) *buffers {
	groups := max(files, min(cores, files*maxParallel))
	return &buffers{memory: memory * int64(files) / int64(groups), most: min(groups, cores)}
}

// limits returns how many rows and how many bytes of text a row group of that many
// columns may have. A value takes up to 8 bytes, 8 more once it is encoded, and 2
// for its NULL mark. The rest of the 24 bytes is for growing buffers and texts.
func (b *buffers) limits(columns int) (rows, text int) {
	rows = int(min(max(b.memory/int64(max(columns, 1)*24), minRowGroup), maxRowGroup))
	return rows, int(min(b.memory/4, maxText))
}

const (
	minRowGroup = 1 << 10
	maxRowGroup = 32 << 10
	maxText     = 1 << 30
)

// begin returns the row group of a new file.
func (b *buffers) begin() *parquetfile.RowGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
	return b.take()
}

// end ends a file with that many extra row groups, and recycles all of them.
func (b *buffers) end(extra int, groups []*parquetfile.RowGroup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	b.extra -= extra
	b.idle = append(b.idle, groups...)
}

// more returns an extra row group for a file that has some already, or nil if
// the file must not have one more.
func (b *buffers) more(extra int) *parquetfile.RowGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open+b.extra >= b.most || extra+1 >= maxParallel {
		return nil
	}
	b.extra++
	return b.take()
}

// scarce reports whether files must return extra row groups, because others
// were opened.
func (b *buffers) scarce() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open+b.extra > b.most
}

// giveBack returns an extra row group.
func (b *buffers) giveBack(g *parquetfile.RowGroup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.extra--
	b.idle = append(b.idle, g)
}

func (b *buffers) take() *parquetfile.RowGroup {
	n := len(b.idle) - 1
	if n < 0 {
		return new(parquetfile.RowGroup)
	}
	g := b.idle[n]
	b.idle = b.idle[:n]
	return g
}
