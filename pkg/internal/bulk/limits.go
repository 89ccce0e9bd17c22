package bulk

import (
	"cmp"
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// OpenPerJob is how many files of peers may be open for each job: a file that
// waits for the network does not occupy a job. Each open file has a transaction
// in the store, with its connection and buffers.
const OpenPerJob = 4

// turn is how long a file keeps its place while a peer with fewer places waits.
const turn = time.Second

// piece is the size of the pieces in which a peer's file is read, in bytes.
const piece = 256 << 10

// Limits bounds what several runs use together, and divides it among the peers
// whose files they import. A place stands for a CPU: a file holds one while it
// is processed. A file of a peer releases its place while it waits for the
// network, so that a slow line only delays itself. Its transaction stays open:
// one peer may have as many files open as there are jobs, and all peers together
// OpenPerJob times as many.
type Limits struct {
	places *peer.Shares
	open   *peer.Shares
	rate   *rate.Limiter // nil: no limit
}

// NewLimits returns limits of concurrent files (0 for the default of
// Options.Jobs) and of MiB of source text per second (0 for none).
func NewLimits(jobs int, mib float64) *Limits {
	jobs = cmp.Or(jobs, defaultJobs())
	l := &Limits{places: peer.NewShares(jobs, jobs), open: peer.NewShares(OpenPerJob*jobs, jobs)}
	if mib > 0 {
		l.rate = rate.NewLimiter(rate.Limit(mib*(1<<20)), rateBurst)
	}
	return l
}

// place is the place of a file that is being imported. It is not safe for
// concurrent use.
type place struct {
	*Limits
	who string

	closed bool // everything was released, and the place cannot be used again
	held   bool
	since  time.Time // when held became true
}

// enter waits until a peer may have one more open file, and counts it.
func (l *Limits) enter(ctx context.Context, who string) (*place, error) {
	if err := l.open.Acquire(ctx, who); err != nil {
		return nil, err
	}
	return &place{Limits: l, who: who}, nil
}

// Acquire implements peer.Place. A place that was held for its turn is given to
// another peer if one waits.
func (p *place) Acquire(ctx context.Context) error {
	if p.held && time.Since(p.since) >= turn && p.places.Contended(p.who) {
		p.Release()
	}
	if p.held || p.closed {
		return nil
	}
	if err := p.places.Acquire(ctx, p.who); err != nil {
		return err
	}
	p.held, p.since = true, time.Now()
	return nil
}

// Release implements peer.Place.
func (p *place) Release() {
	if p.held {
		p.held = false
		p.places.Release(p.who)
	}
}

// close releases everything: the rest of the work needs no place.
func (p *place) close() {
	p.Release()
	if !p.closed {
		p.closed = true
		p.open.Release(p.who)
	}
}

// peerFile is a file of a peer, see peer.PlaceReader.
type peerFile struct {
	io.ReadSeekCloser
	pieces *peer.PlaceReader
}

func newPeerFile(ctx context.Context, file io.ReadSeekCloser, p *place) *peerFile {
	return &peerFile{file, peer.NewPlaceReader(ctx, file, p, piece)}
}

func (f *peerFile) Read(p []byte) (int, error) { return f.pieces.Read(p) }

// Seek seeks to the start, see Content.
func (f *peerFile) Seek(offset int64, whence int) (int64, error) {
	f.pieces.Reset()
	return f.ReadSeekCloser.Seek(offset, whence)
}
