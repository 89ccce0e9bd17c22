package tstat

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// head computes the result of Reader.Head while the text is hashed.
type head struct {
	length int64    // length of the text up to the end of its first data line; 0 if not found
	sum    string   // hash of the text of that length
	found  bool     // the search ended: at the first data line, or at an unfinished line
	rungs  []string // hashes of the prefixes of rung, 2*rung, 4*rung, … bytes
}

const (
	rung    = 4 << 10 // bytes
	headSum = 12      // hex digits of a hash that are kept
)

// find searches a part of the file's text for the end of the first data line, and stores
// its position in h.length. The part must start at the beginning of a line. length is the
// length of the text before the part.
func (h *head) find(text []byte, length int64) {
	for !h.found && len(text) > 0 {
		n := bytes.IndexByte(text, '\n') + 1
		if h.found = text[0] != '#' || n == 0; h.found && n > 0 {
			h.length = length + int64(n)
		}
		text = text[n:]
		length += int64(n)
	}
}

// next returns the length of the shortest prefix of the text that is longer than the
// given length and whose hash the head needs.
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

// add records the hash of the prefix with the given length if the head needs that hash.
func (h *head) add(length int64, sum string) {
	if length == h.length {
		h.sum = sum[:headSum]
	}
	if length == rung<<len(h.rungs) {
		h.rungs = append(h.rungs, sum[:headSum])
	}
}

// Head returns a description of the start of the text read so far: LENGTH:SUM,SUM,...
// LENGTH is the length of the text up to the end of its first data line, in bytes. The
// first SUM is the hash of that part. The other sums are hashes of the first 4 KiB, 8
// KiB, 16 KiB and so on. Head returns "" if the text has no data line.
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

// CompareHeads compares a and b, the heads of two files; see Reader.Head. same reports
// whether their first hashes are equal, that is, whether both files have the same header
// and the same first data line. agree reports whether, in addition, the remaining hashes
// are equal as far as both heads have them. If so, the shorter text is probably a prefix
// of the longer one. Text that these hashes do not cover is not compared. Both results
// are false if a or b is "".
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
