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

// Sizes of the caches of a cryptopan. The caches use at most 9 MiB. Larger caches would
// not be faster, because a cache miss of the CPU takes longer than AES.
const (
	treeLevels  = 6  // levels of 4 bits whose flips are all cached: 4.3 MiB
	cache28Bits = 16 // 64 Ki networks of 24 bits, 512 KiB
	cacheV4Bits = 16 // 64 Ki IPv4 addresses, 512 KiB
	cacheV6Bits = 16 // 64 Ki IPv6 addresses, up to 3 MiB
	cacheHalves = 13 // 8 Ki first halves of IPv6 addresses, less than 1 MiB
)

// cryptopan implements Crypto-PAn (Xu, Fan, Ammar, Moon, 2002). Two addresses that share
// exactly their first n bits still do after anonymization. Whether a bit is flipped
// depends only on the bits before it, so addresses with a common prefix share cached
// flips. It is safe for concurrent use.
type cryptopan struct {
	block cipher.Block
	pad   [16]byte
	masks [4]uint32 // see tstat6

	// tree holds, for each level, the flips of 4 bits, indexed by the bits before
	// them; see flips4.
	tree   [treeLevels][]atomic.Uint32
	next28 []atomic.Uint64 // prefix of 24 bits << 16 | flips of the next 4
	v4     []atomic.Uint64 // address << 32 | result
	v6     []atomic.Pointer[cached6]
	halves []atomic.Pointer[cachedHalf]
}

type cached6 struct{ addr, result [16]byte }

type cachedHalf struct{ half, flips uint64 }

// newCryptopan returns a cryptopan. The first 16 bytes of the key are the AES key; the
// others, encrypted, are the pad.
func newCryptopan(key *[keySize]byte) *cryptopan {
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		panic(err) // 16 bytes are a valid key size
	}
	c := &cryptopan{
		block:  block,
		masks:  tstatMasks,
		next28: make([]atomic.Uint64, 1<<cache28Bits),
		v4:     make([]atomic.Uint64, 1<<cacheV4Bits),
		v6:     make([]atomic.Pointer[cached6], 1<<cacheV6Bits),
		halves: make([]atomic.Pointer[cachedHalf], 1<<cacheHalves),
	}
	for level := range c.tree {
		c.tree[level] = make([]atomic.Uint32, 1<<(4*level))
	}
	block.Encrypt(c.pad[:], key[16:])
	return c
}

// blocks anonymizes addresses with a cryptopan and buffers of its own. It is not safe for
// concurrent use.
type blocks struct {
	*cryptopan
	padHi, padLo uint64
	in, out      [16]byte
}

func newBlocks(c *cryptopan) *blocks {
	return &blocks{cryptopan: c, padHi: binary.BigEndian.Uint64(c.pad[:8]), padLo: binary.BigEndian.Uint64(c.pad[8:])}
}

// flips returns 1 if bit n of the address hi, lo is flipped, else 0. The result depends
// only on the bits before bit n. Bit 0 is the most significant bit.
func (b *blocks) flips(hi, lo uint64, n int) uint64 {
	const ones = ^uint64(0)
	keepHi, keepLo := ones<<(64-min(n, 64)), ones<<(64-max(n-64, 0)) // a shift by 64 is 0
	binary.BigEndian.PutUint64(b.in[:8], hi&keepHi|b.padHi&^keepHi)
	binary.BigEndian.PutUint64(b.in[8:], lo&keepLo|b.padLo&^keepLo)
	b.block.Encrypt(b.out[:], b.in[:])
	return uint64(b.out[0] >> 7)
}

// flips4 returns the flips of bits n to n+3 of an IPv4 address, for all values of these
// bits. Bit 1 of the result is the flip of the first bit. Bits 2 and 3 are the flips of
// the second bit after a first bit of 0 and 1; bits 4 to 7 and 8 to 15 continue likewise.
// Bit 0 is always set, so that the result differs from an empty cache entry.
func (b *blocks) flips4(a uint32, n int) uint32 {
	all := uint32(1)
	for bits := range 4 {
		for before := range uint32(1) << bits {
			x := a&^(0xffffffff>>n) | before<<(32-n-bits)
			all |= uint32(b.flips(uint64(x)<<32, 0, n+bits)) << (1<<bits | before)
		}
	}
	return all
}

