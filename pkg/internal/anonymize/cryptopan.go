package anonymize

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Sizes of the caches of a cryptopan, as base-2 logarithms. Together the caches need at
// most 11 MiB, and unused parts need no memory.
const (
	net24Bits  = 16 // 64 Ki IPv4 networks of 24 bits, 1 MiB
	net28Bits  = 18 // 256 Ki IPv4 networks of 28 bits, 2 MiB
	cacheV6    = 16 // 64 Ki IPv6 addresses, up to 3 MiB
	prefixBits = 15 // three times 32 Ki prefixes of IPv6 addresses, up to 4 MiB
)

// cryptopan implements Crypto-PAn (Xu, Fan, Ammar, Moon, 2002), which flips some bits
// of an address. If two addresses share exactly their first n bits, so do their
// replacements. Whether a bit is flipped depends only on the bits before it. Addresses
// with a common prefix therefore share cached flips. A cryptopan is safe for concurrent
// use.
type cryptopan struct {
	block cipher.Block
	pad   [16]byte
	masks [4]uint32 // see tstat6

	// Caches for IPv4 addresses.
	high []atomic.Uint32 // by the first 16 bits: 1 << 16 | their flips
	nets []net24         // by the first 24 bits
	last []atomic.Uint64 // see flips4; by the first 28 bits

	// Caches for IPv6 addresses.
	v6     []atomic.Pointer[cached6]
	sites  []atomic.Pointer[cachedFlips] // for the first 48 bits
	halves []atomic.Pointer[cachedFlips] // for the first 64 bits
	longer []atomic.Pointer[cachedFlips] // for the next 56 bits
}

// net24 caches the bits that Crypto-PAn flips in IPv4 addresses with the same first 24
// bits.
type net24 struct {
	flips atomic.Uint64 // 1 << 48 | the 24 bits << 24 | their flips
	next  atomic.Uint64 // see flips4
}

type cached6 struct{ addr, result [16]byte }

// cachedFlips is a cache entry for the prefix in hi and lo. flips is a mask of the bits
// that Crypto-PAn flips; it may cover only the last bits of the prefix.
type cachedFlips struct{ hi, lo, flips uint64 }

// newCryptopan returns a cryptopan. The first 16 bytes of key are the AES key. The
// other 16 bytes, encrypted with that AES key, are the pad.
func newCryptopan(key *[keySize]byte) *cryptopan {
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		panic(err) // 16 bytes are a valid key size
	}
	c := &cryptopan{
		block:  block,
		masks:  tstatMasks,
		high:   make([]atomic.Uint32, 1<<16),
		nets:   make([]net24, 1<<net24Bits),
		last:   make([]atomic.Uint64, 1<<net28Bits),
		v6:     make([]atomic.Pointer[cached6], 1<<cacheV6),
		sites:  make([]atomic.Pointer[cachedFlips], 1<<prefixBits),
		halves: make([]atomic.Pointer[cachedFlips], 1<<prefixBits),
		longer: make([]atomic.Pointer[cachedFlips], 1<<prefixBits),
	}
	block.Encrypt(c.pad[:], key[16:])
	return c
}

// blocks is a cryptopan with buffers for anonymizing one address at a time. It is not
// safe for concurrent use.
type blocks struct {
	*cryptopan
	padHi, padLo uint64
	in, out      [16]byte
}

func newBlocks(c *cryptopan) *blocks {
	return &blocks{cryptopan: c, padHi: binary.BigEndian.Uint64(c.pad[:8]), padLo: binary.BigEndian.Uint64(c.pad[8:])}
}

// flips returns 1 if Crypto-PAn flips bit n of an address, and 0 otherwise. hi and lo are
// the halves of the address. Bit 0 is the most significant bit. The result depends only
// on the bits before bit n.
func (b *blocks) flips(hi, lo uint64, n int) uint64 {
	const ones = ^uint64(0)
	keepHi, keepLo := ones<<(64-min(n, 64)), ones<<(64-max(n-64, 0)) // a shift by 64 is 0
	binary.BigEndian.PutUint64(b.in[:8], hi&keepHi|b.padHi&^keepHi)
	binary.BigEndian.PutUint64(b.in[8:], lo&keepLo|b.padLo&^keepLo)
	b.block.Encrypt(b.out[:], b.in[:])
	return uint64(b.out[0] >> 7)
}

// addr4 anonymizes an IPv4 address.
func (b *blocks) addr4(a uint32) uint32 {
	net := uint64(a >> 8)
	e := &b.nets[net&(1<<net24Bits-1)]
	last := &b.last[a>>4&(1<<net28Bits-1)]
	// Loading both entries first lets the processor fetch them from memory at once.
	flips, known := e.flips.Load(), last.Load()
	if flips>>24 != 1<<24|net {
		flips = (1<<24|net)<<24 | b.flips24(a)
		e.flips.Store(flips)
	}
	flips = flips<<4 | b.flips4(&e.next, e.next.Load(), a, 24)
	flips = flips<<4 | b.flips4(last, known, a, 28)
	return a ^ uint32(flips)
}

// flips24 returns a mask for the first 24 bits of an IPv4 address. Bits that Crypto-PAn
// flips are 1 in the mask.
func (b *blocks) flips24(a uint32) uint64 {
	high := &b.high[a>>16]
	flips := high.Load()
	if flips == 0 {
		flips = 1<<16 | uint32(b.run(uint64(a)<<32, 0, 0, 16))
		high.Store(flips)
	}
	return uint64(flips)&0xffff<<8 | b.run(uint64(a)<<32, 0, 16, 24)
}

