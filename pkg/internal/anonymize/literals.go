package anonymize

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"net/netip"
	"slices"
)

// appendLiterals appends text to dst, and replaces each address in text that must be
// anonymized. It finds addresses in strings like http://10.0.0.1/ and
// 1.0.0.10.in-addr.arpa.
func (w *worker) appendLiterals(dst, text []byte) []byte {
	if !mayHaveAddress(text) {
		return append(dst, text...)
	}
	if out, ok := w.appendReverse(dst, text); ok {
		return out
	}
	for len(text) > 0 {
		n := bytes.IndexFunc(text, isAddressRune)
		if n < 0 {
			break
		}
		// An address never starts within a word.
		for n > 0 && isWordByte(text[n-1]) {
			n--
		}
		escaped := n > 0 && text[n-1] == '%'
		dst, text = append(dst, text[:n]...), text[n:]
		end := bytes.IndexFunc(text, func(r rune) bool { return r >= 0x80 || !isWordByte(byte(r)) && r != '.' && r != ':' })
		if end < 0 {
			end = len(text)
		}
		dst, text = w.appendWord(dst, text[:end], escaped), text[end:]
	}
	return append(dst, text...)
}

// mayHaveAddress is a fast pre-check that reports whether text may contain an address. It
// looks for a dot between digits, two colons, or the suffix of names in the IPv6 reverse
// zone.
func mayHaveAddress(text []byte) bool {
	if len(text) < 8 {
		return mayHaveShort(text)
	}
	colons, counted := 0, 0
	for i := 0; ; i += 6 { // a dot that is the first or last byte of a word is inside another
		i = min(i, len(text)-8)
		word := binary.LittleEndian.Uint64(text[i:])
		digit := digits(word)
		colons += bits.OnesCount64(separators(word, ones*':') >> (8 * (counted - i)))
		counted = i + 8
		if separators(word, ones*'.')&(digit<<8)&(digit>>8) != 0 || colons > 1 {
			return true
		}
		if i == len(text)-8 {
			if c := text[len(text)-1]; c|0x20 != 'a' && c != '.' {
				return false
			}
			_, reverse := cutSuffixFold(bytes.TrimSuffix(text, []byte{'.'}), arpa6) // its digits may all be letters
			return reverse
		}
	}
}

// mayHaveShort is mayHaveAddress for fewer than 8 bytes.
func mayHaveShort(text []byte) bool {
	colons := 0
	for i, c := range text {
		switch c {
		case '.':
			if i > 0 && i+1 < len(text) && text[i-1]-'0' <= 9 && text[i+1]-'0' <= 9 {
				return true
			}
		case ':':
			if colons++; colons == 2 {
				return true
			}
		}
	}
	return false
}

const ones = 0x0101010101010101

// digits returns 0x80 for each byte of word that is an ASCII digit, and 0 for each other
// byte.
func digits(word uint64) uint64 {
	const high = ones << 7
	x := word &^ high
	return (x + ones*(0x80-'0')) &^ (x + ones*(0x7f-'9')) &^ word & high
}

func isAddressRune(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F' || r == ':'
}

func isWordByte(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
}

// appendWord appends a word of letters, digits, underscores, dots and colons. It replaces
// addresses that must be anonymized, if they are at the start of the word or after a
// colon, as in ip:10.0.0.1. escaped means that a percent sign precedes the word. The
// first address may then follow an escape, as in %2F10.0.0.1 or, escaped twice,
// %252F10.0.0.1.
func (w *worker) appendWord(dst, word []byte, escaped bool) []byte {
	for n := 2; escaped && n < len(word); n += 2 {
		if _, _, ok := leadingAddress(word[n:]); ok {
			dst, word = append(dst, word[:n]...), word[n:]
			break
		}
		escaped = string(word[n-2:n]) == "25" // a percent sign
	}
	for {
		if addr, length, ok := leadingAddress(word); ok {
			dst, word = w.appendCovered(dst, addr, word[:length]), word[length:]
		}
		next := bytes.IndexByte(word, ':') + 1
		if next == 0 {
			return append(dst, word...)
		}
		dst, word = append(dst, word[:next]...), word[next:]
	}
}

