package parquetfile

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// The encodings of the format; see
// https://parquet.apache.org/docs/file-format/data-pages/encodings/
// (Encodings.md in apache/parquet-format).

// appendPlain appends integers in PLAIN encoding: 8 bytes each, little endian.
func appendPlain(dst []byte, v []int64) []byte {
	at := len(dst)
	dst = extend(dst, 8*len(v))
	out := dst[at:]
	for _, x := range v {
		binary.LittleEndian.PutUint64(out, uint64(x))
		out = out[8:]
	}
	return dst
}

// extend returns dst extended by n undefined bytes.
func extend(dst []byte, n int) []byte {
	if need := len(dst) + n; need > cap(dst) {
		grown := make([]byte, len(dst), 2*need)
		copy(grown, dst)
		dst = grown
	}
	return dst[:len(dst)+n]
}

// appendPlainBools appends booleans in PLAIN encoding: one bit each, lowest bit
// first.
func appendPlainBools(dst []byte, v []bool) []byte {
	for len(v) > 0 {
		n := min(len(v), 8)
		var b byte
		for i, x := range v[:n] {
			if x {
				b |= 1 << i
			}
		}
		dst, v = append(dst, b), v[n:]
	}
	return dst
}

// appendLevels appends the definition levels of a data page: for each row, 1 for a value
// or 0 for NULL. It writes the length of the encoded levels in 4 bytes, then the levels
// in the encoding of appendHybrid with a width of 1. If def is nil, no row is NULL.
func appendLevels(dst []byte, def []int16, rows int) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	if def == nil {
		dst = appendRun(dst, rows, 1, 1)
	} else {
		dst = appendHybrid(dst, def, 1)
	}
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// minRun is the minimum number of equal values that appendHybrid writes as a run. Only
// the last run may be shorter.
const minRun = 16

// appendHybrid appends v in the hybrid of runs and bit-packed groups that the format
// calls RLE. The width of the values is 1 to 16 bits. v must not be empty.
func appendHybrid[T int16 | uint16](dst []byte, v []T, width int) []byte {
	for len(v) > 0 {
		n := runLength(v)
		if n >= minRun || n == len(v) {
			dst = appendRun(dst, n, uint16(v[0]), width)
			v = v[n:]
			continue
		}
		// Bit-packed values form groups of 8. Only the very last group
		// may be incomplete.
		n = min(8, len(v))
		for n < len(v) && !(len(v)-n >= minRun && runLength(v[n:n+minRun]) == minRun) {
			n = min(n+8, len(v))
		}
		groups := (n + 7) / 8
		dst = binary.AppendUvarint(dst, uint64(groups)<<1|1)
		dst = appendPacked(dst, v[:n], width)
		v = v[n:]
	}
	return dst
}

// runLength returns the number of equal values at the start of v, which must
// not be empty.
func runLength[T comparable](v []T) int {
	first := v[0]
	for i, x := range v {
		if x != first {
			return i
		}
	}
	return len(v)
}

// appendRun appends n equal values of the given width as one run; see appendHybrid.
func appendRun(dst []byte, n int, value uint16, width int) []byte {
	dst = binary.AppendUvarint(dst, uint64(n)<<1)
	dst = append(dst, byte(value))
	if width > 8 {
		dst = append(dst, byte(value>>8))
	}
	return dst
}

// appendPacked appends v in bit-packed groups of 8 values, lowest bits first. The width
// of the values is 1 to 16 bits. appendPacked pads the last group with zeros.
func appendPacked[T int16 | uint16](dst []byte, v []T, width int) []byte {
	at := len(dst)
	size := (len(v) + 7) / 8 * width
	dst = extend(dst, size+16)
	out := dst[at:]
	var last [8]T
	for len(v) > 0 {
		if len(v) < 8 {
			copy(last[:], v)
			v = last[:]
		}
		g := (*[8]T)(v)
		w := width & 31 // tells the compiler a bound of w, so that it checks fewer shifts
		low := uint64(g[0]) | uint64(g[1])<<w | uint64(g[2])<<(2*w) | uint64(g[3])<<(3*w)
		high := uint64(g[4]) | uint64(g[5])<<w | uint64(g[6])<<(2*w) | uint64(g[7])<<(3*w)
		binary.LittleEndian.PutUint64(out, low|high<<(4*w))
		binary.LittleEndian.PutUint64(out[8:], high>>(64-4*w))
		out, v = out[width:], v[8:]
	}
	return dst[:at+size]
}

