// Package rrdfile reads the round-robin databases that Tstat writes, and maps each file
// name to a metric name.
//
// Reading never disturbs the writer, because files are never locked, mapped or changed.
// No file content can crash the process. See Reader.
//
// Other modules may use this package. Before version 1.0 its API may change; the
// CHANGELOG lists the changes.
package rrdfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Limits on a header. Tstat's files have 1 source and 4 archives of at most 797 rows.
const (
	maxSources  = 1024
	maxArchives = 1024
	maxStep     = 1 << 31  // seconds
	maxRows     = 1 << 24  // rows of an archive, and steps of a row
	maxTime     = 1 << 40  // seconds
	maxRowStep  = 1 << 33  // seconds; fits into a time.Duration
	maxHeader   = 64 << 20 // bytes
	maxData     = 64 << 20 // bytes of header and archives
)

// errCut reports a file that is shorter than its header requires. The program that writes
// the file may not have finished it yet.
var errCut = errors.New("too short for its header")

// archive is a round-robin archive: one consolidation of the data.
type archive struct {
	function string // consolidation function, like AVERAGE
	rows     int64
	steps    int64 // steps of the database per row
	current  int64 // index of the last row written
	offset   int64 // offset of the rows in the file
}

// header is the header of an RRD file.
type header struct {
	layout
	step     int64    // seconds
	update   int64    // Unix time of the last update
	sources  []string // names of the data sources
	archives []archive
	size     int64 // size of the header
}

// headerSize returns the number of bytes needed to parse a file's header, given the first
// bytes of the file.
func headerSize(head []byte) (int64, error) {
	layouts, err := detect(head)
	if err != nil {
		return 0, err
	}
	var most int64
	for _, l := range layouts {
		at := l.counts()
		ds, rra := l.number(head[at:]), l.number(head[at+l.word:])
		if ds < 1 || ds > maxSources || rra < 1 || rra > maxArchives {
			return 0, fmt.Errorf("header is damaged: %d data sources, %d archives", ds, rra)
		}
		most = max(most, l.headerSize(ds, rra))
	}
	if most > maxHeader {
		return 0, fmt.Errorf("header is too large: %d bytes", most)
	}
	return most, nil
}

// parse parses and checks the header in b, which holds the first headerSize bytes of the
// file, or the whole file. size is the file's size. parse reuses the memory of h.
func (h *header) parse(b []byte, size int64) error {
	layouts, err := detect(b)
	if err != nil {
		return err
	}
	if len(layouts) == 1 {
		end, err := h.parseAs(layouts[0], b)
		if err == nil && size < end {
			err = errCut
		}
		return err
	}
	// The file's size reveals the size of time_t.
	for _, l := range layouts {
		if end, err := h.parseAs(l, b); err == nil && size == end {
			return nil
		}
	}
	end, err := h.parseAs(layouts[0], b)
	switch {
	case err != nil:
		return err
	case size < end:
		return errCut
	}
	return unknownLayout("the size of the file does not tell that of its times")
}

// parseAs parses the header in b as layout l, and returns the size that a file with this
// header must have.
func (h *header) parseAs(l layout, b []byte) (size int64, err error) {
	at := l.counts()
	ds, rra, step := l.number(b[at:]), l.number(b[at+l.word:]), l.number(b[at+2*l.word:])
	n := l.headerSize(ds, rra)
	if int64(len(b)) < n {
		return 0, errCut
	}
	*h = header{layout: l, step: step, size: n, sources: h.sources[:0], archives: h.archives[:0]}
	if h.step < 1 || h.step > maxStep {
		return 0, fmt.Errorf("header is damaged: step %d", h.step)
	}
	at = l.headSize()
	for range ds {
		name, ok := text(b[at : at+nameSize])
		if !ok {
			return 0, fmt.Errorf("header is damaged: data source %q", name)
		}
		h.sources = append(h.sources, string(name))
		at += sourceSize
	}
	definitions := at
	at += rra * l.archiveSize()
	h.update = l.time(b[at:])
	if h.update < 0 || h.update > maxTime {
		return 0, fmt.Errorf("header is damaged: last update %d", h.update)
	}
	pointers := n - rra*l.word
	offset := n
	for i := range rra {
		d := definitions + i*l.archiveSize()
		words := d + l.archiveWords()
		a := archive{rows: l.number(b[words:]), steps: l.number(b[words+l.word:]), current: l.number(b[pointers+i*l.word:]), offset: offset}
		function, ok := text(b[d : d+nameSize])
		if !ok {
			return 0, fmt.Errorf("header is damaged: consolidation function %q", function)
		}
		a.function = functionOf(function)
		if a.rows < 1 || a.rows > maxRows || a.steps < 1 || a.steps > maxRows || a.current < 0 || a.current >= a.rows {
			return 0, fmt.Errorf("header is damaged: archive %d has %d rows of %d steps, row %d is current", i, a.rows, a.steps, a.current)
		}
		if h.rowStep(a) > maxRowStep {
			return 0, fmt.Errorf("header is damaged: archive %d has a row for %d s", i, h.rowStep(a))
		}
		if offset += a.rows * ds * doubleSize; offset > maxData {
			return 0, fmt.Errorf("too large: archive %d of %d has %d rows", i, rra, a.rows)
		}
		h.archives = append(h.archives, a)
	}
	return offset, nil
}

// text returns the C string in b. ok is true if the string is not empty, ends with a
// NUL and has only printable ASCII characters other than spaces.
func text(b []byte) (s []byte, ok bool) {
	s, _, terminated := bytes.Cut(b, []byte{0})
	for _, c := range s {
		if c <= ' ' || c > '~' {
			return s, false
		}
	}
	return s, terminated && len(s) > 0
}

// functions lists the supported consolidation functions in order of preference.
var functions = []string{"AVERAGE", "LAST", "MAX", "MIN"}

// functionOf returns the supported consolidation function with the given name, or "".
func functionOf(name []byte) string {
	for _, f := range functions {
		if string(name) == f {
			return f
		}
	}
	return ""
}

// rowStep returns the time between an archive's rows, in seconds.
func (h *header) rowStep(a archive) int64 { return h.step * a.steps }

// last returns the Unix time of an archive's last finished row.
func (h *header) last(a archive) int64 { return h.update - h.update%h.rowStep(a) }

// begin returns the Unix time at which an archive's first row starts.
func (h *header) begin(a archive) int64 { return h.last(a) - a.rows*h.rowStep(a) }

// piece is a part of the period to be read, with the archive from which its points come.
type piece struct {
	archive
	after, until int64 // Unix times: after is exclusive, until is inclusive
}

// pieces splits a period into parts, oldest first. The period starts after the given Unix
// time and ends with the last finished row. Each part is read from the finest archive
// that covers it.
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