// pick returns the flips of 4 bits that have the given value. all is a result of flips4.
func pick(all, value uint32) uint32 {
	return all>>1&1<<3 | all>>(2|value>>3)&1<<2 | all>>(4|value>>2)&1<<1 | all>>(8|value>>1)&1
}

// addr4 anonymizes an IPv4 address.
func (b *blocks) addr4(a uint32) uint32 {
	slot := &b.v4[a*0x9e3779b1>>(32-cacheV4Bits)]
	if e := slot.Load(); e != 0 && uint32(e>>32) == a {
		return uint32(e)
	}
	flips := uint32(0)
	for level := range b.tree {
		n := 4 * level
		node := &b.tree[level][uint64(a)>>(32-n)]
		all := node.Load()
		if all == 0 {
			all = b.flips4(a, n)
			node.Store(all)
		}
		flips = flips<<4 | pick(all, a>>(28-n)&15)
	}
	net := uint64(a >> 8)
	next := &b.next28[net&(1<<cache28Bits-1)]
	e := next.Load()
	if e == 0 || e>>16 != net {
		e = net<<16 | uint64(b.flips4(a, 24))
		next.Store(e)
	}
	flips = flips<<4 | pick(uint32(e), a>>4&15)
	pad := uint32(b.padHi >> 32)
	binary.BigEndian.PutUint64(b.in[:8], b.padHi)
	binary.BigEndian.PutUint64(b.in[8:], b.padLo)
	for keep := ^uint32(0xf); keep != ^uint32(0); keep = keep>>1 | 1<<31 {
		binary.BigEndian.PutUint32(b.in[:4], a&keep|pad&^keep)
		b.block.Encrypt(b.out[:], b.in[:])
		flips = flips<<1 | uint32(b.out[0]>>7)
	}
	slot.Store(uint64(a)<<32 | uint64(a^flips))
	return a ^ flips
}

// addr6 anonymizes all 128 bits of an IPv6 address.
func (b *blocks) addr6(a [16]byte) [16]byte {
	hi, lo := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	slot := &b.v6[(hi*0x9e3779b97f4a7c15^lo)*0x9e3779b97f4a7c15>>(64-cacheV6Bits)]
	if e := slot.Load(); e != nil && e.addr == a {
		return e.result
	}
	flips := uint64(0)
	for n := range 64 {
		flips |= b.flips(hi, lo, 64+n) << (63 - n)
	}
	e := &cached6{addr: a}
	binary.BigEndian.PutUint64(e.result[:8], hi^b.half(hi))
	binary.BigEndian.PutUint64(e.result[8:], lo^flips)
	slot.Store(e)
	return e.result
}

// half returns the flips of the first 64 bits of an IPv6 address. It caches them, because
// many addresses share their first half.
func (b *blocks) half(hi uint64) uint64 {
	slot := &b.halves[hi*0x9e3779b97f4a7c15>>(64-cacheHalves)]
	if e := slot.Load(); e != nil && e.half == hi {
		return e.flips
	}
	flips := uint64(0)
	for n := range 64 {
		flips |= b.flips(hi, 0, n) << (63 - n)
	}
	slot.Store(&cachedHalf{hi, flips})
	return flips
}

// tstatMasks are XORed with the four words of an IPv6 address, so that equal words have
// different results. They are Tstat's defaults of Crypto_IPv6_Mask_0 to
// Crypto_IPv6_Mask_3, and are the same in either byte order.
var tstatMasks = [4]uint32{0xffffffff, 0xf0f0f0f0, 0x0f0f0f0f, 0x00000000}

// parseMasks parses the values of Crypto_IPv6_Mask_0 to Crypto_IPv6_Mask_3, separated by
// colons. It reverses their bytes: Tstat XORs them with words in network byte order, which
// it reads on a little-endian machine.
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

// tstat6 anonymizes an IPv6 address like Tstat: it XORs each 32-bit word with its mask and
// anonymizes it as an IPv4 address.
func (b *blocks) tstat6(a [16]byte) (result [16]byte) {
	for i, mask := range b.masks {
		word := binary.BigEndian.Uint32(a[4*i:])
		binary.BigEndian.PutUint32(result[4*i:], b.addr4(word^mask))
	}
	return result
}
