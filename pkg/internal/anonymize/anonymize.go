// Package anonymize replaces IP addresses and host names in Tstat's logs, using Tstat's
// own methods or others. Equal addresses have equal replacements.
package anonymize

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Modes lists the valid values of Options.Mode.
var Modes = []string{"tstat", "cryptopan", "truncate", "drop"}

// NameModes lists the valid values of Options.Names.
var NameModes = []string{"keep", "drop", "encrypt"}

// Options selects what is replaced and how.
type Options struct {
	// Mode selects how addresses are replaced: tstat (Crypto-PAn, with Tstat's own
	// variant for IPv6), cryptopan (all 128 bits of IPv6), truncate or drop.
	Mode      string
	Bits4     int    // bits of an IPv4 address that mode truncate keeps
	Bits6     int    // bits of an IPv6 address that mode truncate keeps
	KeyFile   string // file with the key as text in its first line
	KeyBase64 string // file with the key in base64 in its first line, like Tstat's CPanKey files
	Networks  string // file of networks to anonymize; "": internal addresses
	Except    string // file of networks not to anonymize
	Names     string // keep, drop or encrypt
	// Masks are XORed, in mode tstat, with the 32-bit words of an IPv6 address in network
	// byte order. Nil selects Tstat's defaults.
	Masks      *[4]uint32
	truncating bool
}

