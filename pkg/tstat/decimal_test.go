package tstat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// TestParseFloatMatchesStrconv compares the fast paths with strconv.
func TestParseFloatMatchesStrconv(t *testing.T) {
	v := vector{kind: Float, slow: new(int)}
	v.activate()
	check := func(s string) {
		t.Helper()
		want, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{s + "\n", s + " 12345678901234567890\n"} { // with and without 8 bytes left in the line
			if _, ok := v.parseFloat([]byte(line), 0, ' ', 0); !ok || v.floats[0] != want {
				t.Fatalf("%q: %v, want %v", line, v.floats[0], want)
			}
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
	// Numbers halfway between two float64 values, and close to halfway. A tie rounds to
	// even.
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

// TestFieldsParseAlikeAtLineEnd checks that a field has the same value in the middle of
// a line, where it is parsed 8 bytes at a time, and at the end, where it is parsed byte
// by byte.
func TestFieldsParseAlikeAtLineEnd(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	const mark, others = -77, "0123456789.-/:e \t\x00\x01\x7f\x80\xc3\xa9z~!"
	for _, kind := range []Kind{Int, Float, Time, Bool, Text} {
		for _, seconds := range []bool{false, true} {
			v := vector{kind: kind, seconds: seconds, slow: new(int)}
			v.activate()
			parse := func(line string) (result string) {
				b := &Batch{}
				v.def[0], v.nulls, v.ints, v.floats, *v.slow, v.oddNull = 1, 0, []int64{mark}, []float64{mark}, 0, false
				v.bools, v.texts = []bool{false}, [][]byte{nil}
				var q int
				var ok bool
				switch kind {
				case Int:
					q, ok = v.parseInt([]byte(line), 0, ' ', 0)
				case Float:
					q, ok = v.parseFloat([]byte(line), 0, ' ', 0)
				case Time:
					q, ok = v.parseTime([]byte(line), 0, ' ', 0)
				case Bool:
					q, ok = v.parseBool([]byte(line), 0, ' ', 0)
				case Text:
					q, ok = b.parseText(&v, []byte(line), 0, ' ', 0)
				}
				return fmt.Sprint(q, ok, v.nulls, v.ints, v.floats, v.bools, string(v.texts[0]), *v.slow, v.oddNull, b.escaped)
			}
			for i := range 20000 {
				var s string
				switch i % 4 {
				case 0: // digits, sometimes with another byte
					s = strconv.FormatUint(rnd.Uint64()>>rnd.IntN(64), 10)[rnd.IntN(2)*(i/4%2):]
				case 1:
					s = fmt.Sprintf("%d.%0*d", rnd.Int64N(1<<(1+rnd.IntN(50))), 1+rnd.IntN(8), rnd.IntN(1e6))
				case 2:
					s = fmt.Sprintf("%0*d", rnd.IntN(10), rnd.IntN(100))
				case 3:
					for range rnd.IntN(20) {
						s += string([]byte{others[rnd.IntN(len(others))]})
					}
				}
				end, _, _ := strings.Cut(s, " ")
				at, among := parse(end+"\n"), parse(end+" "+"1 22 333 4444 55555 "[rnd.IntN(20):]+"abcdefghijklmnopqrstuvwxyz\n")
				if at != among {
					t.Fatalf("%s %q: at the end %s, before others %s", kind, end, at, among)
				}
			}
		}
	}
}
