package sink

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// session is a connection or a command that receives lines. A pump has one session at a
// time.
type session interface {
	// write sends complete lines. It may return before they have arrived.
	// The text must not change until it is acked.
	write(b *batch.Batch, text []byte) error
	// broken returns a channel that is closed when the session has failed.
	broken() <-chan struct{}
	// err returns the cause of the failure, or nil.
	err() error
	// end closes the stream after everything is acked, and waits until the receiver
	// exits or ctx is done.
	end(ctx context.Context)
	// abort makes the session fail, even while write blocks.
	abort()
	// close frees the resources of the session. It returns the number of
	// bytes acked in this session.
	close() int64
}

// ending implements session.broken and session.err.
type ending struct {
	ctx  context.Context
	fail context.CancelCauseFunc // makes the session fail; the first cause is kept
}

func newEnding() ending {
	ctx, fail := context.WithCancelCause(context.Background())
	return ending{ctx, fail}
}

func (e ending) broken() <-chan struct{} { return e.ctx.Done() }
func (e ending) err() error              { return context.Cause(e.ctx) }

// opener opens a session. The session calls ack with the total number of bytes that have
// reached the receiver. It must not call ack concurrently.
type opener func(ctx context.Context, ack func(n int64)) (session, error)

// pump sends the batches of a queue through sessions. After a failure it resends
// unacked text in a new session, from the start of a line. A position is a byte offset
// in the text of all batches so far.
type pump struct {
	q          *batch.Queue
	log        *slog.Logger
	open       opener
	text       func(*batch.Batch) []byte
	back       *retry.Backoff
	afterClose bool // the stream had ended when the latest session was opened

	mu      sync.Mutex
	pending []*batch.Batch // written but not acked, in order
	start   int64          // position of the first pending batch
	sent    int64          // position after the last pending batch
	acked   int64          // position
	changed chan struct{}  // receives a value when pending has become empty
}

func newPump(q *batch.Queue, text func(*batch.Batch) []byte, open opener, back *retry.Backoff) *pump {
	return &pump{q: q, log: q.Log.With("sink", q.Name), open: open, text: text, back: back, changed: make(chan struct{}, 1)}
}

// Run implements Sink.
func (p *pump) Run(ctx context.Context) error {
	first := true
	for {
		s, base, err := p.connect(ctx, first)
		if s == nil {
			return err
		}
		first = false
		stop := context.AfterFunc(ctx, s.abort)
		err = p.session(ctx, s, base)
		if err == nil {
			s.end(ctx)
		}
		stop()
		p.ack(base + s.close())
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.log.Warn("sink disconnected, reconnecting", append([]any{"err", err}, hint.Attrs(err)...)...)
		p.q.Trouble(err)
	}
}

// connect opens a session and returns the position of the session's first byte. It
// retries all errors except usage errors until ctx is done. It waits before each attempt,
// but if first is set, it makes the first attempt at once. connect returns a nil session
// and a nil error if the queue is closed and everything is acked.
func (p *pump) connect(ctx context.Context, first bool) (session, int64, error) {
	var opening retry.Alarm
	for {
		if !first {
			if !p.finished() {
				p.wait(ctx)
			}
			if ctx.Err() != nil {
				return nil, 0, context.Cause(ctx)
			}
			if p.finished() {
				return nil, 0, nil
			}
		}
		p.afterClose = p.q.Closed.Err() != nil
		base := p.lineStart()
		s, err := p.open(ctx, func(n int64) { p.ack(base + n) })
		switch {
		case err == nil && !first:
			p.q.Stats.Restarts.Add(1)
		case err != nil && ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		case hint.IsUsage(err):
			return nil, 0, err
		}
		opening.Set(err, p.log, "sink cannot be opened, retrying", "sink reconnected")
		p.q.Trouble(err)
		if err == nil {
			return s, base, nil
		}
		first = false
	}
}

// finished reports whether the queue is closed and everything is acked.
func (p *pump) finished() bool {
	return p.q.Closed.Err() != nil && len(p.q.Batches()) == 0 && p.idle()
}

// wait waits before the next attempt to open a session. If the queue was closed after
// the last attempt, wait returns at once.
func (p *pump) wait(ctx context.Context) {
	if !p.afterClose {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(p.q.Closed, cancel)()
	}
	p.back.Wait(ctx)
}

// lineStart returns the position at which the first line that is not fully acked starts.
func (p *pump) lineStart() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) == 0 {
		return p.acked
	}
	text := p.text(p.pending[0])
	return p.start + int64(bytes.LastIndexByte(text[:p.acked-p.start], '\n')+1)
}

// session writes the pending batches through s, starting at position base, and then new
// batches. It returns nil when the queue is closed and everything is acked.
func (p *pump) session(ctx context.Context, s session, base int64) error {
	if err := p.repeat(s, base); err != nil {
		return err
	}
	in := p.q.Batches()
	for {
		if in == nil && p.idle() {
			return nil
		}
		select {
		case b, ok := <-in:
			if !ok {
				in = nil
				continue
			}
			p.add(b)
			if err := s.write(b, p.text(b)); err != nil {
				return err
			}
			p.back.Reset()
		case <-p.changed:
		case <-s.broken():
			return s.err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// repeat resends the pending batches through s, starting at position base.
func (p *pump) repeat(s session, base int64) error {
	p.mu.Lock()
	pending := append([]*batch.Batch(nil), p.pending...)
	pos := p.start
	p.mu.Unlock()
	for _, b := range pending {
		text := p.text(b)
		skip := max(0, min(base-pos, int64(len(text))))
		pos += int64(len(text))
		p.q.Stats.Repeated.Add(int64(len(text)) - skip)
		if err := s.write(b, text[skip:]); err != nil {
			return err
		}
	}
	return nil
}

// add appends a batch to pending.
func (p *pump) add(b *batch.Batch) {
	p.mu.Lock()
	p.pending = append(p.pending, b)
	p.sent += int64(len(p.text(b)))
	p.mu.Unlock()
	if len(p.text(b)) == 0 {
		p.ack(p.position()) // acks the batch at once if no other is pending
	}
}

func (p *pump) position() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// ack records that all bytes before pos have arrived, and acks the batches that end there
// or earlier.
func (p *pump) ack(pos int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked = max(p.acked, min(pos, p.sent))
	for len(p.pending) > 0 {
		b := p.pending[0]
		end := p.start + int64(len(p.text(b)))
		if end > p.acked {
			break
		}
		p.start = end
		p.pending[0] = nil
		p.pending = p.pending[1:]
		p.q.Ack(b)
	}
	if len(p.pending) == 0 {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

func (p *pump) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pending) == 0
}

var errAborted = errors.New("given up")
