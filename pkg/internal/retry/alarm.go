package retry

import (
	"context"
	"log/slog"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Alarm logs when a retried operation starts to fail and when it recovers. The zero
// value represents a working operation.
type Alarm struct{ failing bool }

// Set records the result of an attempt and reports whether the state changed. When the
// operation starts to fail, Set logs the first message with the error and its hint. When
// the operation recovers, Set logs the second message.
func (a *Alarm) Set(err error, log *slog.Logger, failing, recovered string) (changed bool) {
	switch {
	case err != nil && !a.failing:
		log.Warn(failing, append([]any{"err", err}, hint.Attrs(err)...)...)
	case err == nil && a.failing:
		log.Info(recovered)
	default:
		return false
	}
	a.failing = err != nil
	return true
}

// Until calls cond at the given interval until cond returns true or ctx is done.
func Until(ctx context.Context, every time.Duration, cond func() bool) {
	for !cond() && Sleep(ctx, every) == nil {
	}
}
