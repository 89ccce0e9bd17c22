package tstat

import "io"

// aheadSize is the size, in bytes, of the blocks of decompressed text that ahead reads.
// Reader.Next also requests this many bytes at a time.
const aheadSize = blockSize / 2

// ahead reads the next block of a file in a goroutine while the caller processes the
// previous block.
type ahead struct {
	src   io.Reader
	block []byte
	rest  []byte        // part of block that Read has not returned yet
	err   error         // error that follows block
	done  chan struct{} // closed when the goroutine ends; nil if it is not running

	panicked any // the value that the goroutine panicked with
}

// begin starts a goroutine that reads the first block of src.
func (a *ahead) begin(src io.Reader) {
	a.src, a.err, a.panicked = src, nil, nil
	if a.block == nil {
		a.block = make([]byte, aheadSize)
	}
	a.start()
}

func (a *ahead) start() {
	done := make(chan struct{})
	a.done = done
	go func() {
		defer close(done)
		defer func() { a.panicked = recover() }()
		n := 0
		for n < len(a.block) && a.err == nil {
			var k int
			k, a.err = a.src.Read(a.block[n:])
			n += k
		}
		a.rest = a.block[:n]
	}()
}

// join waits until the goroutine that reads ahead, if any, has ended.
func (a *ahead) join() {
	if a.done != nil {
		<-a.done
		a.done = nil
	}
}

// Read implements io.Reader. If the goroutine that reads ahead panicked, Read panics too,
// because the caller recovers from panics and then fails only this file's import.
func (a *ahead) Read(p []byte) (int, error) {
	a.join()
	if a.panicked != nil {
		panic(a.panicked)
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	if len(a.rest) > 0 {
		return n, nil
	}
	if a.err != nil {
		return n, a.err
	}
	a.start()
	return n, nil
}
