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

const (
	// moment is how long a read may take before the file gives back its place:
	// a peer that sends at full speed keeps it.
	moment = 100 * time.Millisecond
	// turn is how long a file keeps its place while another peer, which has
	// fewer, waits for one.
	turn = time.Second
	// piece is how much of a peer's file is read between two looks at its
	// place, in bytes. With less, one that trickles would never be waited for
	// long enough to give back its place.
	piece = 256 << 10
)

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

// take waits for a place.
func (p *place) take(ctx context.Context) error {
	if p.taken || p.closed {
		return nil
	}
	if err := p.places.Acquire(ctx, p.who); err != nil {
		return err
	}
	p.taken, p.since = true, time.Now()
	return nil
}

// giveBack gives back the place until the next take.
func (p *place) giveBack() {
	if p.taken {
		p.taken = false
		p.places.Release(p.who)
	}
}

// pass lets another peer have a turn if it has waited for one long enough.
func (p *place) pass(ctx context.Context) error {
	if !p.taken || time.Since(p.since) < turn || !p.places.Contended(p.who) {
		return nil
	}
	p.giveBack()
	return p.take(ctx)
}

// close gives back everything: what is left to do for the file needs no place.
func (p *place) close() {
	p.giveBack()
	if !p.closed {
		p.closed = true
		p.open.Release(p.who)
	}
}

// peerFile is a file of a peer. It is read a piece at a time, without a place
// if that takes longer than a moment.
type peerFile struct {
	io.ReadSeekCloser
	ctx   context.Context
	place *place
	buf   []byte
	rest  []byte // of buf, not returned yet
	err   error  // to be returned after rest
}

func (f *peerFile) Read(p []byte) (int, error) {
	if len(f.rest) == 0 && f.err == nil {
		f.fill()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	if n == 0 {
		return 0, f.err
	}
	return n, nil
}

// fill reads the next piece.
func (f *peerFile) fill() {
	if f.err = f.place.pass(f.ctx); f.err != nil {
		return
	}
	if f.buf == nil {
		f.buf = make([]byte, piece)
	}
	gone := make(chan struct{}) // until then the place is the timer's, if that fires
	timer := time.AfterFunc(moment, func() {
		f.place.giveBack()
		close(gone)
	})
	n := 0
	for n < len(f.buf) && f.err == nil {
		var m int
		m, f.err = f.ReadSeekCloser.Read(f.buf[n:])
		n += m
	}
	f.rest = f.buf[:n]
	if !timer.Stop() {
		<-gone
		if err := f.place.take(f.ctx); err != nil {
			f.rest, f.err = nil, err
		}
	}
}

// Seek goes back to the start, see Content.
func (f *peerFile) Seek(offset int64, whence int) (int64, error) {
	f.rest, f.err = nil, nil
	return f.ReadSeekCloser.Seek(offset, whence)
}
