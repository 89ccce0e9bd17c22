// Package rrdfile reads the round-robin databases that Tstat writes, and knows
// which metric each of them is.
//
// Reading never harms who writes: a file is never locked, mapped or changed,
// and no content of a file can end the process. See Reader.
package rrdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// The layout of an RRD file in memory of a 64-bit little-endian machine, as
// rrd_format.h of librrd 1.7 has it: head, ds_cnt sources, rra_cnt archives,
// live head, ds_cnt + rra_cnt*ds_cnt states of unfinished steps, rra_cnt
// pointers to current rows, then the rows of each archive.
const (
	headSize    = 128
	sourceSize  = 120
	archiveSize = 120
	liveSize    = 16 // version 1 has no microseconds: 8
	stepSize    = 112
	stateSize   = 80
	pointerSize = 8

	floatCookie = 8.642135e130 // tells whose doubles these are
)

// Bounds of what a header may say. Tstat's files have 1 source and 4 archives
// of at most 797 rows.
const (
	maxSources  = 1024
	maxArchives = 1024
	maxStep     = 1 << 31 // seconds
	maxRows     = 1 << 24 // of an archive, and steps of one of its rows
	maxTime     = 1 << 40 // seconds
	maxRowStep  = 1 << 33 // seconds; what time.Duration holds
	maxHeader   = 64 << 20
	maxData     = 64 << 20 // bytes of an archive
)

// errCut is a file that is shorter than its header says. It may be about to
// be written.
var errCut = errors.New("too short for its header")

// archive is a round-robin archive: one consolidation of the data.
type archive struct {
	function string // consolidation function, like AVERAGE
	rows     int64
	steps    int64 // steps of the database that make a row
	current  int64 // the row written last
	offset   int64 // of the rows in the file
}

// header is what a file says of itself.
type header struct {
	step     int64    // seconds
	update   int64    // time of the last update, unix
	sources  []string // names of the data sources
	archives []archive
	size     int64 // of the header
}

// headerSize returns the size of the header that begins with a head.
func headerSize(head []byte) (int64, error) {
	if len(head) < headSize {
		return 0, errCut
	}
	if !bytes.HasPrefix(head, []byte("RRD\x00")) {
		return 0, errors.New("not an RRD file")
	}
	if math.Float64frombits(binary.LittleEndian.Uint64(head[16:])) != floatCookie {
		return 0, errors.New("made on another architecture")
	}
	live := int64(liveSize)
	switch version := string(head[4:9]); version {
	case "0001\x00":
		live = 8
	case "0003\x00", "0004\x00", "0005\x00":
	default:
		return 0, fmt.Errorf("RRD version %q is not known", bytes.TrimRight(head[4:9], "\x00"))
	}
	ds := binary.LittleEndian.Uint64(head[24:])
	rra := binary.LittleEndian.Uint64(head[32:])
	if ds < 1 || ds > maxSources || rra < 1 || rra > maxArchives {
		return 0, fmt.Errorf("header is damaged: %d data sources, %d archives", ds, rra)
	}
	n := headSize + int64(ds)*(sourceSize+stepSize) + int64(rra)*(archiveSize+pointerSize) + int64(ds*rra)*stateSize + live
	if n > maxHeader {
		return 0, fmt.Errorf("header is too large: %d bytes", n)
	}
	return n, nil
}

