package rrdfile

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// ErrNoLibrrd is the usage error that NewReaderOf returns if the program was built
// without librrd and the mode requires it.
var ErrNoLibrrd = hint.Usage("this program was built without librrd",
	"install librrd-dev, pkg-config and gcc, then run make build, which builds it with the tag librrd")

// Modes of decoding values, for NewReaderOf.
const (
	Go     = "go"     // decode in Go, like NewReader
	Librrd = "librrd" // decode with librrd
	Both   = "both"   // decode with both; Read returns a DifferenceError if they differ
)

// Modes lists the modes of decoding values.
var Modes = []string{Go, Librrd, Both}

// Readers returns the decoders that this program contains: Go, and Librrd if it was
// built with librrd.
func Readers() []string {
	if hasLibrrd {
		return []string{Go, Librrd}
	}
	return []string{Go}
}

// CheckMode returns a usage error if NewReaderOf would reject the mode.
func CheckMode(mode string) error {
	switch {
	case !slices.Contains(Modes, mode):
		return hint.Usage(fmt.Sprintf("%q is not one of %s", mode, strings.Join(Modes, ", ")), "")
	case mode != Go && !hasLibrrd:
		return ErrNoLibrrd
	}
	return nil
}

// NewReaderOf returns a reader that decodes values in one of the Modes.
func NewReaderOf(mode string) (*Reader, error) {
	if err := CheckMode(mode); err != nil {
		return nil, err
	}
	if mode == Go {
		return NewReader(), nil
	}
	second, err := newLibrrd()
	if err != nil {
		return nil, err
	}
	if mode == Both {
		return &Reader{decode: &comparing{second: second}}, nil
	}
	return &Reader{decode: second}, nil
}

// DifferenceError reports the first point on which the Go decoder and librrd disagree.
type DifferenceError struct {
	Source     string
	Go, Librrd *Point // the points that differ; nil if the decoder found no point
}

func (e *DifferenceError) Error() string {
	text := func(p *Point) string {
		if p == nil {
			return "no value"
		}
		return fmt.Sprintf("%v at %d", p.Value, p.Time)
	}
	return fmt.Sprintf("data source %s: %s read in Go, %s by librrd", e.Source, text(e.Go), text(e.Librrd))
}

// comparing decodes rows both in Go and with a second decoder, and compares the points.
type comparing struct {
	second decoder
	file   File
}

func (c *comparing) close() error { return c.second.close() }

func (c *comparing) points(h *header, p piece, rows []byte, f *File) error {
	c.file.Series = append(c.file.Series[:0], f.Series...)
	for ds := range c.file.Series {
		c.file.Series[ds].Points = nil
	}
	if err := c.second.points(h, p, rows, &c.file); err != nil {
		return err
	}
	before := make([]int, len(f.Series))
	for ds, s := range f.Series {
		before[ds] = len(s.Points)
	}
	if err := (native{}).points(h, p, rows, f); err != nil {
		return err
	}
	for ds, s := range f.Series {
		if err := compare(s.Source, s.Points[before[ds]:], c.file.Series[ds].Points); err != nil {
			return err
		}
	}
	return nil
}

func compare(source string, a, b []Point) error {
	point := func(list []Point, i int) *Point {
		if i < len(list) {
			return &list[i]
		}
		return nil
	}
	for i := range max(len(a), len(b)) {
		x, y := point(a, i), point(b, i)
		if x == nil || y == nil || x.Time != y.Time || math.Float64bits(x.Value) != math.Float64bits(y.Value) {
			return &DifferenceError{source, x, y}
		}
	}
	return nil
}
