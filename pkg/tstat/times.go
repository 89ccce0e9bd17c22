package tstat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// maxTime is the upper limit of valid times, in microseconds since the epoch: the start
// of the year 10000. Greater values come from malformed lines.
const maxTime = 253402300800 * 1e6

// derive holds the columns that deriveTimes uses to compute absolute times (Tstat 2.2
// to 2.4).
type derive struct{ firstAbs, durat, first, last int }

// parseTime parses the field at index p of line, a time as printed by Tstat: milliseconds
// or seconds since the epoch with decimals. It rounds the decimal digits to the
// microsecond, because any further digits are floating-point noise. 0 means no time.
func (v *vector) parseTime(line []byte, p int, sep byte, row int) (int, bool) {
	if q, ok := v.parseUsualTime(line, p, sep, row); ok {
		return q, true
	}
	q := p
	c := line[q]
	var x int64
	for c-'0' < 10 {
		x = x*10 + int64(c-'0')
		q++
		c = line[q]
	}
	keep := 3 // number of decimals down to the microsecond
	if v.seconds {
		keep = 6
	}
	if n := q - p; n == 0 || n > 18-keep { // longer numbers would overflow an int64
		q = fieldEnd(line, p, sep)
		v.recordOdd(line[p:q])
		if IsNull(line[p:q]) {
			v.setNull(row)
			return q, true
		}
		return q, false
	}
	got, round := 0, int64(0)
	if c == '.' {
		q++
		c = line[q]
		for c-'0' < 10 {
			if got < keep {
				x = x*10 + int64(c-'0')
			} else if got == keep && c >= '5' {
				round = 1
			}
			got++
			q++
			c = line[q]
		}
	}
	for ; got < keep; got++ {
		x *= 10
	}
	x += round
	if c != sep && c != '\n' || x > maxTime {
		return fieldEnd(line, p, sep), false
	}
	if x == 0 {
		v.setNull(row)
		return q, true
	}
	v.ints[row-v.nulls] = x
	return q, true
}

// parseUsualTime is parseTime's fast path for times as current Tstat versions write
// them: 9 to 15 digits (9 to 12 for seconds) and 6 decimals. It returns false for other
// times.
func (v *vector) parseUsualTime(line []byte, p int, sep byte, row int) (int, bool) {
	if p+24 > len(line) {
		return p, false
	}
	high, n := leadingDigits(binary.LittleEndian.Uint64(line[p:]))
	low, m := leadingDigits(binary.LittleEndian.Uint64(line[p+8:]))
	dot := p + 8 + m
	if n < 8 || uint(m-1) >= 7 || line[dot] != '.' {
		return p, false
	}
	y, decimals := leadingDigits(binary.LittleEndian.Uint64(line[dot+1:]))
	if c := line[dot+7]; decimals != 6 || c != sep && c != '\n' {
		return p, false
	}
	x := high*pow10[m] + low
	switch {
	case !v.seconds:
		x = x*1e3 + (y+500)/1e3
	case m <= 4:
		x = x*1e6 + y
	default:
		return p, false
	}
	if x == 0 || x > maxTime {
		return p, false
	}
	v.ints[row-v.nulls] = int64(x)
	return dot + 7, true
}

// deriveTimes computes the columns first and last of the current row from its columns
// first_abs and durat.
func (b *Batch) deriveTimes(d *derive) {
	row := b.n
	abs, first, last := &b.cols[d.firstAbs], &b.cols[d.first], &b.cols[d.last]
	if abs.def[row] == 0 {
		first.setNull(row)
		last.setNull(row)
		return
	}
	t := abs.ints[row-abs.nulls]
	first.ints[row-first.nulls] = t
	v := &b.cols[d.durat]
	if v.def[row] == 0 {
		last.setNull(row)
		return
	}
	ms := v.floats[row-v.nulls]
	if !(ms >= 0 && ms*1e3 < maxTime) { // also excludes NaN
		last.setNull(row)
		return
	}
	last.ints[row-last.nulls] = t + int64(math.Round(ms*1e3))
}

var errQuotedDate = errors.New("no quoted date")

// rewriteChatMessage converts a line of log_chat_messages from the form that Tstat used
// up to 3.0 to that of later versions. It replaces the quoted local date, for example
// 'Sun Nov 22 06:39:55.621150 2026', with seconds since the epoch. It appends the result,
// which ends in a newline, to dst.
func rewriteChatMessage(dst, line []byte, loc *time.Location) ([]byte, error) {
	before, rest, ok := bytes.Cut(line, []byte(" '"))
	if !ok {
		return dst, errQuotedDate
	}
	date, after, ok := bytes.Cut(rest, []byte("' "))
	if !ok {
		return dst, errQuotedDate
	}
	t, err := time.ParseInLocation("Mon Jan _2 15:04:05.999999 2006", string(date), loc)
	if err != nil || t.Unix() < 0 {
		return dst, errQuotedDate
	}
	return fmt.Appendf(dst, "%s %d.%06d %s", before, t.Unix(), t.Nanosecond()/1e3, after), nil
}
