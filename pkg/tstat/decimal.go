package tstat

import (
	"math"
	"math/bits"
)

// pow10 are powers of ten that a float64 holds too.
var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// nearest returns the float64 nearest to x with so many decimals. It fails
// where that takes more than a division.
func nearest(x uint64, decimals int) (y float64, ok bool) {
	d := pow10[decimals]
	if x < 1<<53 { // both are exact, so their quotient is rounded once
		return float64(x) / float64(d), true
	}
	// If it is 1 or more it can be had in 54 bits, one more than a float64
	// has; another one tells whether there is a remainder. This is for times:
	// 1458855410904.765000 is longer than what is exact.
	shift := 54 - bits.Len64(x/d)
	if shift < 1 || shift > 53 {
		return 0, false
	}
	q, r := bits.Div64(x>>(64-shift), x<<shift, d)
	q <<= 1
	if r > 0 {
		q |= 1
	}
	return float64(int64(q)) * math.Float64frombits(uint64(1023-shift-1)<<52), true
}

// tens are the powers of ten below 1e8, and floatTens the same as float64s.
var (
	tens      = [8]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7}
	floatTens = [8]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7}
)

// leadingDigits returns the number at the start of 8 bytes of text, the first
// in the lowest bits of w, and the count of its digits. It works on all bytes at
// once: text has no pattern that would let a CPU predict where a loop ends.
func leadingDigits(w uint64) (x uint64, n int) {
	x = w ^ 0x3030303030303030
	// The highest bit of each byte that is above 9; a carry only changes bytes
	// behind the first of these.
	other := (x + 0x7676767676767676 | x) & 0x8080808080808080
	n = bits.TrailingZeros64(other) >> 3
	x <<= (64 - 8*uint(n)) & 63 // zeros in front
	x = x*10 + x>>8             // pairs of digits
	return (x&0x000000ff000000ff*0x000f424000000064 + x>>16&0x000000ff000000ff*0x0000271000000001) >> 32, n
}

// ParseDecimal reads a decimal number as the nearest float64: digits, with a
// dot or not, and a minus before them or not. It fails for others, and for some
// that are longer than Tstat's; those strconv may still read.
func ParseDecimal(f []byte) (y float64, ok bool) {
	neg := len(f) > 0 && f[0] == '-'
	if neg {
		f = f[1:]
	}
	var x uint64
	dot := -1
	for i, c := range f {
		switch {
		case c-'0' < 10:
			x = x*10 + uint64(c-'0')
		case c == '.' && dot < 0:
			dot = i
		default:
			return 0, false
		}
	}
	n, decimals := len(f), 0
	if dot >= 0 {
		n--
		decimals = n - dot
	}
	if n == 0 || n > 19 {
		return 0, false
	}
	if y, ok = nearest(x, decimals); neg {
		y = -y
	}
	return y, ok
}
