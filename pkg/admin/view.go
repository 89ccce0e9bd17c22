package admin

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
)

// Bounds of what the page shows; it says how much more there is.
const (
	maxProblems = 20
	maxLogs     = 200
	maxSources  = 100
	maxSpecs    = 10
	maxPlots    = 36
	maxFilter   = 100 // bytes
)

// refresh is the choice of seconds after which the page loads itself again.
const (
	refreshChoice = 10
	refreshMin    = 2
	refreshMax    = 3600
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

// styleHash names the style in the policy, so that no other is used.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"number": func(n any) string { return number(reflect.ValueOf(n).Int()) },
	"count":  func(n any, noun string) string { return count(reflect.ValueOf(n).Int(), noun) },
	"size":   size,
	"value":  value,
	"rate":   rate,
	"parts":  parts,
	"most":   func(n int64) int64 { return n / 10 * 9 },
	"text":   func(s string) string { return cut(s, maxText) },
	"long":   func(s string) string { return cut(s, maxNotice) },
	"join":   func(list []string) string { return cut(strings.Join(list, ", "), maxText) },
	"lag": func(l *mathproto.StreamStats) string {
		if lag, ok := l.Lag(); ok {
			return span(lag)
		}
		return ""
	},
	"storeLags": storeLags,
	"hourly":    func(l *mathproto.StreamStats) *bars { return newBars(l.Hourly, time.Hour, "Rows stored") },
	// A type is shown where the name of the stream leaves it open.
	"showType": func(l *mathproto.StreamStats) bool {
		return l.Type() != "" && !strings.Contains(l.StreamName, l.Type())
	},
	"rates":   func(l Live) *bars { return newBars(l.Rates, l.Interval, "Lines") },
	"sources": func(l Live) rows[stream.SourceStats] { return first(l.Sources, maxSources) },
	"specs":   func(c Capability) rows[component.Specification] { return first(c.Specifications, maxSpecs) },
	"line":    func(s repository.Series) *line { return newLine(s.Points) },
	"unix":    func(seconds int64) time.Time { return time.Unix(seconds, 0) },
}).Parse(pageText))

// storeLags returns how far behind each of several stores of a stream is.
func storeLags(l *mathproto.StreamStats) (list []string) {
	if len(l.Stores) < 2 {
		return nil
	}
	for _, s := range l.Stores {
		text := s.Store + ": –" // it has nothing
		if lag, ok := s.Lag(l.Time); ok {
			text = s.Store + ": " + span(lag)
		}
		if s.Behind > 0 {
			text += ", " + count(s.Behind, "file") + " behind"
		}
		list = append(list, text)
	}
	return list
}

// rows are the first of a list, and how many more there are.
type rows[T any] struct {
	Shown []T
	More  int64
}

func first[T any](list []T, n int) rows[T] {
	n = min(n, len(list))
	return rows[T]{list[:n], int64(len(list) - n)}
}

// view is what the template is made of.
type view struct {
	*State
	Now     time.Time
	Style   template.CSS
	Icon    template.URL
	Refresh int // seconds, 0: not
	Filter  string

	Problems rows[Problem]
	Errors   int
	Warnings int

	LogRows rows[*mathproto.StreamStats] // those with trouble first
	Late    int64                        // streams that are late or failing

	// HasLogs, HasLive and HasRRD tell whether this process has to do with
	// them.
	HasLogs, HasLive, HasRRD bool

	Plots []plots

	RowsDay   int64
	LinesRate float64
	Sources   int64
	Metrics   int64
	NewestRRD time.Time
}

// plots are the series of an RRD that the filter lets pass.
type plots struct {
	RRD
	rows[repository.Series]
	Probes int64
}

func newView(s *State, notReady error, now time.Time, query url.Values) *view {
	v := &view{State: s, Now: now, Style: template.CSS(pageStyle), Filter: cut(query.Get("metric"), maxFilter)}
	if n, err := strconv.Atoi(query.Get("refresh")); err == nil && n >= refreshMin && n <= refreshMax {
		v.Refresh = n
	}
	problems := s.Problems(notReady, now)
	for _, p := range problems {
		if p.Error {
			v.Errors++
		} else {
			v.Warnings++
		}
	}
	v.Problems = first(problems, maxProblems)
	v.Icon = icon(v.Level())
	v.HasLogs = len(s.Logs) > 0 || s.endpoint("collect-log") != nil
	v.HasLive = len(s.Live) > 0 || s.endpoint("collect-streaming") != nil
	v.HasRRD = len(s.RRD) > 0 || s.endpoint("collect-rrd") != nil
	v.addLogs()
	for _, l := range v.Live {
		v.LinesRate += l.Rate
		v.Sources += int64(len(l.Sources))
	}
	for _, r := range s.RRD {
		v.addRRD(r)
	}
	return v
}

