package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// stdout is a sink that writes to standard output.
type stdout struct {
	q *batch.Queue
	w io.Writer
}

func (s *stdout) Run(ctx context.Context) error {
	// Without this, a write to a closed pipe would end the process without a message,
	// even if the sink is optional.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	for {
		select {
		case b, ok := <-s.q.Batches():
			if !ok {
				return nil
			}
			if err := s.write(ctx, b.Out); err != nil {
				if s.q.Optional && ctx.Err() == nil { // otherwise a write may still use the text
					s.q.Discard(b)
				}
				return err
			}
			s.q.Ack(b)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write writes all of text. It retries transient errors, such as a full disk, until ctx
// is done.
func (s *stdout) write(ctx context.Context, text []byte) error {
	var writing retry.Alarm
	for len(text) > 0 {
		n, err := s.writeOnce(ctx, text)
		text = text[n:]
		if err != nil && (!durable.IsTransient(err) || errors.Is(err, syscall.EIO)) { // EIO: the terminal was closed
			return fmt.Errorf("standard output: %w", err)
		}
		writing.Set(err, s.q.Log, "standard output cannot be written: the stream pauses", "standard output writable again")
		if err == nil {
			continue
		}
		if err := retry.Sleep(ctx, diskRetry); err != nil {
			return err
		}
	}
	return nil
}

// writeOnce calls Write once. It does not wait for the result after ctx is done, because
// nobody may ever read from a pipe.
func (s *stdout) writeOnce(ctx context.Context, text []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := s.w.Write(text)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}
