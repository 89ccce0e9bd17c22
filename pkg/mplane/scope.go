package mplane

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Scope is a temporal scope. It states when a capability can be used, when a
// specification runs, or which time a result covers. Its grammar:
//
//	scope  = simple | "repeat " outer [ " { " inner " } " ]
//	simple = point [ " ... " point | " + " length ] [ " / " period ]
//	outer  = point [ " ... " point | " + " length ] ( " / " period | " cron " fields )
//	inner  = "now" [ " + " length ] [ " / " period ]
//	point  = "now" | "past" | "future" | time in UTC, like 2015-01-31 23:59:59.5
//	length, period = like 1d2h3m4s, or "inf"
//	fields = second minute hour day-of-month weekday month, each "*" or like 1-5,7
type Scope struct {
	start, end     point
	length, period span
	cron           *crontab // for a repeated scope without a period
	repeat         bool
	inner          struct{ length, period span } // length and period of each run
}

// span is a duration that may be absent.
type span struct {
	d   time.Duration
	set bool
}

// Infinite is the length that "inf" stands for, which is also the maximum length.
const Infinite = 100000 * 24 * time.Hour

var spanText = regexp.MustCompile(`^(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,10})s)?$`)

// parseSpan parses a duration like 1d2h3m4s, or "inf".
func parseSpan(text string) (span, error) {
	if text == "inf" {
		return span{Infinite, true}, nil
	}
	m := spanText.FindStringSubmatch(text)
	if m == nil || text == "" {
		return span{}, fmt.Errorf("'%s' is not a duration like 1d, 2h30m or inf", abbreviate(text))
	}
	var seconds int64
	for i, unit := range []int64{86400, 3600, 60, 1} {
		n, _ := strconv.ParseInt("0"+m[i+1], 10, 64)
		seconds += n * unit
	}
	if seconds > int64(Infinite/time.Second) {
		return span{}, fmt.Errorf("'%s' is longer than inf, which is 100000d", abbreviate(text))
	}
	return span{time.Duration(seconds) * time.Second, true}, nil
}

