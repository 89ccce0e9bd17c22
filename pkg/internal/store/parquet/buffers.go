package parquet

import (
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/parquetfile"
)

// buffers shares row groups, which use most of the memory, among the open files.
// Each file has one row group. While fewer files than cores are open, a file can
// get extra row groups, to fill one while others are encoded.
type buffers struct {
	memory    int64 // bytes of a row group
	maxGroups int   // row groups of all files, unless more files are open

	mu    sync.Mutex
	open  int // files being written
	extra int // row groups beyond one per file
	idle  []*parquetfile.RowGroup
}

// maxParallel is the maximum number of row groups per file. Three suffice, because one
// core parses as fast as two others encode.
const maxParallel = 3

// newBuffers returns the buffers of a store. files is the number of files that are open
// at once, cores is the number of cores that encode rows, and memory is the size of the
// buffers in bytes per file.
func newBuffers(memory int64, files, cores int) *buffers {
	groups := max(files, min(cores, files*maxParallel))
	return &buffers{memory: memory * int64(files) / int64(groups), maxGroups: min(groups, cores)}
}

// limits returns how many rows and how many bytes of strings a row group with the given
// number of columns may have. It reserves 24 bytes per value: up to 8 for the value, 8
// more once it is encoded, 2 for its NULL mark, and the rest for strings and growing
// buffers.
func (b *buffers) limits(columns int) (rows, text int) {
	rows = int(min(max(b.memory/int64(max(columns, 1)*24), minRowGroup), maxRowGroup))
	return rows, int(min(b.memory/4, maxText))
}

const (
	minRowGroup = 1 << 10
	maxRowGroup = 32 << 10
	maxText     = 1 << 30
)

// begin counts a new file as open and returns its first row group.
func (b *buffers) begin() *parquetfile.RowGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
	return b.idleGroup()
}

// end counts a file as closed and recycles its row groups. extra is the number of extra
// row groups among them.
func (b *buffers) end(extra int, groups []*parquetfile.RowGroup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	b.extra -= extra
	b.idle = append(b.idle, groups...)
}

// extraGroup returns another extra row group for a file, or nil if the file must not get
// one. extra is the number of extra row groups that the file already has.
func (b *buffers) extraGroup(extra int) *parquetfile.RowGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open+b.extra >= b.maxGroups || extra+1 >= maxParallel {
		return nil
	}
	b.extra++
	return b.idleGroup()
}

// scarce reports whether files must release their extra row groups because more files
// were opened.
func (b *buffers) scarce() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open+b.extra > b.maxGroups
}

// release recycles an extra row group.
func (b *buffers) release(g *parquetfile.RowGroup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.extra--
	b.idle = append(b.idle, g)
}

// idleGroup returns a recycled or new row group.
func (b *buffers) idleGroup() *parquetfile.RowGroup {
	n := len(b.idle) - 1
	if n < 0 {
		return new(parquetfile.RowGroup)
	}
	g := b.idle[n]
	b.idle = b.idle[:n]
	return g
}
