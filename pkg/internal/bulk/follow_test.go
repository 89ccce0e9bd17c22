package bulk

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"
)

// follow imports with Follow, and calls steps one by one after the passes until they are
// used up. Each step returns whether the next one follows.
func follow(t *testing.T, opt Options, steps ...func(sum *Summary, err error) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	opt.Follow, opt.Poll = true, time.Minute
	opt.OnPass = func(sum *Summary, err error) {
		if steps[0](sum, err) {
			if steps = steps[1:]; len(steps) == 0 {
				cancel()
			}
		}
	}
	if _, err := Run(ctx, opt); !errors.Is(err, context.Canceled) || len(steps) > 0 {
		t.Errorf("%v, %d steps are left", err, len(steps))
	}
}

// TestVanishedFileIsTriedAgain checks that a file that was gone when it was opened does
// not count as settled, and is imported if it is still listed later.
func TestVanishedFileIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 0)
		src, settled, gone := new(probeSource), 0, true
		src.add(t, w.put(log, udp(3, "a")), log)
		open := src.files[0].Open
		src.files[0].Settled = func() { settled++ }
		src.files[0].Open = func(ctx context.Context) (*Content, error) {
			if gone {
				return nil, fs.ErrNotExist
			}
			return open(ctx)
		}
		opt := w.options(w.open())
		opt.Sources, opt.Remote = nil, []Source{src}
		follow(t, opt, func(sum *Summary, err error) bool {
			w.counts(sum, "files=0 vanished=1")
			if settled > 0 || err != nil {
				t.Errorf("settled %d times, %v", settled, err)
			}
			gone = false
			return true
		}, func(sum *Summary, err error) bool {
			if sum.Total.Files == 0 {
				return false
			}
			w.counts(sum, "files=1 vanished=1")
			if settled == 0 {
				t.Error("not settled")
			}
			return true
		})
	})
}
