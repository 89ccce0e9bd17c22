package tstat

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// head computes the result of Reader.Head while the text is hashed.
type head struct {
	length int64    // of the text up to the end of its first data line; 0: not found
	sum    string   // of that text
	looked bool     // the first data line was found, or is too long
	rungs  []string // sums of the first rung bytes, twice as many, and so on
}

const (
	rung    = 4 << 10
	headSum = 12 // hex digits kept of a sum
)

// find searches for the end of the first data line in text, which follows
// length bytes and starts with a line.
func (h *head) find(text []byte, length int64) {
	for !h.looked && len(text) > 0 {
		n := bytes.IndexByte(text, '\n') + 1
		if h.looked = text[0] != '#' || n == 0; h.looked && n > 0 {
			h.length = length + int64(n)
		}
		text = text[n:]
		length += int64(n)
	}
}

// next returns the next length above the given one whose sum is needed.
func (h *head) next(length int64) int64 {
	stop := int64(math.MaxInt64)
	if n := len(h.rungs); n < 50 {
		stop = rung << n
	}
	if h.length > length {
		stop = min(stop, h.length)
	}
	return stop
}

// add adds the sum of the first length bytes.
func (h *head) add(length int64, sum string) {
	if length == h.length {
		h.sum = sum[:headSum]
	}
	if length == rung<<len(h.rungs) {
		h.rungs = append(h.rungs, sum[:headSum])
	}
}

// Head describes how the text read so far starts: LENGTH:SUM,SUM,... The first
// pair is that of the text up to the end of its first data line. The other sums
// are those of its first 4 KiB, 8 KiB, 16 KiB and so on. A text without data
// lines has the head "".
func (r *Reader) Head() string {
	_, length := r.Fingerprint()
	if r.head.sum == "" || r.head.length > length {
		return ""
	}
	var b strings.Builder
	b.WriteString(strconv.FormatInt(r.head.length, 10) + ":" + r.head.sum)
	for i, sum := range r.head.rungs {
		if rung<<i > length {
			break
		}
		b.WriteString("," + sum)
	}
	return b.String()
}

// CompareHeads compares the heads of two texts, see Reader.Head. same reports
// whether both have the same first data line and the same header before it.
// agree reports whether all other sums that both heads have are equal too. Then
// the shorter text is probably a prefix of the longer one. Heads do not show
// whether the texts differ after the last sum of the shorter one.
func CompareHeads(a, b string) (same, agree bool) {
	as, bs := strings.Split(a, ","), strings.Split(b, ",")
	if as[0] == "" || as[0] != bs[0] {
		return false, false
	}
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return true, false
		}
	}
	return true, true
}