func (v *view) addLogs() {
	var list []*mathproto.StreamStats
	for i := range v.Logs {
		l := &v.Logs[i]
		if l.Late() || l.Err() != "" {
			v.Late++
		}
		for _, n := range l.Hourly {
			v.RowsDay += n
		}
		list = append(list, l)
	}
	trouble := func(l *mathproto.StreamStats) int {
		switch {
		case l.Err() != "":
			return 0
		case l.Late():
			return 1
		}
		return 2
	}
	slices.SortFunc(list, func(a, b *mathproto.StreamStats) int {
		return cmp.Or(cmp.Compare(trouble(a), trouble(b)), cmp.Compare(a.Probe, b.Probe), cmp.Compare(a.StreamName, b.StreamName), cmp.Compare(a.Type(), b.Type()))
	})
	v.LogRows = first(list, maxLogs)
}

func (v *view) addRRD(r RRD) {
	probes := map[string]bool{}
	var found []repository.Series
	for _, s := range r.Series {
		probes[s.Probe] = true
		if strings.Contains(strings.ToLower(s.Probe+"."+s.Metric), strings.ToLower(v.Filter)) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b repository.Series) int {
		return cmp.Or(cmp.Compare(interest(a.Metric), interest(b.Metric)), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Probe, b.Probe))
	})
	v.Plots = append(v.Plots, plots{r, first(found, maxPlots), int64(len(probes))})
	v.Metrics += int64(len(r.Series))
	if t := newest(r.Series); t.After(v.NewestRRD) {
		v.NewestRRD = t
	}
}

// interesting are the beginnings of metrics that most people look for first.
var interesting = []string{"ip.bitrate.", "L3.bitrate.", "tcp.rtt.", "profile.", "number_of_tracked_tcp_flows.", "number_of_tracked_udp_flows."}

// interest orders metrics: those of some of the traffic only (cloud, noncloud)
// come after those of all of it.
func interest(metric string) int {
	if strings.Contains(metric, "cloud.") {
		return len(interesting) + 1
	}
	i := slices.IndexFunc(interesting, func(p string) bool { return strings.HasPrefix(metric, p) })
	if i < 0 {
		return len(interesting)
	}
	return i
}

// Level is the class of the whole: error, warning or fine.
func (v *view) Level() string {
	switch {
	case v.Errors > 0:
		return "error"
	case v.Warnings > 0:
		return "warning"
	}
	return "fine"
}

// Verdict is the answer to whether everything is fine.
func (v *view) Verdict() string {
	switch {
	case v.Errors > 0 && v.Warnings > 0:
		return count(int64(v.Errors), "error") + ", " + count(int64(v.Warnings), "warning")
	case v.Errors > 0:
		return count(int64(v.Errors), "error")
	case v.Warnings > 0:
		return count(int64(v.Warnings), "warning")
	}
	return "All is well"
}

// Ago and At write a time for the template.
func (v *view) Ago(t time.Time) string     { return ago(t, v.Now) }
func (v *view) At(t time.Time) string      { return absolute(t) }
func (v *view) Machine(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Port is that of an endpoint.
func (v *view) Port(endpoint string) string {
	if e := v.endpoint(endpoint); e != nil && len(e.Addrs) > 0 {
		if _, port, err := net.SplitHostPort(e.Addrs[0]); err == nil {
			return port
		}
	}
	return "PORT"
}

// Folder writes the time of a log folder.
func (v *view) Folder(t time.Time) string { return t.Format("2006-01-02 15:04") }

// Reload is the address of this page with another refresh.
func (v *view) Reload(seconds int) string {
	q := url.Values{}
	if seconds > 0 {
		q.Set("refresh", strconv.Itoa(seconds))
	}
	if v.Filter != "" {
		q.Set("metric", v.Filter)
	}
	return "/?" + q.Encode()
}

// RefreshChoice is what the page offers.
func (v *view) RefreshChoice() int { return refreshChoice }

// Up is how long the process runs.
func (v *view) Up() string { return span(v.Now.Sub(v.Started)) }

// Span is how long ago something began.
func (v *view) Span(t time.Time) string { return span(v.Now.Sub(t)) }

// timed is a time for the template "time".
type timed struct {
	T time.Time
	V *view
}

// With gives a time to the template "time".
func (v *view) With(t time.Time) timed { return timed{t, v} }

// parts are the parts of the name of a metric, where a line may be broken.
func parts(metric string) (list []string) {
	for node := range strings.SplitAfterSeq(cut(metric, maxText), ".") {
		list = append(list, strings.SplitAfter(node, "_")...)
	}
	return list
}

// icon is a dot in the colour of the state, for the tab of the browser.
func icon(level string) template.URL {
	colour := map[string]string{"fine": "%232e8b57", "warning": "%23d98e04", "error": "%23c62828"}[level]
	return template.URL(fmt.Sprintf("data:image/svg+xml,%%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%%3E%%3Ccircle cx='8' cy='8' r='7' fill='%s'/%%3E%%3C/svg%%3E", colour))
}
