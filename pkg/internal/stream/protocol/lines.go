package protocol

import "bytes"

// AppendPrefixed appends whole lines to dst, each after the prefix.
func AppendPrefixed(dst, lines, prefix []byte) []byte {
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n') + 1
		dst = append(append(dst, prefix...), lines[:n]...)
		lines = lines[n:]
	}
	return dst
}

// WholeLines returns the length of the whole lines at the start of text, at
// most most, unless the first line is longer.
func WholeLines(text []byte, most int) int {
	if n := bytes.LastIndexByte(text[:most], '\n') + 1; n > 0 {
		return n
	}
	return bytes.IndexByte(text, '\n') + 1
}