// formatSpan formats d in the canonical form, without fractions of a second.
func formatSpan(d time.Duration) string {
	seconds := int64(d / time.Second)
	var b strings.Builder
	for _, u := range []struct {
		name string
		size int64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}} {
		if n := seconds / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			seconds %= u.size
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// ParseScope parses a temporal scope. Unlike the RI, it rejects text after a valid
// scope.
func ParseScope(text string) (Scope, error) {
	body, repeated := strings.CutPrefix(text, "repeat ")
	if !repeated {
		return parseSimple(text)
	}
	reject := func(reason string) (Scope, error) {
		return Scope{}, fmt.Errorf("'%s' does not appear to be an mPlane repeated-when (%s)", abbreviate(body), reason)
	}
	outer, inner, nested := strings.Cut(body, " { ")
	var within Scope
	if nested {
		inner, closed := strings.CutSuffix(strings.TrimRight(inner, " "), " }")
		if !closed {
			return reject("the inner when has no end")
		}
		var err error
		if within, err = parseSimple(inner); err != nil {
			return Scope{}, err
		}
		if within.start.kind != now || within.end.kind != absent {
			return reject("inner when has to be relative to now")
		}
	}
	outer, fields, hasCron := strings.Cut(outer, " cron ")
	s, err := parseSimple(outer)
	if err != nil {
		return Scope{}, err
	}
	switch {
	case hasCron && s.period.set:
		return reject("duration and cron set at the same time")
	case hasCron:
		if s.cron, err = parseCron(fields); err != nil {
			return Scope{}, err
		}
	case !s.period.set:
		return reject("no duration or cron set")
	case s.period.d == 0:
		return reject("the period is zero")
	}
	s.repeat = true
	if within.length.set { // the RI ignores an inner period without a length
		s.inner.length, s.inner.period = within.length, within.period
	}
	return s, nil
}

func parseSimple(text string) (s Scope, err error) {
	when, period, found := strings.Cut(text, " / ")
	if found {
		if s.period, err = parseSpan(period); err != nil {
			return Scope{}, err
		}
	}
	if from, to, found := strings.Cut(when, rangeSeparator); found {
		when = from
		if s.end, err = parsePoint(to); err != nil {
			return Scope{}, err
		}
	} else if from, length, found := strings.Cut(when, " + "); found {
		when = from
		if s.length, err = parseSpan(length); err != nil {
			return Scope{}, err
		}
	}
	if s.start, err = parsePoint(when); err != nil {
		return Scope{}, err
	}
	return s, nil
}

// Between returns the scope from start to end.
func Between(start, end time.Time) Scope { return Scope{start: pointAt(start), end: pointAt(end)} }

// For returns the scope that starts now and lasts for d.
func For(d time.Duration) Scope { return Scope{start: point{kind: now}, length: span{d, true}} }

// String returns the canonical form of s. Digests of statements are computed from this
// form; see Statement.ID.
func (s Scope) String() string {
	var b strings.Builder
	if s.repeat {
		b.WriteString("repeat ")
	}
	b.WriteString(s.start.String())
	switch {
	case s.end.kind != absent:
		b.WriteString(rangeSeparator + s.end.String())
	case s.length.set:
		b.WriteString(" + " + formatSpan(s.length.d))
	}
	if s.cron != nil {
		b.WriteString(" cron " + s.cron.String())
	} else if s.period.set {
		b.WriteString(" / " + formatSpan(s.period.d))
	}
	if s.repeat && s.inner.length.set {
		b.WriteString(" { now + " + formatSpan(s.inner.length.d))
		if s.inner.period.set {
			b.WriteString(" / " + formatSpan(s.inner.period.d))
		}
		b.WriteString(" } ") // the RI also writes the final space
	}
	return b.String()
}

// IsZero reports whether s is the zero Scope.
func (s Scope) IsZero() bool { return s.start.kind == absent }

// Repeated reports whether s consists of several runs.
func (s Scope) Repeated() bool { return s.repeat }

// Definite reports whether the start of s is an absolute time, and its end is an
// absolute time or absent. Only such a scope means the same whenever it is read.
func (s Scope) Definite() bool {
	return s.start.kind == absolute && (s.end.kind == absent || s.end.kind == absolute)
}

// Period returns the interval between samples, or between the runs of a repeated scope.
// ok is false if s has no period.
func (s Scope) Period() (period time.Duration, ok bool) { return s.period.d, s.period.set }

// Times returns the start and end of s, with t as "now". start or end is zero if s has no
// limit on that side.
func (s Scope) Times(t time.Time) (start, end time.Time) {
	start, bounded := s.start.resolve(t)
	switch {
	case s.end.kind != absent:
		end, _ = s.end.resolve(t)
	case bounded:
		end = start.Add(s.length.d)
	}
	return start, end
}

// Duration returns the length of s, with t as "now". ok is false for a range that has
// "past" or "future" as its start or end.
func (s Scope) Duration(t time.Time) (length time.Duration, ok bool) {
	if s.end.kind == absent {
		return s.length.d, true
	}
	start, end := s.Times(t)
	if start.IsZero() || end.IsZero() {
		return 0, false
	}
	return end.Sub(start), true
}

// Delays holds the times until a scope starts and ends. If the start has passed, Start is
// 0 and the scope's length, if any, counts from now.
type Delays struct {
	Start, End time.Duration
	Endless    bool // the scope has no end; End is 0
	Never      bool // the scope is over or never starts
}

// Delays returns the delays of s, with t as "now".
func (s Scope) Delays(t time.Time) Delays {
	var d Delays
	start, end := s.Times(t)
	if !start.IsZero() {
		d.Start = max(start.Sub(t), 0)
	}
	switch {
	case s.start.kind == future || s.end.kind == past:
		return Delays{Never: true}
	case s.end.kind == absent && s.start.kind == past && !s.length.set,
		s.end.kind != absent && end.IsZero():
		d.Endless = true
	case s.end.kind == absent:
		if d.End = d.Start + s.length.d; d.End < d.Start { // overflow: the end is centuries away
			d.End, d.Endless = 0, true
		}
	default:
		if d.End = end.Sub(t); d.End < 0 {
			return Delays{Never: true}
		}
	}
	return d
}

// contains reports whether p lies in s, with t as "now".
func (s Scope) contains(p point, t time.Time) bool {
	switch p.kind {
	case past:
		return s.start.kind == past
	case future:
		return s.end.kind == future
	case now:
		if s.start.kind == now || s.end.kind == now {
			return true
		}
	}
	when, _ := p.resolve(t)
	start, end := s.Times(t)
	return (start.IsZero() || !when.Before(start)) && (end.IsZero() || !when.After(end))
}

// Follows reports whether a specification with scope s fits the scope of a capability,
// with t as "now". It is enough if the start or the end of s lies within the capability's
// scope, as in the RI, whose clients rely on this rule. If the capability has a period, s
// must have one that is at least as long.
func (s Scope) Follows(capability Scope, t time.Time) bool {
	if capability.period.set {
		period := s.period
		if s.repeat {
			period = s.inner.period
		}
		if !period.set || period.d < capability.period.d {
			return false
		}
	}
	return capability.contains(s.start, t) || s.end.kind == absolute && capability.contains(s.end, t)
}

// Occurrences yields the start and the scope of each run of s that starts at or after t.
// Only a repeated scope has runs. The sequence may be infinite.
func (s Scope) Occurrences(t time.Time) iter.Seq2[time.Time, Scope] {
	start, end := s.Times(t)
	if start.IsZero() {
		start = t
	}
	next := func(after time.Time) (time.Time, bool) { // returns the start of the first run at or after the given time
		if s.cron != nil {
			return s.cron.next(after)
		}
		if after.Before(start) {
			return start, true
		}
		// A time.Duration cannot hold as many years as a scope may span.
		from, period := start.UnixMicro(), s.period.d.Microseconds()
		steps := (after.UnixMicro() - from + period - 1) / period
		return time.UnixMicro(from + steps*period).UTC(), true
	}
	return func(yield func(time.Time, Scope) bool) {
		if !s.repeat || s.start.kind == future || s.end.kind == past {
			return
		}
		after := t
		if start.After(t) {
			after = start
		}
		for {
			run, ok := next(after)
			if !ok || !end.IsZero() && run.After(end) {
				return
			}
			if !yield(run, Scope{start: pointAt(run), length: s.inner.length, period: s.inner.period}) {
				return
			}
			after = run.Add(time.Microsecond)
		}
	}
}

// crontab holds the sorted values of each cron field.
type crontab [6][]int

// cronFields describes the fields of a crontab, in the order in which they are written.
// The RI writes "*" for the hours as 0 to 59, so hours above 23 must be accepted.
var cronFields = [6]struct {
	name     string
	min, max int
}{{"second", 0, 59}, {"minute", 0, 59}, {"hour", 0, 59}, {"day of month", 1, 31}, {"weekday", 0, 6}, {"month", 1, 12}}

func parseCron(text string) (*crontab, error) {
	fields := strings.Split(text, " ")
	if len(fields) != len(cronFields) {
		return nil, fmt.Errorf("'%s' does not appear to be a mPlane crontab", abbreviate(text))
	}
	var c crontab
	for i, f := range fields {
		spec := cronFields[i]
		if f == "*" {
			for n := spec.min; n <= spec.max; n++ {
				c[i] = append(c[i], n)
			}
			continue
		}
		for part := range strings.SplitSeq(f, ",") {
			first, last, ranged := strings.Cut(part, "-")
			low, err := strconv.Atoi(first)
			high := low
			if ranged && err == nil {
				high, err = strconv.Atoi(last)
			}
			if err != nil || low < spec.min || high > spec.max || high < low {
				return nil, fmt.Errorf("'%s' is not a %s of a crontab (%d to %d)", abbreviate(part), spec.name, spec.min, spec.max)
			}
			for n := low; n <= high; n++ {
				c[i] = append(c[i], n)
			}
		}
		slices.Sort(c[i])
		c[i] = slices.Compact(c[i])
	}
	return &c, nil
}

func (c *crontab) String() string {
	var fields []string
	for _, list := range c {
		var numbers []string
		for _, n := range list {
			numbers = append(numbers, strconv.Itoa(n))
		}
		fields = append(fields, strings.Join(numbers, ","))
	}
	return strings.Join(fields, " ")
}

// next returns the first time at or after t that c matches. ok is false if there is no
// match within nine years, as for February 30. The limit is nine years because leap
// days may be eight years apart.
func (c *crontab) next(t time.Time) (match time.Time, ok bool) {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		t = whole.Add(time.Second)
	}
	t = t.UTC()
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	for range 9 * 366 {
		if slices.Contains(c[3], day.Day()) && slices.Contains(c[4], int(day.Weekday())) && slices.Contains(c[5], int(day.Month())) {
			if when, ok := c.within(day, t); ok {
				return when, true
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}, false
}

// within returns the first time at or after t that c matches on the given day.
func (c *crontab) within(day, t time.Time) (time.Time, bool) {
	for _, h := range c[2] {
		if h > 23 || !day.Add(time.Duration(h+1)*time.Hour).After(t) {
			continue
		}
		for _, m := range c[1] {
			if !day.Add(time.Duration(h)*time.Hour + time.Duration(m+1)*time.Minute).After(t) {
				continue
			}
			for _, s := range c[0] {
				when := day.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second)
				if !when.Before(t) {
					return when, true
				}
			}
		}
	}
	return time.Time{}, false
}

// Forever is the end used for an envelope whose scope has no end. RI clients compare
// the end of each envelope with the clock, and fail if it is not an absolute time.
var Forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// Anchored returns the scope that covers the results of all runs of s, with t as "now".
// It is not repeated, and its start and end are absolute times.
func (s Scope) Anchored(t time.Time) Scope {
	start, end := s.Times(t)
	if start.IsZero() {
		start = t
	}
	if end.IsZero() {
		end = Forever
	}
	return Scope{start: pointAt(start), end: pointAt(end), period: s.period}
}

// EndedAt returns s with its end set to t, or s unchanged if s ends at or before t.
func (s Scope) EndedAt(t time.Time) Scope {
	if _, end := s.Times(t); end.IsZero() || t.Before(end) {
		s.end, s.length = pointAt(t), span{}
	}
	return s
}
