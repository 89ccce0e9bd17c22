package retry

import (
	"context"
	"log/slog"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Alarm logs once when a retried operation starts to fail, and once when it
// works again. The zero Alarm is for an operation that works.
type Alarm struct{ on bool }

// Set records the result of the last attempt, and reports whether that has
// changed. It logs a change: failing with err and its hint, or again.
func (a *Alarm) Set(err error, log *slog.Logger, failing, again string) (changed bool) {
	switch {
	case err != nil && !a.on:
		log.Warn(failing, append([]any{"err", err}, hint.Attrs(err)...)...)
	case err == nil && a.on:
		log.Info(again)
	default:
		return false
	}
	a.on = err != nil
	return true
}

// Until polls until cond holds or ctx ends.
func Until(ctx context.Context, every time.Duration, cond func() bool) {
	for !cond() && Sleep(ctx, every) == nil {
	}
}
