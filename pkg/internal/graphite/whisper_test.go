//go:build linux

package graphite

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
)

func newWhisper(t *testing.T) (w *Whisper, dir string) {
	t.Helper()
	dir = t.TempDir()
	w, err := NewWhisper(WhisperOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return w, dir
}

// TestWhisperLargeStep checks that an RRD with any step that package rrdfile accepts
// neither ends the process nor becomes an invalid file.
func TestWhisperLargeStep(t *testing.T) {
	w, dir := newWhisper(t)
	for _, step := range []int64{1, 18712, 86400, 1 << 30, 1 << 31} {
		at := time.Now().Unix() / step * step
		if err := w.Send(t.Context(), []Metric{{Path: "x", Step: step, Points: []Point{{Time: at, Value: 1}, {Time: at + step, Value: 2}}}}); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		for _, r := range DefaultRetentions(step, at) {
			if r.SecondsPerPoint() < 1 || r.MaxRetention() > math.MaxUint32 {
				t.Errorf("step %d: %d points of %d s", step, r.NumberOfPoints(), r.SecondsPerPoint())
			}
		}
		if err := os.Remove(filepath.Join(dir, "x.wsp")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhisperDamaged checks that a file without usable archives is an error that names
// the file. It must neither end the process nor count points as stored.
func TestWhisperDamaged(t *testing.T) {
	w, dir := newWhisper(t)
	m := []Metric{{Path: "x", Step: 300, Points: []Point{{Time: time.Now().Unix(), Value: 1}}}}
	if err := w.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "x.wsp")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	zero := func(from, to int) []byte {
		b := append([]byte{}, good...)
		clear(b[from:to])
		return b
	}
	for name, text := range map[string][]byte{
		"all zeros": zero(0, len(good)), "no seconds per point": zero(20, 24), "no points": zero(24, 28), "empty": nil,
	} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		err := w.Send(t.Context(), m)
		if err == nil || name != "empty" && (!strings.Contains(err.Error(), file+" is damaged") || hint.Of(err) == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhisperSparse checks that a metric whose first points are far apart gets slots of
// Tstat's step if its step is unknown. Larger slots would keep one point of several.
func TestWhisperSparse(t *testing.T) {
	w, dir := newWhisper(t)
	now := time.Now().Unix() / 7200 * 7200
	var want int
	for _, part := range [][]int64{{-43200, -36000, -7200}, {-3600}, {-3300}, {-3000}} {
		m := Metric{Path: "x"}
		for _, at := range part {
			m.Points = append(m.Points, Point{Time: now + at, Value: float64(at)})
			want++
		}
		if err := w.Send(t.Context(), []Metric{m}); err != nil {
			t.Fatal(err)
		}
	}
	got := carbontest.Read(t, dir, now-86400, now)["x"]
	if len(got) != want || got[now-3300] != -3300 {
		t.Errorf("%d points, want %d: %v", len(got), want, got)
	}
	for _, c := range []struct {
		times []int64
		step  int64
	}{{[]int64{600, 660}, 60}, {[]int64{300, 660}, 360}, {[]int64{60}, 300}, {[]int64{30, 90000}, 3600}, {[]int64{0, 600}, 300}} {
		m := Metric{}
		for _, at := range c.times {
			m.Points = append(m.Points, Point{Time: at})
		}
		if step := stepOf(m); step != c.step {
			t.Errorf("step of points at %d: %d, want %d", c.times, step, c.step)
		}
	}
}

// TestWhisperFailureCountsNothing checks that a batch that fails and is sent again counts
// its old points once.
func TestWhisperFailureCountsNothing(t *testing.T) {
	w, dir := newWhisper(t)
	now := time.Now().Unix()
	old := Metric{Path: "x", Step: 300, Points: []Point{{Time: now - 5*365*86400, Value: 1}, {Time: now, Value: 2}}}
	if err := w.Send(t.Context(), []Metric{{Path: "x", Step: 300, Points: old.Points[1:]}}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "y.wsp"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := []Metric{old, {Path: "y", Step: 300, Points: old.Points}}
	if err := w.Send(t.Context(), m); err == nil || w.Lost() != 0 {
		t.Errorf("%v: %d points lost", err, w.Lost())
	}
	if err := os.Remove(filepath.Join(dir, "y.wsp")); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), m); err != nil || w.Lost() != 1 {
		t.Errorf("%v: %d points lost", err, w.Lost())
	}
}
