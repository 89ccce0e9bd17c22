package pg

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Form is how COPY's values are written. The binary form spares the server
// from parsing: of 130 columns that is a tenth of its work. But it is more than
// twice as long as Tstat's text, and a network may be slower than that.
type Form string

// The forms.
const (
	Auto     Form = "auto" // binary to a server on this machine, else text
	AsBinary Form = "binary"
	AsText   Form = "text"
)

// ParseForm reads the setting copy of a URL.
func ParseForm(text string) (Form, error) {
	switch f := Form(text); f {
	case "":
		return Auto, nil
	case Auto, AsBinary, AsText:
		return f, nil
	}
	return "", hint.Usage(fmt.Sprintf("copy=%s is unknown", text), "known: auto, binary, text")
}

// onThisMachine reports whether both ends of a connection are.
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

// In binary form a value is its length, four bytes, then itself; NULL is the
// length -1.

// What a COPY in binary form begins and ends with.
const (
	binaryHeader  = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	binaryTrailer = "\xff\xff"
)

// epoch is that of PostgreSQL, 2000-01-01, in microseconds since Unix's.
const epoch = 946684800e6

// sizes are the lengths of the types whose binary form is known here; 0 for
// those of various length. float4 is not among them: rounding twice could
// change the last digit.
var sizes = map[string]int8{"int2": 2, "int4": 4, "int8": 8, "float8": 8, "bool": 1, "timestamptz": 8, "inet": 0, "text": 0}

// canBinary reports whether the values of all targets have a binary form.
func canBinary(targets []sqlstore.Target) bool {
	return !slices.ContainsFunc(targets, func(t sqlstore.Target) bool {
		_, ok := sizes[t.Type]
		return !ok
	})
}

// prepareBinary prepares a cell for the binary form, and reports whether its
// values have one.
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
		// YouTube's "--" is a text here, and none to the reader.
		c.byField = t.Type != "text" || col.Kind != tstat.Text || col.Dashes()
		return t.Type == "text"
	}
	return true
}

// appendBinary appends the values of row i of the batch in binary form.
func (e *encoder) appendBinary(dst []byte, i int) ([]byte, error) {
	if e.byField {
		e.line(i)
	}
	for j := range e.cells {
		var ok bool
		if dst, ok = e.appendCell(dst, &e.cells[j], i); !ok {
			return dst, e.rowError(j, i)
		}
	}
	return dst, nil
}

// rowError says that row i has a value that the column of a cell cannot hold.
func (e *encoder) rowError(cell, i int) error {
	c := &e.cells[cell]
	e.line(i)
	return c.rowError(e.field(c))
}

// appendCell appends the value of a cell in row i.
func (e *encoder) appendCell(dst []byte, c *cell, i int) ([]byte, bool) {
	at := i
	if !c.dense {
		at = c.at(i)
	}
	switch {
	case c.byField:
		return e.appendField(dst, c, at)
	case at < 0:
		return appendNull(dst), true
	}
	switch c.op {
	case opInt:
		x := c.vec.Ints[at]
		return appendNumber(dst, uint64(x), c.size), x >= c.min && x <= c.max
	case opFloat:
		return appendNumber(dst, math.Float64bits(c.vec.Floats[at]), 8), true
	case opTime:
		return appendNumber(dst, uint64(c.vec.Ints[at]-epoch), 8), true
	case opRawFloat:
		return appendNumber(dst, math.Float64bits(float64(c.vec.Ints[at])), 8), true
	case opBool, opRawInt:
		x := uint64(0)
		if c.vec.Bools[at] {
			x = 1
		}
		return appendNumber(dst, x, c.size), true
	case opInet:
		return appendInet(dst, c.vec.Texts[at])
	default:
		return appendBytes(dst, c.vec.Texts[at]), true
	}
}

// appendField appends what the text form makes of a field.
func (e *encoder) appendField(dst []byte, c *cell, at int) ([]byte, bool) {
	field := e.field(c)
	if c.op == opRawFloat {
		if x, ok := tstat.ParseDecimal(field); ok { // nearly every time
			return appendNumber(dst, math.Float64bits(x), 8), true
		}
	}
	if c.op == opRawText && field != nil {
		switch {
		case string(field) == null:
			return appendNull(dst), true
		case at >= 0 && c.vec.Texts != nil: // it is escaped where need be
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

// appendNumber appends the lower bytes of x, 1, 2, 4 or 8.
func appendNumber(dst []byte, x uint64, size int8) []byte {
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

// appendInet appends an address: PostgreSQL's number of its family, its bits,
// that it is no network, and how many bytes it has.
func appendInet(dst, f []byte) ([]byte, bool) {
	if tstat.IsNull(f) {
		return appendNull(dst), true
	}
	a, err := netip.ParseAddr(tstat.String(f))
	switch {
	case err != nil || a.Zone() != "": // as in fe80::1%eth0
		return dst, false
	case a.Is4():
		b := a.As4()
		return append(append(dst, 0, 0, 0, 8, 2, 32, 0, 4), b[:]...), true
	default:
		b := a.As16()
		return append(append(dst, 0, 0, 0, 20, 3, 128, 0, 16), b[:]...), true
	}
}