// parse reads and checks the header in b; size is that of the file. It uses
// the memory of h again.
func (h *header) parse(b []byte, size int64) error {
	n, err := headerSize(b)
	if err != nil {
		return err
	}
	if int64(len(b)) < n {
		return errCut
	}
	u := func(at int64) int64 { // what does not fit becomes negative, and that is refused
		return int64(binary.LittleEndian.Uint64(b[at:]))
	}
	ds, rra := u(24), u(32)
	*h = header{step: u(40), size: n, sources: h.sources[:0], archives: h.archives[:0]}
	if h.step < 1 || h.step > maxStep {
		return fmt.Errorf("header is damaged: step %d", h.step)
	}
	at := int64(headSize)
	for range ds {
		name, ok := text(b[at : at+20])
		if !ok {
			return fmt.Errorf("header is damaged: data source %q", name)
		}
		h.sources = append(h.sources, string(name))
		at += sourceSize
	}
	definitions := at
	at += rra * archiveSize
	h.update = u(at)
	if h.update < 0 || h.update > maxTime {
		return fmt.Errorf("header is damaged: last update %d", h.update)
	}
	pointers := n - rra*pointerSize
	offset := n
	for i := range rra {
		d := definitions + i*archiveSize
		a := archive{rows: u(d + 24), steps: u(d + 32), current: u(pointers + i*pointerSize), offset: offset}
		function, ok := text(b[d : d+20])
		if !ok {
			return fmt.Errorf("header is damaged: consolidation function %q", function)
		}
		a.function = functionOf(function)
		if a.rows < 1 || a.rows > maxRows || a.steps < 1 || a.steps > maxRows || a.current < 0 || a.current >= a.rows {
			return fmt.Errorf("header is damaged: archive %d has %d rows of %d steps, row %d is current", i, a.rows, a.steps, a.current)
		}
		if h.rowStep(a) > maxRowStep {
			return fmt.Errorf("header is damaged: archive %d has a row for %d s", i, h.rowStep(a))
		}
		if a.rows*ds*8 > maxData {
			return fmt.Errorf("archive %d is too large: %d rows", i, a.rows)
		}
		offset += a.rows * ds * 8
		h.archives = append(h.archives, a)
	}
	if size < offset {
		return errCut
	}
	return nil
}

// text returns the C string in b, and whether it is a word.
func text(b []byte) ([]byte, bool) {
	s, _, ended := bytes.Cut(b, []byte{0})
	for _, c := range s {
		if c <= ' ' || c > '~' {
			return s, false
		}
	}
	return s, ended && len(s) > 0
}

// functions are the consolidation functions whose archives are read, best
// first.
var functions = []string{"AVERAGE", "LAST", "MAX", "MIN"}

// functionOf is the consolidation function of that name; "" if it is none of
// those that are read.
func functionOf(name []byte) string {
	for _, f := range functions {
		if string(name) == f {
			return f
		}
	}
	return ""
}

// rowStep returns the seconds between rows of an archive.
func (h *header) rowStep(a archive) int64 { return h.step * a.steps }

// last returns the time of the last finished row of an archive.
func (h *header) last(a archive) int64 { return h.update - h.update%h.rowStep(a) }

// begin returns the time after which an archive has rows.
func (h *header) begin(a archive) int64 { return h.last(a) - a.rows*h.rowStep(a) }

// single returns a database of its own that holds one archive of h, so that
// librrd has no other to choose from: b with room for the rows behind the
// header, at the offset returned. The header is made of checked numbers only;
// nothing of the file is copied into it.
func (h *header) single(a archive, b []byte) (db []byte, rows int64) {
	ds := int64(len(h.sources))
	rows = headSize + ds*(sourceSize+stepSize+stateSize) + archiveSize + liveSize + pointerSize
	n := rows + a.rows*ds*8
	b = slices.Grow(b[:0], int(n))[:n]
	clear(b[:rows])
	put := func(at, v int64) { binary.LittleEndian.PutUint64(b[at:], uint64(v)) }
	copy(b, "RRD\x000003")
	binary.LittleEndian.PutUint64(b[16:], math.Float64bits(floatCookie))
	put(24, ds)
	put(32, 1)
	put(40, h.step)
	at := int64(headSize)
	for _, name := range h.sources {
		copy(b[at:at+19], name)
		copy(b[at+20:], "GAUGE")
		at += sourceSize
	}
	copy(b[at:at+19], a.function)
	put(at+24, a.rows)
	put(at+32, a.steps)
	put(at+archiveSize, h.update)
	put(rows-pointerSize, a.current)
	return b, rows
}
