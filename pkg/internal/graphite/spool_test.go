//go:build linux

package graphite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// times returns the times of the points that f received, in order.
func (f *fake) times() (list []int64) {
	for _, m := range f.got {
		for _, p := range m.Points {
			list = append(list, p.Time)
		}
	}
	return list
}

func point(at int64) []Metric { return []Metric{{Path: "m", Points: []Point{{Time: at, Value: 1}}}} }

// TestSpoolKeepsOrderAfterClockStep checks that a batch is sent after the batches that
// were written before the clock was set back. A Prometheus refuses older points after
// newer ones.
func TestSpoolKeepsOrderAfterClockStep(t *testing.T) {
	dir := t.TempDir()
	f := &fake{down: true}
	s, err := NewSpool(f, dir, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	for at := range int64(3) {
		if err := s.Send(t.Context(), point(at)); err != nil {
			t.Fatal(err)
		}
		// The clock was an hour ahead when the batch was written.
		entries, _ := os.ReadDir(dir)
		last := entries[len(entries)-1].Name()
		ahead := fmt.Sprintf("%020d%s", time.Now().Add(time.Hour).UnixNano(), spoolSuffix)
		if at == 0 {
			if err := os.Rename(filepath.Join(dir, last), filepath.Join(dir, ahead)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.down, s.shared.until = false, time.Time{}
	if err := s.Send(t.Context(), point(3)); err != nil || !slices.Equal(f.times(), []int64{0, 1, 2, 3}) {
		t.Errorf("%v: sent %v", err, f.times())
	}
}

// TestSpoolsKeepOrder checks that the batches of several folders are sent in the order
// in which they were written, whichever spool is flushed first.
func TestSpoolsKeepOrder(t *testing.T) {
	f := &fake{down: true}
	first, err := NewSpool(f, t.TempDir(), 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := first.Beside(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for at := range int64(6) {
		if err := []*Spool{first, second}[at%2].Send(t.Context(), point(at)); err != nil {
			t.Fatal(err)
		}
	}
	f.down, first.shared.until = false, time.Time{}
	for _, s := range []*Spool{first, second} {
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(f.times(), []int64{0, 1, 2, 3, 4, 5}) {
		t.Errorf("sent %v", f.times())
	}
}

// TestSpoolKeepsUnreadableBatch checks that a batch that cannot be read now is not set
// aside as damaged: it may be intact.
func TestSpoolKeepsUnreadableBatch(t *testing.T) {
	dir := t.TempDir()
	s, err := NewSpool(&fake{}, dir, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	batch := filepath.Join(dir, "1"+spoolSuffix)
	if err := os.Symlink(batch, batch); err != nil { // fails like a lack of rights, also for root
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); !errors.Is(err, syscall.ELOOP) || errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(batch); err != nil {
		t.Error(err)
	}
}
