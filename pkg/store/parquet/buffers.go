package parquet

import (
	"runtime"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/parquetfile"
)

// buffers shares row groups, which are most of the memory, among the files that
// are being written. Each file has one. As long as there are fewer files than
// cores, files get further ones: they fill one while others are encoded.
type buffers struct {
	memory int64 // bytes of a row group
	most   int   // row groups at once, unless more files are open

	mu    sync.Mutex
	open  int // files
	extra int // row groups besides one for each file
	idle  []*parquetfile.RowGroup
}

// maxParallel is how many row groups of one file are in memory at most: one
// core parses as fast as two others encode.
const maxParallel = 3

// newBuffers returns buffers for so many files of memory bytes each.
func newBuffers(memory int64, files int) *buffers {
	cores := runtime.GOMAXPROCS(0)
	groups := max(files, min(cores, maxParallel))
	return &buffers{memory: memory * int64(files) / int64(groups), most: min(groups, cores)}
}

// limits returns how many rows of so many columns, and how many bytes of text,
// a row group may have. A value takes up to 8 bytes, as much again once it is
// encoded, and its NULL mark 2; a third is for buffers that grow and for texts.
func (b *buffers) limits(columns int) (rows, text int) {
	rows = int(min(max(b.memory/int64(max(columns, 1)*24), minRowGroup), maxRowGroup))
	return rows, int(min(b.memory/4, maxText))
}

const (
	minRowGroup = 1 << 10
	maxRowGroup = 32 << 10
	maxText     = 1 << 30
)

// begin returns the row group of a file that begins.
func (b *buffers) begin() *parquetfile.RowGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
	return b.take()
}

// end ends a file that had so many further row groups, and takes back its own.
func (b *buffers) end(extra int, groups []*parquetfile.RowGroup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	b.extra -= extra
	b.idle = append(b.idle, groups...)
}

// more returns a further row group, or nil if there is none.
func (b *buffers) more() *parquetfile.RowGroup {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open+b.extra >= b.most {
		return nil
	}
	b.extra++
	return b.take()
}

// scarce reports whether files have to give back further row groups, because
// others were opened.
func (b *buffers) scarce() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open+b.extra > b.most
}

// giveBack takes back a further row group.
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