// leadingAddress returns the address at the start of a word, and its length in the word.
// The address may be followed by dots and colons. After an IPv4 address and a colon, any
// text may follow, such as a port.
func leadingAddress(word []byte) (addr address, length int, ok bool) {
	word = word[:min(len(word), maxAddress+1)] // no longer, because callers try many places of a word
	if length = bytes.IndexByte(word, ':'); length > 0 {
		if v4, ok := parse4(word[:length]); ok {
			return address{v4: v4}, length, true
		}
	}
	length = len(bytes.TrimRight(word, ".:"))
	if length < len(word) { // an IPv6 address can end in ::
		if addr, ok = parseAddress(word); ok {
			return addr, len(word), true
		}
	}
	addr, ok = parseAddress(word[:length])
	return addr, length, ok
}

// appendCovered appends the replacement of addr if addr must be anonymized. Otherwise it
// appends text, which is the address as written in the log.
func (w *worker) appendCovered(dst []byte, addr address, text []byte) []byte {
	if w.covers(addr, unknownSide) {
		return w.appendAddress(dst, addr)
	}
	return append(dst, text...)
}

// Suffixes of names in the DNS zones for reverse lookups.
var (
	arpa4 = []byte(".in-addr.arpa")
	arpa6 = []byte(".ip6.arpa")
)

// appendReverse appends text if text is the name of an address in a DNS zone for reverse
// lookups; otherwise ok is false. If the address must be anonymized, appendReverse
// replaces it in the name.
func (w *worker) appendReverse(dst, text []byte) (out []byte, ok bool) {
	name := bytes.TrimSuffix(text, []byte{'.'})
	var addr address
	var service []byte // labels before those of the address, as in DNS-SD
	if labels, found := cutSuffixFold(name, arpa4); found {
		parts := bytes.Split(labels, []byte{'.'})
		if n := len(parts) - 4; n > 0 {
			service = labels[:len(bytes.Join(parts[:n], []byte{'.'}))+1]
			parts = parts[n:]
		}
		slices.Reverse(parts)
		addr, ok = parseAddress(bytes.Join(parts, []byte{'.'}))
	} else if labels, found := cutSuffixFold(name, arpa6); found && (len(labels) == 63 || len(labels) > 63 && labels[len(labels)-64] == '.') {
		service, labels = labels[:len(labels)-63], labels[len(labels)-63:]
		digits := make([]byte, 0, 32)
		for i := 62; i >= 0; i -= 2 {
			digits = append(digits, labels[i])
		}
		var a [16]byte
		if _, err := hex.Decode(a[:], digits); err == nil {
			addr, ok = address{v6: netip.AddrFrom16(a)}, true
		}
	}
	if !ok {
		return dst, false
	}
	if !w.covers(addr, unknownSide) {
		return append(dst, text...), true
	}
	if w.opt.Mode == "drop" {
		return append(dst, '-'), true
	}
	dst = append(dst, service...)
	replacement, _ := parseAddress(w.appendAddress(nil, addr))
	if !replacement.v6.IsValid() {
		v := replacement.v4
		dst = append4(dst, v<<24|v>>24|v>>8&0xff00|v<<8&0xff0000)
		return append(append(dst, arpa4...), text[len(name):]...), true
	}
	a := replacement.v6.As16()
	digits := hex.EncodeToString(a[:])
	for i := len(digits) - 1; i >= 0; i-- {
		if dst = append(dst, digits[i]); i > 0 {
			dst = append(dst, '.')
		}
	}
	return append(append(dst, arpa6...), text[len(name):]...), true
}

// cutSuffixFold is bytes.CutSuffix, but ignores case.
func cutSuffixFold(text, suffix []byte) (before []byte, found bool) {
	i := len(text) - len(suffix)
	if i < 0 || !bytes.EqualFold(text[i:], suffix) {
		return nil, false
	}
	return text[:i], true
}
