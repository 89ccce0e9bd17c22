package admin

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// maxText is the maximum length, in bytes, of a string from a peer on the page and in
// labels of metrics.
const maxText = 200

// number formats n. If n has five or more digits, narrow spaces separate the thousands,
// as in 12 345. A screen reader reads the result as one number.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "\u2212", s[1:]
	}
	if len(s) <= 4 {
		return sign + s
	}
	var b strings.Builder
	b.WriteString(sign)
	for i := range len(s) {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// count formats n followed by noun, as in "3 files". It adds an s to noun unless n is 1.
func count(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return number(n) + " " + noun
}

// rate formats events per second, with one decimal if there are fewer than 10.
func rate(v float64) string {
	switch {
	case math.IsNaN(v) || math.Abs(v) >= 1e18:
		return "–"
	case v == 0:
		return "0"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return number(int64(math.Round(v)))
}

// size formats n bytes with a binary unit.
func size(n int64) string {
	v := float64(n)
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for v >= 1024 && len(units) > 1 {
		v, units = v/1024, units[1:]
	}
	return short(v) + "\u00a0" + units[0]
}

// value formats a measured value in a few characters, with an SI prefix if it is at
// least 1000.
func value(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a == 0:
		return "0"
	case a < 0.001 || a >= 1e18:
		return strconv.FormatFloat(v, 'e', 1, 64)
	case a < 1:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	prefixes := []string{"", "k", "M", "G", "T", "P"}
	for math.Abs(v) >= 1000 && len(prefixes) > 1 {
		v, prefixes = v/1000, prefixes[1:]
	}
	if prefixes[0] == "" {
		return short(v)
	}
	return short(v) + "\u00a0" + prefixes[0]
}

// short formats a value with at most three significant digits. It keeps all digits before
// the decimal point, even if there are more than three.
func short(v float64) string {
	a := math.Abs(v)
	digits := 0
	switch {
	case v == math.Trunc(v):
	case a < 10:
		digits = 2
	case a < 100:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// span formats the absolute value of d in its one or two largest units, such as hours
// and minutes.
func span(d time.Duration) string {
	s := int64(d.Abs() / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d\u00a0s", s)
	case s < 3600:
		return fmt.Sprintf("%d\u00a0min", s/60)
	case s < 48*3600:
		if m := s / 60 % 60; m != 0 {
			return fmt.Sprintf("%d\u00a0h %d\u00a0min", s/3600, m)
		}
		return fmt.Sprintf("%d\u00a0h", s/3600)
	}
	if days := s / 86400; days < 2*365 {
		return fmt.Sprintf("%d\u00a0days", days)
	}
	return fmt.Sprintf("%d\u00a0years", s/86400/365)
}

// ago formats t relative to now, as in "5 min ago". The zero time is "never".
func ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "never"
	case d < -time.Second:
		return "in " + span(d)
	case d < time.Second:
		return "now"
	default:
		return span(d) + " ago"
	}
}

// absolute formats a time with its zone.
func absolute(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }
