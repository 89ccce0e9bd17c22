package pgdb

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"unsafe"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Form is the form in which COPY sends values. In binary form the server need not parse
// values, which saves a tenth of its work for 130 columns. But binary values are more
// than twice as long as Tstat's text, so they may be slower over a slow network.
type Form string

// The values of Form.
const (
	Auto     Form = "auto" // binary to a server on this machine, else text
	AsBinary Form = "binary"
	AsText   Form = "text"
)

// ParseForm parses the value of the URL option "copy".
func ParseForm(text string) (Form, error) {
	switch f := Form(text); f {
	case "":
		return Auto, nil
	case Auto, AsBinary, AsText:
		return f, nil
	}
	return "", hint.Usage(fmt.Sprintf("copy=%s is unknown", text), "known: auto, binary, text")
}

// onThisMachine reports whether both ends of a connection are on this machine.
func onThisMachine(c net.Conn) bool {
	switch remote := c.RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		local, ok := c.LocalAddr().(*net.TCPAddr)
		return ok && remote.IP.Equal(local.IP)
	}
	return false
}

// In binary form a value consists of its length in four bytes, then its bytes.
// NULL has the length -1.

// Start and end of a COPY in binary form.
const (
	binaryHeader  = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	binaryTrailer = "\xff\xff"
)

// epoch is PostgreSQL's epoch, 2000-01-01, in microseconds since the Unix
// epoch.
const epoch = 946684800e6

// sizes maps each type with a known binary form to its length in bytes, or to 0
// if the length varies. float4 is missing, because rounding twice could change
// the last digit.
var sizes = map[string]int{"int2": 2, "int4": 4, "int8": 8, "float8": 8, "bool": 1, "timestamptz": 8, "inet": 0, "text": 0}

// canBinary reports whether the types of all targets have a known binary form.
func canBinary(targets []sqlstore.Target) bool {
	return !slices.ContainsFunc(targets, func(t sqlstore.Target) bool {
		_, ok := sizes[t.Type]
		return !ok
	})
}

// prepareBinary prepares c to encode the values of col in binary form, and reports
// whether that is possible.
func (c *cell) prepareBinary(col tstat.Column) bool {
	t := c.target
	c.size = sizes[t.Type]
	switch c.op {
	case opInet:
		return col.Kind == tstat.Text
	case opRawInt:
		c.byField = col.Kind != tstat.Bool
	case opRawFloat:
		c.byField = col.Kind != tstat.Int
	case opRawText:
		// YouTube's "--" is stored as a string here, but the log reader
		// parses it as NULL.
		c.byField = t.Type != "text" || col.Kind != tstat.Text || col.Dashes()
		return t.Type == "text"
	}
	return true
}

// lane is the part of a cell that is needed to copy values from a vector without
// conversion. It fits into a cache line, because encoding a row visits all lanes.
type lane struct {
	op    laneOp
	dense bool  // see cell
	row   int32 // see cell
	next  int32 // see cell
	bits  []uint64
	def   []int16
}

// laneOp selects how a lane encodes values.
type laneOp uint8

const (
	asCell laneOp = iota // by appendCell
	asInt2
	asInt4
	as8
	asTime
)

// startBinary appends to e.lanes the lane that encodes c for the rows of the current
// batch.
func (e *encoder) startBinary(c *cell) {
	e.byField = e.byField || c.byField
	l := lane{dense: c.dense, def: c.vec.Def}
	switch {
	case c.byField || !c.has:
	case c.op == opTime:
		l.op, l.bits = asTime, bitsOf(c.vec.Ints)
	case c.op == opFloat:
		l.op, l.bits = as8, bitsOf(c.vec.Floats)
	case c.op == opInt && c.size == 8:
		l.op, l.bits = as8, bitsOf(c.vec.Ints)
	case c.op == opInt && c.size == 4:
		l.op, l.bits = asInt4, bitsOf(c.vec.Ints)
	case c.op == opInt:
		l.op, l.bits = asInt2, bitsOf(c.vec.Ints)
	}
	e.lanes = append(e.lanes, l)
}

// bitsOf returns the bit patterns of x without copying.
func bitsOf[T int64 | float64](x []T) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

// index returns the index in l.bits of the value in row i, or -1 for NULL. i must not
// decrease from call to call.
func (l *lane) index(i int) int {
	if l.def[i] == 0 {
		return -1
	}
	for ; int(l.row) < i; l.row++ {
		l.next += int32(l.def[l.row])
	}
	return int(l.next)
}

