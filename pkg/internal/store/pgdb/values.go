package pgdb

import (
	"math"
	"strconv"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// null represents NULL in the text form of COPY.
const null = "-"

// appendRawInt appends the field f to dst as an integer. It returns false if f is not an
// integer in the range of c's column.
func (c *cell) appendRawInt(dst, f []byte) ([]byte, bool) {
	if tstat.IsNull(f) {
		return append(dst, null...), true
	}
	x, err := strconv.ParseInt(tstat.String(f), 10, 64)
	if err != nil {
		// Some Tstat versions print a counter as a number with
		// decimals.
		y, ferr := strconv.ParseFloat(tstat.String(f), 64)
		if ferr != nil || y != math.Trunc(y) || math.Abs(y) >= 1<<53 {
			return dst, false
		}
		x = int64(y)
	}
	return strconv.AppendInt(dst, x, 10), x >= c.min && x <= c.max
}

// plain reports whether a field is a decimal number that every fractional SQL
// type accepts.
func plain(f []byte) bool {
	if len(f) == 0 || len(f) > 40 {
		return false
	}
	digits, dots := 0, 0
	for i, c := range f {
		switch {
		case c-'0' < 10:
			digits++
		case c == '.' && dots == 0:
			dots++
		case c == '-' && i == 0:
		default:
			return false
		}
	}
	return digits > 0
}

func appendFloat(dst []byte, x float64) []byte {
	switch {
	case math.IsInf(x, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(x, -1):
		return append(dst, "-Infinity"...)
	}
	return strconv.AppendFloat(dst, x, 'g', -1, 64) // PostgreSQL has NaN too
}

// appendText appends t to dst. It escapes the separator sep and all other characters
// that are special to COPY.
func appendText(dst, t []byte, sep byte) []byte {
	start := 0
	for i, c := range t {
		if c != '\\' && c > '\r' && c != sep {
			continue
		}
		var esc byte
		switch c {
		case '\\':
			esc = '\\'
		case '\t':
			esc = 't'
		case '\n':
			esc = 'n'
		case '\r':
			esc = 'r'
		case sep:
			esc = sep
		default:
			continue
		}
		dst = append(append(dst, t[start:i]...), '\\', esc)
		start = i + 1
	}
	return append(dst, t[start:]...)
}

// AppendTime appends a time in text form; for the format see appendTime.
func AppendTime(dst []byte, t time.Time) []byte {
	return appendTime(dst, new(tstat.Calendar), t.UnixMicro())
}

// appendTime appends a time, given in microseconds since the epoch, in the format
// 2006-01-02T15:04:05.000000+00, without decimals for whole seconds. The format has no
// space, because a space may separate the fields of a COPY line.
func appendTime(dst []byte, c *tstat.Calendar, us int64) []byte {
	dst = c.Append(dst, us)
	if us%1e6 == 0 {
		dst = dst[:len(dst)-len(".000000")]
	}
	return append(dst, "+00"...)
}
