package graphite

import (
	"encoding/binary"
	"math"
)

// pickleFrame is the number of points per frame. Carbon closes connections that send
// frames larger than 1 MiB.
const pickleFrame = 500

// AppendPickle appends metrics as frames of carbon's pickle protocol. Each frame is a
// length and a list of (path, (time, value)) in Python's pickle protocol 2. NaN and
// infinity are left out.
func AppendPickle(b []byte, metrics []Metric) []byte {
	begin, n := 0, 0
	open := func() {
		begin = len(b)
		b = append(b, 0, 0, 0, 0, 0x80, 2, ']', '(')
	}
	end := func() {
		b = append(b, 'e', '.')
		binary.BigEndian.PutUint32(b[begin:], uint32(len(b)-begin-4))
		n = 0
	}
	for _, m := range metrics {
		path := CleanPath(m.Path)
		for _, p := range m.Points {
			if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
				continue
			}
			if n == 0 {
				open()
			}
			b = append(b, 'X')
			b = binary.LittleEndian.AppendUint32(b, uint32(len(path)))
			b = append(b, path...)
			if p.Time == int64(int32(p.Time)) {
				b = append(b, 'J')
				b = binary.LittleEndian.AppendUint32(b, uint32(p.Time))
			} else { // after 2038
				b = append(b, 0x8a, 8)
				b = binary.LittleEndian.AppendUint64(b, uint64(p.Time))
			}
			b = append(b, 'G')
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(p.Value))
			b = append(b, 0x86, 0x86)
			if n++; n == pickleFrame {
				end()
			}
		}
	}
	if n > 0 {
		end()
	}
	return b
}
