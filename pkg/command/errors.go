package command

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Exit statuses, which are the same for every command.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitRejects  = 3
	exitTryAgain = 75 // EX_TEMPFAIL of sysexits
)

// exitTexts explains the exit statuses in help and man pages.
var exitTexts = []struct{ status, text string }{
	{"0", "succeeded"},
	{"1", "failed; completed work is kept"},
	{"2", "wrong usage or configuration; nothing was done"},
	{"3", "succeeded, but some lines were rejected"},
	{"75", "temporary failure, try again later: locked by another run, or a source or destination is down"},
	{"130, 143", "interrupted by SIGINT or SIGTERM, after a clean stop"},
}

// rejectsError reports that a run stored everything except the lines that it rejected.
type rejectsError struct {
	lines int64
	file  string
}

func (e rejectsError) Error() string {
	s := console.Plural(e.lines, "line") + " rejected"
	if e.file != "" {
		s += ", see " + e.file
	}
	return s
}

// tryAgainError reports that a run failed but may succeed later.
type tryAgainError struct{ error }

func (e tryAgainError) Unwrap() error { return e.error }

// interruptError is the cancellation cause of a context that was canceled by a signal.
type interruptError struct{ signal syscall.Signal }

func (e interruptError) Error() string {
	if e.signal == syscall.SIGTERM {
		return "terminated"
	}
	return "interrupted"
}

// orInterrupt returns err. If a signal canceled ctx, however, an interruptError
// replaces those errors in err that the signal may have caused. These are
// context.Canceled and the errors of stores and sources that stayed unavailable.
func orInterrupt(ctx context.Context, err error) error {
	var sig interruptError
	if !errors.As(context.Cause(ctx), &sig) {
		return err
	}
	cut := []error{context.Canceled, store.ErrUnavailable, bulk.ErrSource}
	if !slices.ContainsFunc(cut, func(target error) bool { return errors.Is(err, target) }) {
		return err
	}
	return errors.Join(hint.Without(err, append(cut, sig)...), sig)
}

// exitStatus returns the exit status for err. An interruptError in err determines the
// status only if err contains no other error.
func exitStatus(err error) int {
	var (
		sig     interruptError
		rejects rejectsError
		later   tryAgainError
		name    *net.DNSError
	)
	if errors.As(err, &sig) {
		rest := hint.Without(err, sig)
		if rest == nil {
			return 128 + int(sig.signal)
		}
		err = rest
	}
	switch {
	case err == nil:
		return exitOK
	case hint.IsUsage(err):
		return exitUsage
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, graphite.ErrUnavailable), errors.Is(err, bulk.ErrSource),
		errors.Is(err, state.ErrLocked), errors.As(err, &later), errors.As(err, &name), durable.IsTransient(err):
		return exitTryAgain
	case errors.As(err, &rejects):
		return exitRejects
	}
	return exitFailed
}