// The number of values in a DELTA_BINARY_PACKED block, and in each of its
// miniblocks. Each miniblock has its own width.
const (
	deltaBlock     = 128
	deltaMiniblock = 32
)

// appendDelta appends integers in DELTA_BINARY_PACKED encoding: the first
// value, then blocks of differences between neighbors. Differences wrap around.
func appendDelta(dst []byte, v []int64) []byte {
	dst = binary.AppendUvarint(dst, deltaBlock)
	dst = binary.AppendUvarint(dst, deltaBlock/deltaMiniblock)
	dst = binary.AppendUvarint(dst, uint64(len(v)))
	if len(v) == 0 {
		return append(dst, 0)
	}
	last := v[0]
	dst = binary.AppendUvarint(dst, zigzag(last))
	v = v[1:]
	var block [deltaBlock]int64
	for len(v) > 0 {
		n := min(deltaBlock, len(v))
		least := int64(math.MaxInt64)
		for i, x := range v[:n] {
			block[i] = x - last
			least = min(least, block[i])
			last = x
		}
		v = v[n:]
		for i := n; i < deltaBlock; i++ {
			block[i] = least
		}
		dst = binary.AppendUvarint(dst, zigzag(least))
		widths := len(dst)
		dst = append(dst, make([]byte, deltaBlock/deltaMiniblock)...)
		for i := 0; i < n; i += deltaMiniblock { // miniblocks without values have no bytes
			mini := (*[deltaMiniblock]int64)(block[i:])
			var all uint64
			for j, d := range mini {
				mini[j] = d - least
				all |= uint64(mini[j])
			}
			width := bits.Len64(all)
			dst[widths+i/deltaMiniblock] = byte(width)
			dst = appendMiniblock(dst, mini, width)
		}
	}
	return dst
}

// appendMiniblock appends 32 values of the given width in bits, lowest bits first.
func appendMiniblock(dst []byte, v *[deltaMiniblock]int64, width int) []byte {
	if width == 0 {
		return dst
	}
	var acc uint64
	n := 0 // bits in acc
	for _, x := range v {
		acc |= uint64(x) << n
		if n += width; n >= 64 {
			dst = binary.LittleEndian.AppendUint64(dst, acc)
			n -= 64
			acc = uint64(x) >> (width - n)
		}
	}
	for ; n > 0; n -= 8 { // 32 values of any width fill whole bytes
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst
}

// appendStored appends src, uncompressed, as a Zstandard frame of raw blocks (RFC 8878,
// 3.1.1). Pages that do not compress well need such frames, because a column chunk has
// one codec, and some readers use the codec of the first row group for all row groups.
func appendStored(dst, src []byte) []byte {
	const (
		maxBlock      = 128 << 10
		singleSegment = 1 << 5 // the frame has no window size
		contentSize4  = 2 << 6 // the frame has the content's size in 4 bytes
		lastBlock     = 1
	)
	dst = append(dst, 0x28, 0xb5, 0x2f, 0xfd, contentSize4|singleSegment)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(src)))
	for {
		n := min(len(src), maxBlock)
		header := uint32(n) << 3
		if n == len(src) {
			header |= lastBlock
		}
		dst = append(dst, byte(header), byte(header>>8), byte(header>>16))
		dst = append(dst, src[:n]...)
		if src = src[n:]; len(src) == 0 {
			return dst
		}
	}
}