// appendBinary appends the values of row i of the batch in binary form.
func (e *encoder) appendBinary(dst []byte, i int) ([]byte, error) {
	if e.byField {
		e.setLine(i)
	}
	dst = slices.Grow(dst, longest*len(e.lanes))
	for j := range e.lanes {
		l := &e.lanes[j]
		if l.op == asCell {
			var ok bool
			if dst, ok = e.appendCell(dst, &e.cells[j], i); !ok {
				return dst, e.rowError(j, i)
			}
			dst = slices.Grow(dst, longest*(len(e.lanes)-j))
			continue
		}
		at := i
		if !l.dense {
			if at = l.index(i); at < 0 {
				dst = appendNull(dst)
				continue
			}
		}
		x := l.bits[at]
		n := len(dst) // dst has room for the value
		switch l.op {
		case asInt4:
			if int64(x) != int64(int32(x)) {
				return dst, e.rowError(j, i)
			}
			dst = dst[:n+4+4]
			binary.BigEndian.PutUint64(dst[n:], 4<<32|x&math.MaxUint32)
		case asInt2:
			if int64(x) != int64(int16(x)) {
				return dst, e.rowError(j, i)
			}
			dst = appendNumber(dst, x, 2)
		default:
			if l.op == asTime {
				x -= epoch
			}
			dst = dst[:n+longest]
			binary.BigEndian.PutUint32(dst[n:], 8)
			binary.BigEndian.PutUint64(dst[n+4:], x)
		}
	}
	return dst, nil
}

// rowError returns an error which says that the column of e.cells[cell] cannot hold the
// value in row i.
func (e *encoder) rowError(cell, i int) error {
	c := &e.cells[cell]
	e.setLine(i)
	return c.rowError(e.field(c))
}

// appendCell appends the value of c in row i. It is called for values that a lane cannot
// copy. It returns false if the column cannot hold the value.
func (e *encoder) appendCell(dst []byte, c *cell, i int) ([]byte, bool) {
	at := i
	if !c.dense {
		at = c.index(i)
	}
	switch {
	case c.byField:
		return e.appendField(dst, c, at)
	case at < 0:
		return appendNull(dst), true
	case c.op == opRawFloat:
		return appendNumber(dst, math.Float64bits(float64(c.vec.Ints[at])), 8), true
	case c.op == opBool, c.op == opRawInt:
		x := uint64(0)
		if c.vec.Bools[at] {
			x = 1
		}
		return appendNumber(dst, x, c.size), true
	case c.op == opInet:
		return appendInet(dst, c.vec.Texts[at])
	default:
		return appendBytes(dst, c.vec.Texts[at]), true
	}
}

// longest is the maximum length of an encoded value that is neither an address nor a
// string. It includes the four bytes for the value's length.
const longest = 4 + 8

// appendField appends, in binary form, the same value that c.append would append in text
// form. at is the index of the value in c.vec, or -1 for NULL. appendField returns false
// if the column cannot hold the value.
func (e *encoder) appendField(dst []byte, c *cell, at int) ([]byte, bool) {
	field := e.field(c)
	if c.op == opRawFloat {
		if x, ok := tstat.ParseDecimal(field); ok { // usually
			return appendNumber(dst, math.Float64bits(x), 8), true
		}
	}
	if c.op == opRawText && field != nil {
		switch {
		case string(field) == null:
			return appendNull(dst), true
		case at >= 0 && c.vec.Texts != nil: // escaped where necessary
			return appendBytes(dst, c.vec.Texts[at]), true
		}
		return appendBytes(dst, field), true
	}
	var ok bool
	if e.text, ok = c.append(e.text[:0], field, at, e.sep); !ok {
		return dst, false
	}
	if string(e.text) == null {
		return appendNull(dst), true
	}
	switch c.op {
	case opRawInt:
		x, err := strconv.ParseInt(tstat.String(e.text), 10, 64)
		return appendNumber(dst, uint64(x), c.size), err == nil
	case opRawFloat:
		x, err := strconv.ParseFloat(tstat.String(e.text), 64)
		return appendNumber(dst, math.Float64bits(x), 8), err == nil
	default:
		return appendBytes(dst, e.text), true
	}
}

func appendNull(dst []byte) []byte { return append(dst, 0xff, 0xff, 0xff, 0xff) }

// appendNumber appends a value of 1, 2, 4 or 8 bytes, preceded by its size. The value
// consists of the low-order bytes of x.
func appendNumber(dst []byte, x uint64, size int) []byte {
	switch size {
	case 8:
		return binary.BigEndian.AppendUint64(append(dst, 0, 0, 0, 8), x)
	case 4:
		return binary.BigEndian.AppendUint64(dst, 4<<32|x&math.MaxUint32)
	case 2:
		return append(dst, 0, 0, 0, 2, byte(x>>8), byte(x))
	default:
		return append(dst, 0, 0, 0, 1, byte(x))
	}
}

func appendBytes(dst, t []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(t))), t...)
}

// appendInet appends an address: PostgreSQL's number for its family, its prefix length
// in bits, a 0 (not a network), its length in bytes, and its bytes. It returns false if
// f is not an address.
func appendInet(dst, f []byte) ([]byte, bool) {
	if tstat.IsNull(f) {
		return appendNull(dst), true
	}
	a, err := netip.ParseAddr(tstat.String(f))
	switch {
	case err != nil || a.Zone() != "": // for example fe80::1%eth0
		return dst, false
	case a.Is4():
		b := a.As4()
		return append(append(dst, 0, 0, 0, 8, 2, 32, 0, 4), b[:]...), true
	default:
		b := a.As16()
		return append(append(dst, 0, 0, 0, 20, 3, 128, 0, 16), b[:]...), true
	}
}
