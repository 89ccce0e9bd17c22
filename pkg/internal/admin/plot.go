package admin

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
)

// Size of a plot in SVG units. The page scales the plot.
const (
	plotWidth  = 240.0
	plotHeight = 40.0
)

// bars is a bar chart as an SVG path.
type bars struct {
	Path  string
	Title string // description for screen readers
	Scale string // maximum and period, see scale
}

// newBars returns a bar chart, or nil if there is nothing to show. values holds the
// counts in consecutive intervals, the last of which contains the current time. The
// title of the chart starts with the string what, such as "Lines".
func newBars(values []int64, interval time.Duration, what string) *bars {
	if len(values) == 0 || slices.Max(values) <= 0 {
		return nil
	}
	most := slices.Max(values)
	step := plotWidth / float64(len(values))
	var b strings.Builder
	var sum int64
	for i, v := range values {
		sum += max(v, 0)
		if v <= 0 {
			continue
		}
		h := max(1, float64(v)/float64(most)*plotHeight) // keep small bars visible
		fmt.Fprintf(&b, "M%.1f %.1fv%.1fh%.1fv-%.1fz", float64(i)*step, plotHeight-h, h, step*0.8, h)
	}
	n := len(values)
	return &bars{
		Path:  b.String(),
		Scale: scale(most, interval, n),
		Title: fmt.Sprintf("%s in the last %s: %s in all, at most %s per %s, %s in the current one",
			what, span(time.Duration(n)*interval), number(sum), number(most), span(interval), number(values[n-1])),
	}
}

// scale describes a bar chart of n intervals as text. If interval is an hour, the text
// gives the maximum count. Otherwise, it gives the period and the maximum rate per
// second.
func scale(most int64, interval time.Duration, n int) string {
	if interval == time.Hour {
		return "at most " + number(most)
	}
	return fmt.Sprintf("last %s, at most %s/s", span(time.Duration(n)*interval), rate(float64(most)/interval.Seconds()))
}

// line is a plot of a series as an SVG path.
type line struct {
	Path   string
	Low    string // smallest value
	High   string // greatest value
	Period string // see period
	Title  string // description for screen readers
}

// newLine returns a plot of the finite values of points over time, or nil if there are
// none. It does not connect points that are more than twice the median step apart.
func newLine(points []graphite.Point, unit string) *line {
	var p []graphite.Point
	for _, q := range points {
		if !math.IsNaN(q.Value) && !math.IsInf(q.Value, 0) {
			p = append(p, q)
		}
	}
	if len(p) == 0 {
		return nil
	}
	low, high := p[0].Value, p[0].Value
	var steps []int64
	for i, q := range p {
		low, high = min(low, q.Value), max(high, q.Value)
		if i > 0 {
			steps = append(steps, q.Time-p[i-1].Time)
		}
	}
	usual := int64(math.MaxInt64 / 2)
	if len(steps) > 0 {
		slices.Sort(steps)
		usual = steps[(len(steps)-1)/2]
	}
	const edge = 2 // for the width of the line
	x := func(q graphite.Point) float64 {
		width := p[len(p)-1].Time - p[0].Time
		if width <= 0 {
			return plotWidth - edge
		}
		return edge + float64(q.Time-p[0].Time)/float64(width)*(plotWidth-2*edge)
	}
	y := func(q graphite.Point) float64 {
		if high-low <= 0 || math.IsInf(high-low, 0) {
			return plotHeight / 2
		}
		return plotHeight - edge - (q.Value-low)/(high-low)*(plotHeight-2*edge)
	}
	var b strings.Builder
	for i, q := range p {
		c := 'L'
		if i == 0 || q.Time-p[i-1].Time > 2*usual {
			c = 'M'
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", c, x(q), y(q))
	}
	last := p[len(p)-1]
	return &line{
		Path: b.String(), Low: quantity(low, unit), High: quantity(high, unit),
		Period: period(seconds(last.Time-p[0].Time), seconds(usual)),
		Title: fmt.Sprintf("%s from %s to %s: between %s and %s, last %s", count(int64(len(p)), "point"),
			clock(p[0].Time), clock(last.Time), quantity(low, unit), quantity(high, unit), quantity(last.Value, unit)),
	}
}

// seconds returns n seconds, or 0 if n is negative or overflows a duration.
func seconds(n int64) time.Duration {
	if n < 0 || n > int64(math.MaxInt64/time.Second) {
		return 0
	}
	return time.Duration(n) * time.Second
}

// clock formats a Unix time in seconds for the title of a plot.
func clock(unix int64) string { return time.Unix(unix, 0).Format("2006-01-02 15:04") }
