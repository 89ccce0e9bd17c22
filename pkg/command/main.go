// Package command implements the command line of tstatrepo: its commands, their flags,
// help and output.
package command

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "time/tzdata" // --timezone must work without installed zone files

	"golang.org/x/term"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
)

// releaseVersion is the version of a release build, or "" for any other build.
var releaseVersion string

// Main runs the program with the arguments of the process and returns the exit status.
// version is the version of a release build, or "" for any other build.
func Main(version string) int {
	releaseVersion = version
	return run(os.Args)
}

func run(argv []string) int {
	ctx, stop := signalContext()
	defer stop()

	con := console.New(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	app := newApp(con)
	args, err := arrange(app, argv[1:])
	if err == nil {
		err = app.RunContext(ctx, append(argv[:1:1], args...))
	}
	if err == nil {
		return exitOK
	}
	err = orInterrupt(ctx, err)
	con.Fail(err)
	return exitStatus(err)
}

// repeatedSignal is how long a second signal is ignored after the first. timeout(1)
// sends the same signal twice: to the process and then to its group.
const repeatedSignal = 300 * time.Millisecond

// signalContext returns a context that the first SIGINT or SIGTERM cancels. A second
// signal kills the process.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if s, ok := (<-ch).(syscall.Signal); ok {
			cancel(interruptError{s})
			time.Sleep(repeatedSignal)
			signal.Stop(ch)
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel(nil)
	}
}
