package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	for {
		select {
		case b, ok := <-s.q.Batches():
			if !ok {
				return nil
			}
			if err := s.write(ctx, b.Out); err != nil {
				if s.q.Optional {
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
		n, err := s.w.Write(text)
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
