package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
)

// Duration is a time.Duration that prints as 2h, not 2h0m0s.
type Duration time.Duration

// parseDuration parses a duration as time.ParseDuration does, but also accepts a number
// of whole days at the start, as in 7d or 1d12h.
func parseDuration(text string) (Duration, error) {
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		d, err := time.ParseDuration(text)
		return Duration(d), err
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	d := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 || more >= 24*time.Hour {
			return 0, errors.New("no duration")
		}
		d += more
	}
	return Duration(d), nil
}

func (d Duration) String() string {
	if day := Duration(24 * time.Hour); d >= 3*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes.
type Size int64

func parseSize(text string) (Size, error) {
	number, factor := text, int64(1)
	for _, u := range console.Units {
		if n, ok := strings.CutSuffix(text, u.Name); ok {
			number, factor = strings.TrimSpace(n), u.Bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, errors.New("no size")
	}
	return Size(n * factor), nil
}

func (s Size) String() string {
	for _, u := range console.Units {
		if s != 0 && int64(s)%u.Bytes == 0 {
			return strconv.FormatInt(int64(s)/u.Bytes, 10) + u.Name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// timeLayouts lists the layouts of since and until, for time.Parse. Times without a zone
// are in the zone that the timezone setting names.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02 15:04:05",
}

// timeForms lists the formats that parseTime accepts, for use in Setting.Usage.
const timeForms = "2006-01-02, 2006-01-02T15:04, RFC 3339, today, yesterday, or a duration before now like 7d or 12h"

// parseTime parses a time. The text is in one of timeLayouts, is "today" or "yesterday",
// or is a duration, which is subtracted from the current time.
func parseTime(text string, loc *time.Location, now time.Time) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, text, loc); err == nil {
			return t, nil
		}
	}
	year, month, day := now.In(loc).Date()
	switch text {
	case "today":
		return time.Date(year, month, day, 0, 0, 0, 0, loc), nil
	case "yesterday":
		return time.Date(year, month, day-1, 0, 0, 0, 0, loc), nil
	}
	if d, err := parseDuration(text); err == nil && d >= 0 {
		return now.Add(-time.Duration(d)), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time like 2006-01-02, 2006-01-02T15:04, 2006-01-02T15:04:05Z, yesterday or 7d (ago)", text)
}