// flips4 returns a mask for 4 bits of an IPv4 address, starting at bit n. Bits that
// Crypto-PAn flips are 1 in the mask. e is the value of cache; flips4 updates cache if e
// lacks flips. The upper bits of e hold the first n bits of an address. The lower 30 bits
// hold a binary tree for the next 4 bits. Each node has two bits: whether the flip is
// known, and the flip. Node 0 stands for the first of the 4 bits. Nodes 1 and 2 stand for
// the second bit after a first bit of 0 or 1, and so on.
func (b *blocks) flips4(cache *atomic.Uint64, e uint64, a uint32, n int) (flips uint64) {
	before, value := uint64(a>>(32-n)), a>>(28-n)&15
	if e>>30 != before {
		e = before << 30
	}
	old := e
	for bits := range 4 {
		node := uint32(1)<<bits | value>>(4-bits)
		shift := (node - 1) * 2 & 63
		if e>>shift&2 == 0 {
			e |= (2 | b.flips(uint64(a)<<32, 0, n+bits)) << shift
		}
		flips = flips<<1 | e>>shift&1
	}
	if e != old {
		cache.Store(e)
	}
	return flips
}

// run returns a mask for the bits [from, to) of an address with the halves hi and lo.
// Bits that Crypto-PAn flips are 1 in the mask.
func (b *blocks) run(hi, lo uint64, from, to int) (flips uint64) {
	for n := from; n < to; n++ {
		flips = flips<<1 | b.flips(hi, lo, n)
	}
	return flips
}

// addr6 anonymizes all 128 bits of an IPv6 address.
func (b *blocks) addr6(a [16]byte) [16]byte {
	hi, lo := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	slot := &b.v6[hash6(hi, lo)>>(64-cacheV6)]
	if e := slot.Load(); e != nil && e.addr == a {
		return e.result
	}
	e := &cached6{addr: a}
	half := cached(b.halves, hi, 0, func() uint64 {
		site := cached(b.sites, hi&^0xffff, 0, func() uint64 { return b.run(hi, 0, 0, 48) })
		return site<<16 | b.run(hi, 0, 48, 64)
	})
	// Many addresses differ only in their last 8 bits.
	rest := cached(b.longer, hi, lo&^0xff, func() uint64 { return b.run(hi, lo, 64, 120) })
	binary.BigEndian.PutUint64(e.result[:8], hi^half)
	binary.BigEndian.PutUint64(e.result[8:], lo^(rest<<8|b.run(hi, lo, 120, 128)))
	slot.Store(e)
	return e.result
}

// cached returns the flips that cache holds for a prefix, given by hi and lo. If it holds
// none, cached calls compute and stores the result.
func cached(cache []atomic.Pointer[cachedFlips], hi, lo uint64, compute func() uint64) uint64 {
	slot := &cache[hash6(hi, lo)>>(64-prefixBits)]
	if e := slot.Load(); e != nil && e.hi == hi && e.lo == lo {
		return e.flips
	}
	e := &cachedFlips{hi, lo, compute()}
	slot.Store(e)
	return e.flips
}

func hash6(hi, lo uint64) uint64 { return (hi*0x9e3779b97f4a7c15 ^ lo) * 0x9e3779b97f4a7c15 }

// tstatMasks are XORed with the four words of an IPv6 address, so that equal words have
// different results. They are Tstat's defaults for Crypto_IPv6_Mask_0 to
// Crypto_IPv6_Mask_3, and are the same in either byte order.
var tstatMasks = [4]uint32{0xffffffff, 0xf0f0f0f0, 0x0f0f0f0f, 0x00000000}

// parseMasks parses the values of Crypto_IPv6_Mask_0 to Crypto_IPv6_Mask_3, separated by
// colons. It reverses the bytes of each mask: on a little-endian machine, Tstat XORs
// masks in host byte order with words in network byte order.
func parseMasks(text string) (*[4]uint32, error) {
	parts := strings.Split(text, ":")
	var masks [4]uint32
	if len(parts) != len(masks) {
		return nil, hint.Usage(fmt.Sprintf("ipv6-masks has %d values, not %d", len(parts), len(masks)), masksHint)
	}
	for i, part := range parts {
		mask, err := strconv.ParseUint(part, 0, 32)
		if err != nil {
			return nil, hint.Usage(fmt.Sprintf("ipv6-masks: %q is not a number of 32 bits", part), masksHint)
		}
		masks[i] = bits.ReverseBytes32(uint32(mask))
	}
	return &masks, nil
}

const masksHint = "write the values of Crypto_IPv6_Mask_0 to 3, like 0xffffffff:0xf0f0f0f0:0x0f0f0f0f:0x00000000"

// tstat6 anonymizes an IPv6 address the way Tstat does: it XORs each 32-bit word with the
// mask for that word, and anonymizes the result like an IPv4 address.
func (b *blocks) tstat6(a [16]byte) (result [16]byte) {
	for i, mask := range b.masks {
		word := binary.BigEndian.Uint32(a[4*i:])
		binary.BigEndian.PutUint32(result[4*i:], b.addr4(word^mask))
	}
	return result
}
