package bulk

import (
	"cmp"
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// OpenPerJob is how many files of peers may be open for each job: those that
// wait for the network need no job. Each has a transaction in the store, with
// its connection and what it buffers.
const OpenPerJob = 4

// turn is how long a file keeps its place while another peer, which has fewer,
// waits for one.
const turn = time.Second

// piece is how much of a peer's file is read between two looks at its place,
// in bytes.
const piece = 256 << 10

// Limits bound what several runs do together, and divide it among the peers
// that their files come from. A place is for a file that is worked on: it
// stands for a CPU. A file of a peer gives it back while it waits for the
// network, so that a slow line holds up only itself. What such a file still
// holds, a transaction, is bounded apart: of the files that are open at a
// time, one peer's are at most as many as there are jobs, a part in
// OpenPerJob.
type Limits struct {
	places *peer.Shares
	open   *peer.Shares
	rate   *rate.Limiter // nil: no limit
}

// NewLimits returns limits of jobs files at a time, 0 for the default of
// Options.Jobs, and of MiB of source text a second, 0 for none.
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

	closed bool // everything was given back for good
	taken  bool
	since  time.Time // of taken
}

// enter counts a peer's file as open, as soon as it may.
func (l *Limits) enter(ctx context.Context, who string) (*place, error) {
	if err := l.open.Acquire(ctx, who); err != nil {
		return nil, err
	}
	return &place{Limits: l, who: who}, nil
}

// Take implements peer.Place. It passes on a place that was held for its turn
// and that another peer waits for.
func (p *place) Take(ctx context.Context) error {
	if p.taken && time.Since(p.since) >= turn && p.places.Contended(p.who) {
		p.GiveBack()
	}
	if p.taken || p.closed {
		return nil
	}
	if err := p.places.Acquire(ctx, p.who); err != nil {
		return err
	}
	p.taken, p.since = true, time.Now()
	return nil
}

// GiveBack implements peer.Place.
func (p *place) GiveBack() {
	if p.taken {
		p.taken = false
		p.places.Release(p.who)
	}
}

// close gives back everything: what is left to do for the file needs no place.
func (p *place) close() {
	p.GiveBack()
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

// Seek goes back to the start, see Content.
func (f *peerFile) Seek(offset int64, whence int) (int64, error) {
	f.pieces.Reset()
	return f.ReadSeekCloser.Seek(offset, whence)
}
