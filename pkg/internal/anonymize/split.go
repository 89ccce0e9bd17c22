package anonymize

import (
	"encoding/binary"
	"math/bits"
)

// split sets w.spans for row, which must end in a newline and have the columns of
// w.form. It searches from both ends of row, because the fields in w.plan are often
// near one end.
func (w *Rewriter) split(row []byte) {
	w.spans = w.spans[:len(w.plan.fields)]
	sep := w.typ.Separator()
	pattern := uint64(sep) * 0x0101010101010101
	w.splitFront(row, sep, pattern)
	w.splitBack(row, sep, pattern)
}

func (w *Rewriter) splitFront(row []byte, sep byte, pattern uint64) {
	p := w.plan
	at, seen := 0, 0 // seen is the number of separators in row[:at]
	for i := range p.fields[:p.half] {
		index, begin := p.fields[i].index, 0
		if i > 0 && p.fields[i-1].index == index-1 { // adjacent fields are common
			begin = int(w.spans[i-1].end) + 1
			index = 0
		}
		for index > 0 && at+32 <= len(row) {
			n := count32(row[at:at+32], pattern)
			if seen+n >= index {
				break
			}
			seen += n
			at += 32
		}
		for index > 0 {
			if at+8 > len(row) {
				begin = at
				for n := seen; n < index; begin++ {
					if row[begin] == sep {
						n++
					}
				}
				break
			}
			mask := separators(binary.LittleEndian.Uint64(row[at:]), pattern)
			if n := bits.OnesCount64(mask); seen+n < index {
				seen += n
				at += 8
				continue
			}
			for range index - seen - 1 {
				mask &= mask - 1
			}
			begin = at + bits.TrailingZeros64(mask)>>3 + 1
			break
		}
		end := begin
		for row[end] != sep && row[end] != '\n' {
			end++
		}
		w.spans[i] = span{uint32(begin), uint32(end)}
	}
}

func (w *Rewriter) splitBack(row []byte, sep byte, pattern uint64) {
	p := w.plan
	at, seen := len(row)-1, 0 // seen is the number of separators in row[at:]
	for i := len(p.fields) - 1; i >= p.half; i-- {
		behind := len(w.form.Fields) - 1 - p.fields[i].index // separators behind the field
		end := len(row) - 1
		if i+1 < len(p.fields) && p.fields[i+1].index == p.fields[i].index+1 {
			end = int(w.spans[i+1].begin) - 1
			behind = 0
		}
		for behind > 0 && at >= 32 {
			n := count32(row[at-32:at], pattern)
			if seen+n >= behind {
				break
			}
			seen += n
			at -= 32
		}
		for behind > 0 {
			if at < 8 {
				end = at
				for n := seen; n < behind; {
					if end--; row[end] == sep {
						n++
					}
				}
				break
			}
			mask := separators(binary.LittleEndian.Uint64(row[at-8:]), pattern)
			if n := bits.OnesCount64(mask); seen+n < behind {
				seen += n
				at -= 8
				continue
			}
			for range behind - seen - 1 {
				mask &^= 1 << (63 - bits.LeadingZeros64(mask))
			}
			end = at - 8 + (63-bits.LeadingZeros64(mask))>>3
			break
		}
		begin := end
		for begin > 0 && row[begin-1] != sep {
			begin--
		}
		w.spans[i] = span{uint32(begin), uint32(end)}
	}
}

// separators returns 0x80 for each byte of word that equals the byte repeated in pattern,
// and 0 for each other byte.
func separators(word, pattern uint64) uint64 {
	const low = 0x7f7f7f7f7f7f7f7f
	x := word ^ pattern
	return ^((x&low + low) | x | low)
}

// count32 returns how many of the first 32 bytes of text equal the byte repeated in
// pattern.
func count32(text []byte, pattern uint64) int {
	text = text[:32]
	return bits.OnesCount64(separators(binary.LittleEndian.Uint64(text), pattern)>>7 | separators(binary.LittleEndian.Uint64(text[8:]), pattern)>>6 |
		separators(binary.LittleEndian.Uint64(text[16:]), pattern)>>5 | separators(binary.LittleEndian.Uint64(text[24:]), pattern)>>4)
}
