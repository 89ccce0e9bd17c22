package rrdfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// ErrBusy is wrapped by the errors of files that are being written, or cut
// short, each time they are looked at. The next run may find them whole.
var ErrBusy = errors.New("is being written")

// ErrNoLibrrd is returned by NewReader if the program was built without
// librrd.
var ErrNoLibrrd error = noLibrrd{}

type noLibrrd struct{}

func (noLibrrd) Error() string {
	return "this program was built without librrd and cannot read RRD files"
}

// Hint says what the user can do.
func (noLibrrd) Hint() string {
	return "build it where librrd-dev, pkg-config and gcc are installed, without the tag norrd"
}

// Point is a value at a time.
type Point struct {
	Time  int64 // unix, seconds; the end of the step that the value is of
	Value float64
}

// Series are the points of one data source, by ascending time.
type Series struct {
	Source string
	Points []Point
}

// Stamp tells whether a file has changed. Two equal ones of which the first
// is Settled mean that it has not.
type Stamp struct {
	Inode uint64
	Size  int64
	Mtime int64 // nanoseconds; never where writes do not change it
}

// never is the mtime of files whose real one says nothing. Their stamps are
// never settled.
const never = math.MaxInt64

// Settled reports whether, at time now, a file with stamp s cannot have changed
// again within the same tick of the clock that file systems use.
func (s Stamp) Settled(now time.Time) bool { return now.UnixNano()-s.Mtime > int64(2*time.Second) }

// File is what Read found.
type File struct {
	Stamp   Stamp
	Step    int64 // seconds
	Update  int64 // unix time of the last update
	Last    int64 // unix time of the last finished step
	Series  []Series
	Unknown int64 // values that were NaN
}

// piece is a part of the time asked for, and the archive that has it.
type piece struct {
	archive
	after, until int64 // (after, until]
}

// pieces cuts the time after a unix time at the beginnings of the archives,
// so that each part is in the finest archive that still holds it; oldest part
// first.
func (h *header) pieces(after int64) []piece {
	var list []archive
	for _, f := range functions {
		for _, a := range h.archives {
			if a.function == f {
				list = append(list, a)
			}
		}
		if list != nil {
			break
		}
	}
	slices.SortStableFunc(list, func(a, b archive) int { return int(a.steps - b.steps) })
	after = max(after, 0)
	var parts []piece
	until := int64(maxTime)
	for _, a := range list {
		p := piece{a, max(h.begin(a), after), min(h.last(a), until)}
		if p.after < p.until {
			parts = append(parts, p)
		}
		until = min(until, h.begin(a))
	}
	slices.Reverse(parts)
	return parts
}

// known tells whether any value of p is a number, given the rows of its
// archive.
func (h *header) known(p piece, rows []byte) bool {
	const exponent = 0x7ff << 52 // NaN and infinities have all of it
	width := int64(len(h.sources)) * 8
	step, last := h.rowStep(p.archive), h.last(p.archive)
	for t := p.until - p.until%step; t > p.after; t -= step {
		row := (p.current - (last-t)/step + p.rows) % p.rows
		for at := row * width; at < (row+1)*width; at += 8 {
			if binary.LittleEndian.Uint64(rows[at:])&exponent != exponent {
				return true
			}
		}
	}
	return false
}

// fileError names the file.
func fileError(path string, err error) error { return fmt.Errorf("%s: %w", path, err) }
