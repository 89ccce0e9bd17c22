package rrdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Sizes of parts of an RRD file, as declared in rrd_format.h of librrd 1.9. A file is a
// sequence of C structures. It contains the head, one definition for each data source and
// for each archive, the time of the last update, the states of unfinished steps, a
// pointer to the current row of each archive, and finally the rows of each archive. The
// sizes below are the same on every machine. Other sizes depend on the machine that
// created the file.
const (
	sourceSize = 120
	stepSize   = 112 // state of an unfinished step, per data source
	stateSize  = 80  // the same, per data source and archive
	paramSize  = 80  // ten doubles at the end of the head and of definitions
	nameSize   = 20
	doubleSize = 8

	floatCookie = 8.642135e130 // reveals the format of the doubles
)

// maxHead is the size of the largest head, in bytes.
const maxHead = 128

// layout describes the structures of a file, which depend on the machine that
// created it.
type layout struct {
	bigEndian bool
	word      int64 // size of an unsigned long in bytes: 4 or 8
	align     int64 // alignment of a double in a structure: 4 (i386) or 8
	live      int64 // size in bytes of the last-update time: seconds and, since version 3, microseconds
	clock     int64 // size in bytes of its seconds field, a time_t: 4 or 8
}

// unknownLayout returns the error for a file whose layout cannot be determined.
func unknownLayout(reason string) error {
	return hint.New("created on an unknown architecture: "+reason, "convert it: rrdtool dump FILE where it was created, rrdtool restore here")
}

// detect returns the possible layouts of a file, given its head. The position of the
// float cookie and the two counts after the cookie determine the layout, except for the
// size of time_t if words have 4 bytes. The most common layout comes first.
func detect(head []byte) ([]layout, error) {
	if len(head) < maxHead {
		return nil, errCut
	}
	if !bytes.HasPrefix(head, []byte("RRD\x00")) {
		return nil, errors.New("not an RRD file")
	}
	version := string(bytes.TrimRight(head[4:9], "\x00"))
	switch version {
	case "0001", "0002", "0003", "0004", "0005":
	default:
		return nil, fmt.Errorf("RRD version %q is not known", version)
	}
	var l layout
	cookie := math.Float64bits(floatCookie)
	switch {
	case binary.LittleEndian.Uint64(head[16:]) == cookie:
		l.align = 8
	case binary.BigEndian.Uint64(head[16:]) == cookie:
		l.align, l.bigEndian = 8, true
	case binary.LittleEndian.Uint64(head[12:]) == cookie:
		l.align = 4
	case binary.BigEndian.Uint64(head[12:]) == cookie:
		l.align, l.bigEndian = 4, true
	default:
		return nil, unknownLayout("its doubles are of another form")
	}
	// Both counts are small and positive. In a count of 8 bytes, the upper 4 are 0.
	l.word = 4
	first := binary.BigEndian.Uint32(head[l.counts():])
	second := binary.BigEndian.Uint32(head[l.counts()+4:])
	if l.align == 8 && (l.bigEndian && first == 0 || !l.bigEndian && second == 0) {
		l.word = 8
	}
	var list []layout
	for _, clock := range []int64{l.word, 12 - l.word} {
		if l.word == 8 && clock != 8 {
			continue
		}
		l.clock = clock
		l.live = clock
		if version >= "0003" {
			l.live = roundUp(clock+l.word, min(clock, l.align))
		}
		list = append(list, l)
	}
	return list, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// counts returns the offset of three consecutive numbers in the head: the number of data
// sources, the number of archives and the step.
func (l *layout) counts() int64 {
	if l.align == 4 {
		return 12 + doubleSize
	}
	return 16 + doubleSize
}

func (l *layout) headSize() int64 { return roundUp(l.counts()+3*l.word, l.align) + paramSize }

// archiveWords returns the offset of the numbers of rows and steps within an archive's
// definition.
func (l *layout) archiveWords() int64 { return roundUp(nameSize, l.word) }

func (l *layout) archiveSize() int64 {
	return roundUp(l.archiveWords()+2*l.word, l.align) + paramSize
}

// headerSize returns the number of bytes before the rows of the first archive.
func (l *layout) headerSize(sources, archives int64) int64 {
	return l.headSize() + sources*(sourceSize+stepSize) + archives*(l.archiveSize()+l.word) + sources*archives*stateSize + l.live
}

func (l *layout) order() binary.ByteOrder {
	if l.bigEndian {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// number reads an unsigned long. Values above the largest int64 become
// negative.
func (l *layout) number(b []byte) int64 {
	if l.word == 4 {
		return int64(l.order().Uint32(b))
	}
	return int64(l.order().Uint64(b))
}

// time reads a time_t.
func (l *layout) time(b []byte) int64 {
	if l.clock == 4 {
		return int64(int32(l.order().Uint32(b)))
	}
	return int64(l.order().Uint64(b))
}

// double reads a value of a row.
func (l *layout) double(b []byte) float64 {
	if l.bigEndian {
		return math.Float64frombits(binary.BigEndian.Uint64(b))
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}
