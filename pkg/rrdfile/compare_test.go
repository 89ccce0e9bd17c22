//go:build linux

package rrdfile

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

// altered is a decoder whose points differ from those of native.
type altered struct {
	native
	alter func([]Point) []Point
}

func (a altered) points(h *header, p piece, rows []byte, f *File) error {
	err := a.native.points(h, p, rows, f)
	f.Series[0].Points = a.alter(f.Series[0].Points)
	return err
}

// TestComparingFindsDifferences checks that each kind of difference fails the Read, and
// that the error names the first one.
func TestComparingFindsDifferences(t *testing.T) {
	file := filepath.Join(rrdtest.Samples(t), "ip_len_in.avg.rrd")
	f, err := NewReader().Read(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	points := slices.Clone(f.Series[0].Points)
	if len(points) < 5 {
		t.Fatalf("%d points", len(points))
	}
	last := len(points) - 1
	for name, c := range map[string]struct {
		alter func([]Point) []Point
		at    int // -1: equal
	}{
		"equal":   {func(p []Point) []Point { return p }, -1},
		"value":   {func(p []Point) []Point { p[2].Value = math.Nextafter(p[2].Value, 0); return p }, 2},
		"time":    {func(p []Point) []Point { p[3].Time++; return p }, 3},
		"missing": {func(p []Point) []Point { return slices.Delete(p, 1, 2) }, 1},
		"cut":     {func(p []Point) []Point { return p[:last] }, last},
		"more":    {func(p []Point) []Point { return append(p, Point{Time: 1 << 33}) }, len(points)},
	} {
		r := &Reader{decode: &comparing{second: altered{alter: c.alter}}}
		got, err := r.Read(file, points[0].Time-1) // all in the same archive
		if c.at < 0 {
			if err != nil || !slices.Equal(got.Series[0].Points, points) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var d *DifferenceError
		if !errors.As(err, &d) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.at < len(points) && (d.Go == nil || *d.Go != points[c.at]) || c.at == len(points) && d.Go != nil {
			t.Errorf("%s: %v, want that at %d", name, err, c.at)
		}
	}
}

func TestModes(t *testing.T) {
	for _, mode := range append(slices.Clone(Modes), "", "Go", "python") {
		r, err := NewReaderOf(mode)
		if check := CheckMode(mode); (check == nil) != (err == nil) || check != nil && !hint.IsUsage(check) {
			t.Errorf("%s: %v, %v", mode, check, err)
		}
		if known := mode == Go || hasLibrrd && slices.Contains(Modes, mode); known != (err == nil) {
			t.Errorf("%s: %v", mode, err)
		}
		if r != nil {
			r.Close()
		}
	}
	if !hasLibrrd && !errors.Is(CheckMode(Both), ErrNoLibrrd) {
		t.Error(CheckMode(Both))
	}
}

// TestLibrrdReads checks that mode Librrd decodes with librrd alone, if built with the
// tag librrd.
func TestLibrrdReads(t *testing.T) {
	if !hasLibrrd {
		t.Skip("built without librrd")
	}
	r, err := NewReaderOf(Librrd)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, is := r.decode.(native); is {
		t.Fatal("values are decoded in Go")
	}
	files, err := filepath.Glob(filepath.Join(rrdtest.Samples(t), "*.rrd"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		want, err := NewReader().Read(file, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Read(file, 0)
		if err != nil || !slices.EqualFunc(got.Series, want.Series, func(a, b Series) bool {
			return a.Source == b.Source && slices.Equal(a.Points, b.Points)
		}) || got.Unknown != want.Unknown {
			t.Errorf("%s: %v", file, err)
		}
	}
	if _, err := r.Read(filepath.Join(t.TempDir(), "none"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
