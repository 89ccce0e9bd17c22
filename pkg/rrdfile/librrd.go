//go:build linux && cgo && librrd && (amd64 || arm64 || loong64 || mips64le || ppc64le || riscv64 || s390x)

package rrdfile

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ziutek/rrd"
	"golang.org/x/sys/unix"
)

const hasLibrrd = true

// newLibrrd returns a decoder that uses librrd. librrd must not open Tstat's files,
// because it would lock them (see Reader) and because some headers crash it (division
// by zero, writes past the heap). The decoder therefore creates a database in memory,
// which has this machine's layout and a single archive, and contains only validated
// numbers.
//
// librrd is slow when several readers run concurrently.
func newLibrrd() (decoder, error) {
	fd, err := unix.MemfdCreate("tstatrepo-rrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for librrd: %w", err)
	}
	return &librrd{memory: fd, name: "/proc/self/fd/" + strconv.Itoa(fd)}, nil
}

// librrd is a decoder that uses librrd; see newLibrrd.
type librrd struct {
	memory int    // file descriptor of the database
	name   string // path of the database
	size   int64
	db     []byte
}

func (l *librrd) close() error { return unix.Close(l.memory) }

func (l *librrd) points(h *header, p piece, rows []byte, f *File) error {
	l.create(h, p.archive, rows)
	if l.size != int64(len(l.db)) {
		if err := unix.Ftruncate(l.memory, int64(len(l.db))); err != nil {
			return fmt.Errorf("memory for librrd: %w", err)
		}
		l.size = int64(len(l.db))
	}
	for b, offset := l.db, int64(0); len(b) > 0; {
		n, err := unix.Pwrite(l.memory, b, offset)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("memory for librrd: %w", err)
		}
		b, offset = b[max(n, 0):], offset+int64(max(n, 0))
	}
	step := h.rowStep(p.archive)
	got, err := rrd.Fetch(l.name, p.function, time.Unix(p.after, 0), time.Unix(p.until, 0), time.Duration(step)*time.Second)
	if err != nil {
		return fmt.Errorf("librrd: %w", err)
	}
	defer got.FreeValues()
	if got.Step != time.Duration(step)*time.Second || len(got.DsNames) != len(h.sources) {
		return fmt.Errorf("librrd: step of %v instead of %d s", got.Step, step)
	}
	for ds := range f.Series {
		f.Series[ds].Points = slices.Grow(f.Series[ds].Points, got.RowCnt)
	}
	// The binding's RowCnt is one too large.
	for row := range got.RowCnt - 1 {
		t := got.Start.Unix() + int64(row+1)*step
		if t <= p.after || t > p.until {
			continue
		}
		for ds := range f.Series {
			v := got.ValueAt(ds, row)
			if math.IsNaN(v) {
				f.Unknown++
				continue
			}
			f.Series[ds].Points = append(f.Series[ds].Points, Point{Time: t, Value: v})
		}
	}
	return nil
}

// create fills l.db with a database that holds only the archive a with the given rows.
func (l *librrd) create(h *header, a archive, rows []byte) {
	here := layout{word: 8, align: 8, clock: 8, live: 16, bigEndian: binary.NativeEndian.Uint16([]byte{0, 1}) == 1}
	ds := int64(len(h.sources))
	start := here.headerSize(ds, 1)
	n := start + int64(len(rows))
	l.db = slices.Grow(l.db[:0], int(n))[:n]
	clear(l.db[:start])
	put := func(at, v int64) { here.order().PutUint64(l.db[at:], uint64(v)) }
	copy(l.db, "RRD\x000003")
	put(16, int64(math.Float64bits(floatCookie)))
	put(here.counts(), ds)
	put(here.counts()+here.word, 1)
	put(here.counts()+2*here.word, h.step)
	at := here.headSize()
	for _, name := range h.sources {
		copy(l.db[at:at+nameSize-1], name)
		copy(l.db[at+nameSize:], "GAUGE")
		at += sourceSize
	}
	copy(l.db[at:at+nameSize-1], a.function)
	put(at+here.archiveWords(), a.rows)
	put(at+here.archiveWords()+here.word, a.steps)
	put(at+here.archiveSize(), h.update)
	put(start-here.word, a.current)
	for at := int64(0); at < int64(len(rows)); at += doubleSize {
		put(start+at, int64(math.Float64bits(h.double(rows[at:]))))
	}
}
