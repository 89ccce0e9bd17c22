package parquetfile

import "encoding/binary"

// compact appends structs in Thrift's compact protocol. It implements only the parts that
// Parquet's metadata needs; see
// https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
type compact struct {
	b     []byte
	last  int   // id of the last field of the innermost open struct
	outer []int // values of last for the enclosing structs
}

// Types of fields and list elements.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftI32    = 5
	thriftI64    = 6
	thriftBinary = 8
	thriftList   = 9
	thriftStruct = 12
)

// zigzag maps signed integers of small magnitude to small unsigned ones.
func zigzag(x int64) uint64 { return uint64(x<<1) ^ uint64(x>>63) }

func (t *compact) uvarint(x uint64) { t.b = binary.AppendUvarint(t.b, x) }

// field starts a field with the given ID and kind. The IDs of the fields of a struct must
// increase.
func (t *compact) field(id int, kind byte) {
	if d := id - t.last; d < 16 {
		t.b = append(t.b, byte(d)<<4|kind)
	} else {
		t.b = append(t.b, kind)
		t.uvarint(zigzag(int64(id)))
	}
	t.last = id
}

func (t *compact) i32(id, x int) {
	t.field(id, thriftI32)
	t.uvarint(zigzag(int64(x)))
}

func (t *compact) i64(id int, x int64) {
	t.field(id, thriftI64)
	t.uvarint(zigzag(x))
}

func (t *compact) boolean(id int, x bool) {
	if x {
		t.field(id, thriftTrue)
	} else {
		t.field(id, thriftFalse)
	}
}

func (t *compact) bytes(id int, x []byte) {
	t.field(id, thriftBinary)
	t.uvarint(uint64(len(x)))
	t.b = append(t.b, x...)
}

func (t *compact) text(id int, x string) {
	t.field(id, thriftBinary)
	t.element(x)
}

// element appends a string to a list.
func (t *compact) element(x string) {
	t.uvarint(uint64(len(x)))
	t.b = append(t.b, x...)
}

// list starts a list field with the given ID, for n elements of the given kind.
func (t *compact) list(id int, kind byte, n int) {
	t.field(id, thriftList)
	if n < 15 {
		t.b = append(t.b, byte(n)<<4|kind)
	} else {
		t.b = append(t.b, 15<<4|kind)
		t.uvarint(uint64(n))
	}
}

// begin starts a struct field with the given ID. The method open starts a struct that is
// not a field: the outermost one or a list element. The method end ends the innermost
// open struct.
func (t *compact) begin(id int) {
	t.field(id, thriftStruct)
	t.open()
}

func (t *compact) open() {
	t.outer = append(t.outer, t.last)
	t.last = 0
}

func (t *compact) end() {
	t.b = append(t.b, 0)
	n := len(t.outer) - 1
	t.last, t.outer = t.outer[n], t.outer[:n]
}

// empty appends a field that is a struct without fields.
func (t *compact) empty(id int) {
	t.begin(id)
	t.end()
}
