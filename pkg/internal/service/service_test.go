package service

import (
	"context"
	"errors"
	"testing"
)

// TestAllErrorsOfPartsAreReported checks that the first part that fails stops
// the others, and that their errors are reported too.
func TestAllErrorsOfPartsAreReported(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	p := &parts{stop: stop}
	stopped := func(err error) func() error {
		return func() error {
			<-ctx.Done()
			return err
		}
	}
	p.Go(stopped(nil))
	p.Go(stopped(context.Canceled))
	p.Go(stopped(errors.Join(context.Canceled, errors.New("lines are lost"))))
	p.Go(func() error { return errors.New("clients: address in use") })
	p.running.Wait()
	if err := p.err(); err == nil || err.Error() != "clients: address in use\nlines are lost" {
		t.Errorf("%v, want what failed and what is lost", err)
	}
}
