// Command tstatrepo brings what Tstat probes write into storage.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	_ "time/tzdata" // --timezone works where no zone files are installed
)

func main() { os.Exit(run(os.Args)) }

// run is main with the exit status as its result, so that deferred calls run.
func run(argv []string) int {
	ctx, stop := signalContext()
	defer stop()

	con := newConsole(os.Stderr)
	app := newApp(con)
	args, err := arrange(app, argv[1:])
	if err == nil {
		err = app.RunContext(ctx, append(argv[:1:1], args...))
	}
	if err == nil {
		return exitOK
	}
	err = orInterrupt(ctx, err)
	con.fail(err)
	return exitStatus(err)
}

// signalContext returns a context that ends with the first SIGINT or SIGTERM.
// A second one kills the process, whatever it is doing.
func signalContext() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if s, ok := (<-ch).(syscall.Signal); ok {
			signal.Stop(ch)
			cancel(interruptError{s})
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel(nil)
	}
}
