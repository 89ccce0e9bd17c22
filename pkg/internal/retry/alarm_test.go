package retry_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// TestAlarmLogsChangesOnly checks that only the first of two failures, with its
// hint, and the first of two successes are logged.
func TestAlarmLogsChangesOnly(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	var a retry.Alarm
	var changes []bool
	for _, err := range []error{nil, hint.New("no route", "plug it in"), errors.New("other"), nil, nil} {
		changes = append(changes, a.Set(err, log, "sink disconnected", "sink reconnected"))
	}
	for i, want := range []bool{false, true, false, true, false} {
		if changes[i] != want {
			t.Errorf("attempt %d changed: %v, want %v", i, changes[i], want)
		}
	}
	got := text.String()
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, `msg="sink disconnected" err="no route" hint="plug it in"`) || !strings.Contains(got, `msg="sink reconnected"`) {
		t.Errorf("logged:\n%s", got)
	}
}

func TestUntilEndsWithTheConditionOrTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		retry.Until(t.Context(), time.Second, func() bool { n++; return n == 3 })
		if n != 3 {
			t.Errorf("%d polls, want 3", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		retry.Until(ctx, time.Hour, func() bool { return false })
		if ctx.Err() == nil {
			t.Error("ended before the context")
		}
	})
}