// Parse parses a mode and its options, separated by commas:
//
//	MODE[,key-file=FILE|,key-base64=FILE][,ipv6-masks=A:B:C:D][,networks=FILE][,except=FILE][,names=MODE]
//
// Errors are usage errors.
func Parse(text string) (*Options, error) {
	o := &Options{Names: "keep"}
	for i, part := range strings.Split(text, ",") {
		name, value, given := strings.Cut(part, "=")
		var err error
		switch {
		case i == 0:
			err = o.setMode(name, value, given)
		case strings.HasPrefix(part, "/") && o.truncating && o.Bits6 < 0:
			o.Bits6, err = parseBits(part, 128)
		case value == "":
			err = hint.Usage(fmt.Sprintf("%q is not an option", part), optionsHint)
		default:
			err = o.set(name, value)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	return o, nil
}

const optionsHint = "options are key-file=FILE, key-base64=FILE, networks=FILE, except=FILE, ipv6-masks=A:B:C:D and names=keep|drop|encrypt"

func (o *Options) setMode(mode, value string, given bool) error {
	if !slices.Contains(Modes, mode) || given != (mode == "truncate") {
		return hint.Usage(fmt.Sprintf("unknown mode %q", mode), "modes are tstat, cryptopan, truncate=/24,/48 and drop")
	}
	o.Mode = mode
	if mode == "truncate" {
		bits, err := parseBits(value, 32)
		if err != nil {
			return err
		}
		o.Bits4, o.Bits6, o.truncating = bits, -1, true
	}
	return nil
}

// parseBits parses text of the form /BITS, where 0 <= BITS < most.
func parseBits(text string, most int) (int, error) {
	digits, ok := strings.CutPrefix(text, "/")
	bits, err := strconv.Atoi(digits)
	if !ok || err != nil || bits < 0 || bits >= most {
		return 0, hint.Usage(fmt.Sprintf("%q is not a length from /0 to /%d", text, most-1), "write truncate=/24,/48")
	}
	return bits, nil
}

func (o *Options) set(name, value string) error {
	if name == "ipv6-masks" {
		masks, err := parseMasks(value)
		o.Masks = masks
		return err
	}
	fields := map[string]*string{"key-file": &o.KeyFile, "key-base64": &o.KeyBase64, "networks": &o.Networks, "except": &o.Except, "names": &o.Names}
	field, ok := fields[name]
	if !ok {
		return hint.Usage(fmt.Sprintf("unknown option %q", name), optionsHint)
	}
	*field = value
	return nil
}

func (o *Options) check() error {
	if o.truncating && o.Bits6 < 0 {
		return hint.Usage("truncate has no length for IPv6", "write truncate=/24,/48")
	}
	if !slices.Contains(NameModes, o.Names) {
		return hint.Usage(fmt.Sprintf("unknown names=%s", o.Names), "names can be keep, drop or encrypt")
	}
	keyed := o.Mode == "tstat" || o.Mode == "cryptopan" || o.Names == "encrypt"
	switch {
	case o.Masks != nil && o.Mode != "tstat":
		return hint.Usage("mode "+o.Mode+" has no use for ipv6-masks", "leave them out, or use tstat")
	case o.KeyFile != "" && o.KeyBase64 != "":
		return hint.Usage("key-file and key-base64 exclude each other", "")
	case keyed && o.KeyFile == "" && o.KeyBase64 == "":
		what := "mode " + o.Mode
		if o.Mode == "truncate" || o.Mode == "drop" {
			what = "names=encrypt"
		}
		return hint.Usage(what+" needs a key", "name its file with key-file=FILE, or with key-base64=FILE if it is in base64")
	case !keyed && (o.KeyFile != "" || o.KeyBase64 != ""):
		return hint.Usage("mode "+o.Mode+" has no use for a key", "leave the key out, or use tstat or cryptopan")
	}
	return nil
}

// Anonymizer replaces addresses and names. It is safe for concurrent use.
type Anonymizer struct {
	opt      Options
	networks *networks // nil: internal addresses
	except   *networks
	pan      *cryptopan // nil without a key
	secret   []byte     // the key; may be nil
	id       string
}

// New returns an Anonymizer. It reads the key and network files named by opt.
func New(opt Options) (*Anonymizer, error) {
	a := &Anonymizer{opt: opt}
	id := []string{opt.Mode}
	if opt.Mode == "truncate" {
		id[0] += fmt.Sprintf("=/%d,/%d", opt.Bits4, opt.Bits6)
	}
	if path := cmp.Or(opt.KeyFile, opt.KeyBase64); path != "" {
		key, err := readKey(path, opt.KeyBase64 != "", opt.Mode == "tstat")
		if err != nil {
			return nil, err
		}
		a.pan, a.secret = newCryptopan(key), key[:]
		id = append(id, "key="+fingerprint(key))
		if opt.Masks != nil && *opt.Masks != tstatMasks {
			a.pan.masks = *opt.Masks
			sum := sha256.Sum256(fmt.Appendf(nil, "%08x", *opt.Masks))
			id = append(id, "ipv6-masks="+hex.EncodeToString(sum[:6]))
		}
	}
	for _, f := range []struct {
		name, path string
		to         **networks
	}{{"networks", opt.Networks, &a.networks}, {"except", opt.Except, &a.except}} {
		if f.path == "" {
			continue
		}
		n, err := readNetworks(f.path)
		if err != nil {
			return nil, err
		}
		*f.to = n
		id = append(id, f.name+"="+n.hash())
	}
	a.id = strings.Join(append(id, "names="+opt.Names), " ")
	return a, nil
}

// String describes the anonymizer without revealing its key. Two anonymizers have equal
// descriptions only if they make the same replacements.
func (a *Anonymizer) String() string { return a.id }

// Blind returns a keyed hash of text. Without the key, text cannot be guessed from the
// hash. Blind returns "" if the anonymizer has no key.
func (a *Anonymizer) Blind(text string) string {
	if a.secret == nil {
		return ""
	}
	mac := hmac.New(sha256.New, a.secret)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// worker is an Anonymizer with buffers for replacing one value at a time. It is not safe
// for concurrent use.
type worker struct {
	*Anonymizer
	blocks *blocks // nil without a key
	buf    []byte
}

func (a *Anonymizer) newWorker() worker {
	w := worker{Anonymizer: a}
	if a.pan != nil {
		w.blocks = newBlocks(a.pan)
	}
	return w
}

// address is an IPv4 or IPv6 address.
type address struct {
	v4 uint32
	v6 netip.Addr // invalid for an IPv4 address
}

// maxAddress is the maximum length of an address, in bytes.
const maxAddress = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

// parseAddress parses an IPv4 or IPv6 address in the form that Tstat writes.
func parseAddress(text []byte) (a address, ok bool) {
	if v4, ok := parse4(text); ok {
		return address{v4: v4}, true
	}
	if len(text) > maxAddress {
		return address{}, false
	}
	v6, err := netip.ParseAddr(string(text))
	return address{v6: v6}, err == nil && v6.Is6() && v6.Zone() == ""
}

// parse4 parses a dotted IPv4 address.
func parse4(text []byte) (a uint32, ok bool) {
	if uint(len(text)-len("0.0.0.0")) > uint(len("255.255.255.255")-len("0.0.0.0")) {
		return 0, false
	}
	part, begin, dots := uint32(0), 0, 0
	for i, c := range text {
		if digit := c - '0'; digit <= 9 {
			part = part*10 + uint32(digit)
			continue
		}
		if n := i - begin; c != '.' || n == 0 || part > 255 || n > 1 && text[begin] == '0' || dots == 3 {
			return 0, false
		}
		a = a<<8 | part
		part, begin = 0, i+1
		dots++
	}
	n := len(text) - begin
	return a<<8 | part, dots == 3 && n > 0 && part <= 255 && !(n > 1 && text[begin] == '0')
}

// octets maps the value of an octet to its decimal digits, followed by a dot.
var octets = func() (list [256]struct {
	text [4]byte
	n    int
}) {
	for i := range list {
		o := &list[i]
		o.n = copy(o.text[:], strconv.Itoa(i)+".")
	}
	return list
}()

// append4 appends an IPv4 address in dotted notation.
func append4(dst []byte, a uint32) []byte {
	dst = slices.Grow(dst, 16)
	n := len(dst)
	dst = dst[:n+16]
	for shift := 24; shift >= 0; shift -= 8 {
		o := &octets[a>>shift&0xff]
		*(*[4]byte)(dst[n:]) = o.text
		n += o.n
	}
	return dst[:n-1]
}

// covers reports whether addr must be anonymized. If the options name no networks, this
// depends on whether the log marks addr as internal, as given by side.
func (a *Anonymizer) covers(addr address, side internal) bool {
	has := func(n *networks) bool {
		if addr.v6.IsValid() {
			return n.has6(addr.v6)
		}
		return n.has4(addr.v4)
	}
	if a.networks != nil {
		return has(a.networks) && !has(a.except)
	}
	return side != isExternal && !has(a.except)
}

// internal says whether an address belongs to the network that Tstat monitors.
type internal uint8

const (
	unknownSide internal = iota // treated as internal
	isInternal
	isExternal
)

// appendAddress appends the replacement of a to dst.
func (w *worker) appendAddress(dst []byte, a address) []byte {
	if a.v6.IsValid() {
		r := a.v6
		switch w.opt.Mode {
		case "tstat":
			r = netip.AddrFrom16(w.blocks.tstat6(r.As16()))
		case "cryptopan":
			r = netip.AddrFrom16(w.blocks.addr6(r.As16()))
		case "truncate":
			p, err := r.Prefix(w.opt.Bits6)
			if err != nil {
				panic(err) // Parse checks the length
			}
			r = p.Addr()
		default:
			return append(dst, '-')
		}
		return r.AppendTo(dst)
	}
	switch w.opt.Mode {
	case "tstat", "cryptopan":
		return append4(dst, w.blocks.addr4(a.v4))
	case "truncate":
		return append4(dst, a.v4&uint32(uint64(0xffffffff)<<(32-w.opt.Bits4)))
	default:
		return append(dst, '-')
	}
}

// appendEncrypted appends name to dst in the form that Tstat's --enc writes: padded
// with zeros, encrypted with AES in ECB mode, in base64.
func (w *worker) appendEncrypted(dst, name []byte) []byte {
	w.buf = append(w.buf[:0], name...)
	for len(w.buf)%16 != 0 {
		w.buf = append(w.buf, 0)
	}
	for i := 0; i < len(w.buf); i += 16 {
		w.blocks.block.Encrypt(w.buf[i:i+16], w.buf[i:i+16])
	}
	return base64.StdEncoding.AppendEncode(dst, w.buf)
}
