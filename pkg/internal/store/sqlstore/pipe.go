// Package sqlstore holds the common parts of the database stores.
package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"io"
)

// Pipe passes batches of rows to an upload in a separate goroutine, so that the next
// batches can be prepared while the server processes earlier ones.
type Pipe[B any] struct {
	ctx  context.Context
	feed chan B
	stop chan struct{} // closed by Abort
	done chan struct{} // closed when the upload has ended
	err  error         // of the upload; read after done
}

// Start returns a Pipe and runs upload in a goroutine. queue is the maximum number of
// batches that wait for the upload. upload must return soon after ctx is done.
func Start[B any](ctx context.Context, queue int, upload func(*Pipe[B]) error) *Pipe[B] {
	p := &Pipe[B]{ctx: ctx, feed: make(chan B, queue), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = upload(p)
	}()
	return p
}

var (
	errAborted = errors.New("aborted")
	errEnded   = errors.New("the server ended the upload")
)

// Next returns the next batch, or io.EOF after the last one. Only the upload may
// call it.
func (p *Pipe[B]) Next() (b B, err error) {
	select {
	case <-p.stop: // even while batches are queued
		return b, errAborted
	default:
	}
	select {
	case b, ok := <-p.feed:
		if !ok {
			return b, io.EOF
		}
		return b, nil
	case <-p.stop:
		return b, errAborted
	case <-p.ctx.Done():
		return b, p.ctx.Err()
	}
}

// Send passes a batch to the upload, which then owns it. If the upload has
// ended, Send returns its error.
func (p *Pipe[B]) Send(b B) error {
	select {
	case p.feed <- b:
		return nil
	case <-p.done:
		return cmp.Or(p.err, errEnded)
	}
}

// Close ends the stream of batches, waits for the upload to end, and returns its
// error.
func (p *Pipe[B]) Close() error {
	close(p.feed)
	<-p.done
	return p.err
}

// Abort makes the upload fail and waits for it to end. Call it instead of Close.
func (p *Pipe[B]) Abort() {
	close(p.stop)
	<-p.done
}
