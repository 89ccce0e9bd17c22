package tstat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// TestFloat compares the fast paths with strconv.
func TestFloat(t *testing.T) {
	v := vector{kind: Float}
	v.activate()
	check := func(s string) {
		t.Helper()
		want, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := v.parseFloat([]byte(s+"\n"), 0, ' ', 0); !ok || v.floats[0] != want {
			t.Fatalf("%s: %v, want %v", s, v.floats[0], want)
		}
		got, ok := ParseDecimal([]byte(s))
		if ok && got != want {
			t.Fatalf("%s as a decimal: %v, want %v", s, got, want)
		}
		if digits := len(s) - strings.Count(s, "-") - strings.Count(s, "."); !ok && (digits <= 15 || want > 1 && want < 1<<53 && digits <= 19) {
			t.Fatalf("%s: taken for no decimal", s)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200000 {
		s := strconv.FormatInt(rnd.Int64N(1e12)>>rnd.IntN(40), 10)
		if d := rnd.IntN(7); d > 0 {
			s = strconv.FormatFloat(rnd.Float64()*math.Pow10(rnd.IntN(12)), 'f', d, 64)
		}
		if rnd.IntN(4) == 0 {
			s = "-" + s
		}
		check(s)
		digits := strconv.FormatUint(rnd.Uint64()>>rnd.IntN(64), 10)
		dot := rnd.IntN(len(digits) + 1)
		check(digits[:dot] + "." + digits[dot:])
	}
	// Halfway between two, and beside it: a tie goes to the even one.
	for whole := uint64(1 << 51); whole < 1<<51+4; whole++ {
		for _, part := range []string{"25", "2499", "2501", "75", "7499", "7501", "125", "375", "625", "875", "5", "50"} {
			check(fmt.Sprint(whole) + "." + part)
		}
	}
	for _, s := range []string{"", "-", ".", "-.", "--1", "1-", "1.2.3", "+1", "1e5", "nan", "0x1", "1_0", " 1"} {
		if y, ok := ParseDecimal([]byte(s)); ok {
			t.Errorf("%q: %v", s, y)
		}
	}
	for _, s := range []string{"0.0000000000000000001", "9999999999999999999", "18446744073709551615", "18446744073709551616", "0.99999999999999999", ".5", "5.", "1458855410904.765000"} {
		check(s)
	}
}
