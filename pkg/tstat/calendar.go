package tstat

import "time"

// Calendar formats times. It caches the date of the last formatted time.
type Calendar struct {
	day  int64  // days since the epoch
	date []byte // formatted day and "T"; nil before the first call to Append
}

// Append formats a time, given in microseconds since the epoch, in UTC in the form
// 2006-01-02T15:04:05.000000. It appends the result to dst.
func (c *Calendar) Append(dst []byte, us int64) []byte {
	day, rest := us/86400e6, us%86400e6
	if rest < 0 {
		day, rest = day-1, rest+86400e6
	}
	if c.date == nil || day != c.day {
		c.day, c.date = day, time.UnixMicro(us).UTC().AppendFormat(c.date[:0], "2006-01-02T")
	}
	s := rest / 1e6
	us = rest - s*1e6
	dst = append(dst, c.date...)
	return append(dst,
		digit(s/36000), digit(s/3600), ':', digit(s%3600/600), digit(s%3600/60), ':', digit(s%60/10), digit(s),
		'.', digit(us/1e5), digit(us/1e4), digit(us/1e3), digit(us/100), digit(us/10), digit(us))
}

func digit(n int64) byte { return '0' + byte(n%10) }
