package bulk

import (
	"cmp"
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// OpenPerJob is the maximum number of open peer files per job. It exceeds 1 because a
// file that waits for the network does not occupy a job. It is limited because each open
// file has a transaction in the store, with a connection and buffers.
const OpenPerJob = 4

// timeSlice is how long a file may keep its place (see Limits) while a peer with fewer
// places waits.
const timeSlice = time.Second

// piece is the number of bytes of a peer's file that are read at a time.
const piece = 256 << 10

// Limits restricts several runs as a whole, and divides the resources among the peers
// whose files they import. A place stands for a CPU: a file occupies one while it is
// processed. A peer's file releases its place while it waits for the network, so that a
// slow connection delays only itself. Its transaction stays open. One peer may have as
// many open files as there are jobs, and all peers together OpenPerJob times as many.
type Limits struct {
	places *peer.Shares
	open   *peer.Shares
	rate   *rate.Limiter // nil: no limit
}

// NewLimits returns limits on the number of concurrent files (0: the default of
// Options.Jobs) and on the MiB of source text read per second (0: no limit).
func NewLimits(jobs int, mib float64) *Limits {
	jobs = cmp.Or(jobs, defaultJobs())
	l := &Limits{places: peer.NewShares(jobs, jobs), open: peer.NewShares(OpenPerJob*jobs, jobs)}
	if mib > 0 {
		l.rate = rate.NewLimiter(rate.Limit(mib*(1<<20)), rateBurst)
	}
	return l
}

// place represents a file that is being imported. Between Acquire and Release, the file
// occupies one of the places that Limits describes. A place is not safe for concurrent
// use.
type place struct {
	*Limits
	peerName string

	closed   bool // the place cannot be used again
	acquired bool
	since    time.Time // when acquired became true
}

// enter waits until the named peer may open another file. It counts the file as open
// until the returned place is closed.
func (l *Limits) enter(ctx context.Context, peerName string) (*place, error) {
	if err := l.open.Acquire(ctx, peerName); err != nil {
		return nil, err
	}
	return &place{Limits: l, peerName: peerName}, nil
}

// Acquire implements peer.Place. If the file has kept its place for its time slice
// and another peer waits, Acquire first gives the place to that peer.
func (p *place) Acquire(ctx context.Context) error {
	if p.acquired && time.Since(p.since) >= timeSlice && p.places.Contended(p.peerName) {
		p.Release()
	}
	if p.acquired || p.closed {
		return nil
	}
	if err := p.places.Acquire(ctx, p.peerName); err != nil {
		return err
	}
	p.acquired, p.since = true, time.Now()
	return nil
}

// Release implements peer.Place.
func (p *place) Release() {
	if p.acquired {
		p.acquired = false
		p.places.Release(p.peerName)
	}
}

// close releases the place for good, and no longer counts the file as open. The rest of
// the file's import needs no CPU.
func (p *place) close() {
	p.Release()
	if !p.closed {
		p.closed = true
		p.open.Release(p.peerName)
	}
}

// peerFile is a peer's file; see peer.PlaceReader.
type peerFile struct {
	io.ReadSeekCloser
	pieces *peer.PlaceReader
}

func newPeerFile(ctx context.Context, file io.ReadSeekCloser, p *place) *peerFile {
	return &peerFile{file, peer.NewPlaceReader(ctx, file, p, piece)}
}

func (f *peerFile) Read(p []byte) (int, error) { return f.pieces.Read(p) }

// Seek seeks to the start; see Content.
func (f *peerFile) Seek(offset int64, whence int) (int64, error) {
	f.pieces.Reset()
	return f.ReadSeekCloser.Seek(offset, whence)
}
