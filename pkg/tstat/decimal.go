package tstat

import (
	"math"
	"math/bits"
)

// pow10 lists the powers of ten that fit into a uint64. A float64 represents each of
// them exactly.
var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// nearest returns the float64 nearest to x / 10^decimals. It returns false if a single
// division cannot yield the result.
func nearest(x uint64, decimals int) (y float64, ok bool) {
	d := pow10[decimals]
	if x < 1<<53 { // both operands are exact, so the quotient is rounded once
		return float64(x) / float64(d), true
	}
	// Compute the quotient to 54 bits, one more than a float64 has, plus one bit for
	// the remainder. Times need this precision: an integer with as many digits as
	// 1458855410904.765000 is not exact in a float64.
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

// floatTens lists the powers of ten below 1e8.
var floatTens = [8]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7}

// leadingDigits parses the digits at the start of a text of 8 bytes, which w holds with
// the first byte in the lowest bits. It returns the value x of the digits and the number
// n of digits. If n is 0, x is undefined. leadingDigits processes all bytes at once,
// because a CPU cannot predict where a loop over the digits would end.
func leadingDigits(w uint64) (x uint64, n int) {
	x = w ^ 0x3030303030303030 // a digit becomes its value, any other byte exceeds 9
	// Set the highest bit of each byte above 9. Adding 0x76 sets it for bytes up to
	// 0x7f; larger bytes already have it. A carry only affects bytes that follow the
	// first byte above 9.
	other := (x + 0x7676767676767676 | x) & 0x8080808080808080
	n = bits.TrailingZeros64(other) >> 3
	x <<= (64 - 8*uint(n)) & 63 // drop the bytes after the digits, put zeros before them
	x = x*10 + x>>8             // bytes 0, 2, 4 and 6 are now pairs of digits
	// The upper 32 bits of the first product are pair 0 times 1e6 plus pair 2 times
	// 1e2. Those of the second product are pair 1 times 1e4 plus pair 3.
	return (x&0x000000ff000000ff*0x000f424000000064 + x>>16&0x000000ff000000ff*0x0000271000000001) >> 32, n
}

// ParseDecimal returns the float64 nearest to a decimal number: digits with an optional
// dot and an optional minus sign. It returns false for other text, and for some numbers
// with more digits than Tstat writes, which strconv may accept.
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
