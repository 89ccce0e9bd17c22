package protocol

import "bytes"

// AppendPrefixed appends lines to dst, each preceded by prefix. Every line must end
// with a newline.
func AppendPrefixed(dst, lines, prefix []byte) []byte {
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n') + 1
		dst = append(append(dst, prefix...), lines[:n]...)
		lines = lines[n:]
	}
	return dst
}

// WholeLines returns the length of the complete lines in text[:most]. If text[:most] has
// no complete line, it returns the length of the first line of text.
func WholeLines(text []byte, most int) int {
	if n := bytes.LastIndexByte(text[:most], '\n') + 1; n > 0 {
		return n
	}
	return bytes.IndexByte(text, '\n') + 1
}

// ShortLines returns the length of the lines at the start of lines that have at most most
// bytes each, without the newline. Every line must end with a newline.
func ShortLines(lines []byte, most int) int {
	end := 0
	for end < len(lines) {
		n := bytes.LastIndexByte(lines[end:min(len(lines), end+most+1)], '\n') + 1
		if n == 0 {
			break
		}
		end += n
	}
	return end
}
