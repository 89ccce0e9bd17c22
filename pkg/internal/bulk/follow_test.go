package bulk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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

// TestSourceThatReturnsIsNotCountedAgain checks that Follow counts each file once, even if
// the source is gone, empty or unreadable for a while and a store lacks the files.
func TestSourceThatReturnsIsNotCountedAgain(t *testing.T) {
	for name, gone := range map[string]func(w *sharedWorld) (back func()){
		"missing": func(w *sharedWorld) func() {
			w.Helper()
			away := w.root + ".away"
			if err := os.Rename(w.root, away); err != nil {
				w.Fatal(err)
			}
			return func() { os.Rename(away, w.root) }
		},
		"empty": func(w *sharedWorld) func() {
			away := w.root + ".away"
			if err := errors.Join(os.Rename(w.root, away), os.Mkdir(w.root, 0o755)); err != nil {
				w.Fatal(err)
			}
			return func() { os.Remove(w.root); os.Rename(away, w.root) }
		},
		"unreadable": func(w *sharedWorld) func() {
			site, away := filepath.Join(w.root, "site"), w.root+".away"
			if err := errors.Join(os.Rename(site, away), os.Symlink("nowhere", site)); err != nil {
				w.Fatal(err)
			}
			return func() { os.Remove(site); os.Rename(away, site) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newSharedWorld(t, 10)
				for _, k := range w.keys {
					w.move(k.Folder, "site/"+k.Folder)
				}
				up, down := newFragile("up", nil), newFragile("down", errDown)
				rows := int64(0)
				var back func()
				follow(t, w.independent(up, down), func(sum *Summary, err error) bool {
					w.counts(sum, "files=10 skipped=0")
					rows = sum.Total.Rows
					back = gone(w)
					return true
				}, func(sum *Summary, err error) bool {
					back()
					return true
				}, func(sum *Summary, err error) bool {
					w.counts(sum, "files=10 skipped=0")
					down.set(nil)
					return true
				}, func(sum *Summary, err error) bool {
					if err != nil {
						return false
					}
					w.counts(sum, fmt.Sprintf("files=10 skipped=0 rows=%d", rows))
					w.holds(down)
					return true
				})
			})
		})
	}
}

// TestRetriedFileIsCountedOnce checks that a file that one store refuses for a while is
// counted once.
func TestRetriedFileIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 3)
		full := newFragile("full", nil)
		full.refuses = errors.New("no such column")
		follow(t, w.independent(newFragile("up", nil), full), func(sum *Summary, err error) bool {
			w.counts(sum, "files=3 failed=3")
			full.refuses = nil
			return true
		}, func(sum *Summary, err error) bool {
			if err != nil {
				return false
			}
			w.counts(sum, "files=3 failed=3")
			w.holds(full)
			return true
		})
	})
}

// TestRetriedFileIsRejectedOnce checks that the rejected lines of a file that is refused
// are written once, although the file is retried. They would fill the reject file.
func TestRetriedFileIsRejectedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 0)
		w.put(log, udp(50, "a")+strings.Repeat("bad\n", 101))
		follow(t, w.options(w.open()), func(sum *Summary, _ error) bool {
			if sum.Total.Failed < 3 {
				return false
			}
			text, err := os.ReadFile(sum.RejectFile)
			if n := strings.Count(string(text), "\n"); err != nil || n != 101 {
				t.Errorf("%d lines, %v", n, err)
			}
			return true
		})
	})
}

// TestFollowReportsUnreadableParts checks that each pass reports a part of the source that
// cannot be read as an error. The log has a line each time that the problem appears.
func TestFollowReportsUnreadableParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSharedWorld(t, 1)
		link := filepath.Join(w.root, "site")
		broken := func() {
			if err := os.Symlink("nowhere", link); err != nil {
				t.Fatal(err)
			}
		}
		broken()
		lines := 0
		opt := w.options(w.open())
		opt.Log = slog.New(slog.NewTextHandler(&hook{&w.log, "part of the source cannot be read", func() { lines++ }}, nil))
		check := func(want int, failed bool, then func()) func(*Summary, error) bool {
			return func(_ *Summary, err error) bool {
				if lines != want || failed != (err != nil && strings.Contains(err.Error(), link)) {
					t.Errorf("%d lines, want %d; %v", lines, want, err)
				}
				then()
				return true
			}
		}
		follow(t, opt, check(1, true, func() {}), check(1, true, func() { os.Remove(link) }), check(1, false, broken), check(2, true, func() {}))
	})
}
