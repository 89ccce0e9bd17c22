package parquetfile

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// sized returns a slice of length n with undefined elements. It reuses the memory of the
// old slice if that is large enough.
func sized[T any](old []T, n int) []T {
	if cap(old) < n {
		return make([]T, n, n+n/8)
	}
	return old[:n]
}

// numberTable collects the distinct numbers of a column chunk.
type numberTable struct {
	entries []int64
	direct  []uint16 // at x-low: index of x in entries plus 1; 0: none
	slots   []uint16 // hash table of indexes in entries plus 1; 0: none
}

// maxDirect is the size of the largest range of numbers that a numberTable indexes
// without hashing.
const maxDirect = 1 << 16

// index collects the distinct numbers in v into entries, and sets dst[i] to the index of
// v[i] in entries. It leaves dst undefined if there is only one entry. It returns false
// if v contains, or probably contains, more than limit distinct numbers.
func (t *numberTable) index(dst []uint16, v []int64, low, high int64, limit int) (entries []int64, ok bool) {
	t.entries = t.entries[:0]
	if low == high {
		t.entries = append(t.entries, low)
		return t.entries, true // with one entry, dictionary does not read dst
	}
	if uint64(high)-uint64(low) < maxDirect {
		ok = t.indexDirect(dst, v, low, int(high-low)+1, limit)
	} else {
		ok = t.indexHashed(dst, v, limit)
	}
	return t.entries, ok
}

// indexDirect implements index without a hash table. All numbers must be at least low and
// less than low+size.
func (t *numberTable) indexDirect(dst []uint16, v []int64, low int64, size, limit int) bool {
	t.direct = sized(t.direct, size)
	clear(t.direct)
	direct := t.direct
	for i, x := range v {
		index := direct[x-low]
		if index == 0 {
			if len(t.entries) == limit {
				return false
			}
			t.entries = append(t.entries, x)
			index = uint16(len(t.entries))
			direct[x-low] = index
		}
		dst[i] = index - 1
	}
	return true
}

// indexHashed implements index with a hash table.
func (t *numberTable) indexHashed(dst []uint16, v []int64, limit int) bool {
	const sample, most = 1 << 10, 1 << 9 // give up early if the first sample numbers contain more than most distinct ones
	logSize := bits.Len(uint(limit)) + 2
	t.slots = sized(t.slots, 1<<logSize)
	clear(t.slots)
	mask := len(t.slots) - 1
	for i, x := range v {
		slot := int(uint64(x) * 0x9e3779b97f4a7c15 >> (64 - logSize)) // Fibonacci hashing
		for {
			index := int(t.slots[slot&mask])
			if index == 0 {
				if len(t.entries) == limit || i < sample && len(t.entries) > most {
					return false
				}
				t.entries = append(t.entries, x)
				t.slots[slot&mask] = uint16(len(t.entries))
				dst[i] = uint16(len(t.entries) - 1)
				break
			}
			if t.entries[index-1] == x {
				dst[i] = uint16(index - 1)
				break
			}
			slot++
		}
	}
	return true
}

// textTable collects the distinct strings of a column chunk.
type textTable struct {
	plain  []byte   // strings in PLAIN encoding: each string follows its length in 4 bytes
	ends   []uint32 // where each string ends in the field plain
	slots  []uint32 // hash table: index of a string plus 1; 0: none
	hashes []uint32 // upper bits of the hash of each slot's string
}

var seed = maphash.MakeSeed()

// index fills t with the distinct strings of text, and sets dst[i] to the index in t of
// the string that ends at ends[i]. It returns false if the distinct strings are too many
// or too long for a dictionary.
func (t *textTable) index(dst []uint16, text []byte, ends []uint32) bool {
	size := 1 << (bits.Len(uint(len(ends))) + 1)
	t.slots, t.hashes = sized(t.slots, size), sized(t.hashes, size)
	clear(t.slots)
	t.plain, t.ends = t.plain[:0], t.ends[:0]
	mask := uint64(size - 1)
	start := uint32(0)
	for i, end := range ends {
		s := text[start:end]
		start = end
		h := maphash.Bytes(seed, s)
		for slot := h & mask; ; slot = (slot + 1) & mask {
			index := t.slots[slot]
			if index == 0 {
				if len(t.ends) == maxTexts || len(t.plain)+4+len(s) > maxTextSize {
					return false
				}
				t.plain = append(binary.LittleEndian.AppendUint32(t.plain, uint32(len(s))), s...)
				t.ends = append(t.ends, uint32(len(t.plain)))
				t.slots[slot], t.hashes[slot] = uint32(len(t.ends)), uint32(h>>32)
				dst[i] = uint16(len(t.ends) - 1)
				break
			}
			if t.hashes[slot] == uint32(h>>32) && bytes.Equal(t.text(index-1), s) {
				dst[i] = uint16(index - 1)
				break
			}
		}
	}
	return true
}

// text returns the distinct string with the given index.
func (t *textTable) text(index uint32) []byte {
	from := uint32(0)
	if index > 0 {
		from = t.ends[index-1]
	}
	return t.plain[from+4 : t.ends[index]]
}
