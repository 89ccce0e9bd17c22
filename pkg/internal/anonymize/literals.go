package anonymize

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
)

// appendLiterals appends a text with the addresses in it replaced, like that of
// http://10.0.0.1/ or the one that 1.0.0.10.in-addr.arpa is about.
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
		// A word that goes on with other letters or digits is not an address.
		for n > 0 && isWordByte(text[n-1]) {
			n--
		}
		dst, text = append(dst, text[:n]...), text[n:]
		end := bytes.IndexFunc(text, func(r rune) bool { return r >= 0x80 || !isWordByte(byte(r)) && r != '.' && r != ':' })
		if end < 0 {
			end = len(text)
		}
		dst, text = w.appendWord(dst, text[:end]), text[end:]
	}
	return append(dst, text...)
}

// mayHaveAddress reports whether a text has a dot between digits or two colons, or
// is the name of an IPv6 address in a reverse zone. It is fast.
func mayHaveAddress(text []byte) bool {
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
	return len(text) > 63 && text[1] == '.' // 32 digits, each with its dot
}

func isAddressRune(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F' || r == ':'
}

func isWordByte(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
}

// appendWord appends a word of letters, digits, dots and colons, or the address that
// stands for it. A port or the end of a sentence may follow an address.
func (w *worker) appendWord(dst, word []byte) []byte {
	if len(word) == 0 {
		return dst
	}
	text := bytes.TrimRight(word, ".:")
	rest := word[len(text):]
	if i := bytes.LastIndexByte(text, ':'); i > 0 && bytes.IndexByte(text, ':') == i { // a port
		text, rest = text[:i], word[i:]
	}
	if text2 := word; !slices.Equal(text, word) { // an IPv6 address can end in ::
		if addr, ok := parseAddress(text2); ok {
			return w.appendCovered(dst, addr, text2)
		}
	}
	if addr, ok := parseAddress(text); ok {
		return append(w.appendCovered(dst, addr, text), rest...)
	}
	return append(dst, word...)
}

// appendCovered appends an address, or what stands for it.
func (w *worker) appendCovered(dst []byte, addr address, text []byte) []byte {
	if w.covers(addr, unknownSide) {
		return w.appendAddress(dst, addr)
	}
	return append(dst, text...)
}

// Names of the reverse zones.
var (
	arpa4 = []byte(".in-addr.arpa")
	arpa6 = []byte(".ip6.arpa")
)

// appendReverse appends what stands for the name of an address in a reverse zone. ok
// is false for other texts.
func (w *worker) appendReverse(dst, text []byte) (out []byte, ok bool) {
	name := bytes.TrimSuffix(text, []byte{'.'})
	var addr address
	if labels, found := cutSuffixFold(name, arpa4); found {
		parts := bytes.Split(labels, []byte{'.'})
		slices.Reverse(parts)
		addr, ok = parseAddress(bytes.Join(parts, []byte{'.'}))
	} else if labels, found := cutSuffixFold(name, arpa6); found && len(labels) == 63 {
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
	stands, _ := parseAddress(w.appendAddress(nil, addr))
	if !stands.v6.IsValid() {
		v := stands.v4
		dst = append4(dst, v<<24|v>>24|v>>8&0xff00|v<<8&0xff0000)
		return append(append(dst, arpa4...), text[len(name):]...), true
	}
	a := stands.v6.As16()
	digits := hex.EncodeToString(a[:])
	for i := len(digits) - 1; i >= 0; i-- {
		if dst = append(dst, digits[i]); i > 0 {
			dst = append(dst, '.')
		}
	}
	return append(append(dst, arpa6...), text[len(name):]...), true
}

func cutSuffixFold(text, suffix []byte) (before []byte, found bool) {
	i := len(text) - len(suffix)
	if i < 0 || !bytes.EqualFold(text[i:], suffix) {
		return nil, false
	}
	return text[:i], true
}
