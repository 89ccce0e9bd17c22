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

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// Limits of the page. If a list is too long, the page shows how many elements it omits.
const (
	maxProblems = 20
	maxProbes   = 200
	maxLogs     = 600 // of all probes
	maxPlaces   = 5
	maxSources  = 100
	maxSpecs    = 10
	maxPlots    = 36
	maxFilter   = 100 // bytes
	fewProbes   = 3   // up to this many probes: plots are open, and there is no outer fold
)

// Seconds between reloads of the page: the interval that the page offers, and the
// minimum and maximum of queryRefresh.
const (
	refreshChoice = 10
	refreshMin    = 2
	refreshMax    = 3600
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

// styleHash is the hash of pageStyle, in the form that policy needs.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"number": func(n any) string { return number(reflect.ValueOf(n).Int()) },
	"count":  func(n any, noun string) string { return count(reflect.ValueOf(n).Int(), noun) },
	"size":   size,
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
	"uneven":    uneven,
	"hourly":    func(l *mathproto.StreamStats) *bars { return newBars(l.Hourly, time.Hour, "Rows stored") },
	// Show the log type unless the stream's name contains it.
	"showType": func(l *mathproto.StreamStats) bool {
		return l.Type() != "" && !strings.Contains(l.StreamName, l.Type())
	},
	"clock":    aheadText,
	"span":     span,
	"level":    streamLevel,
	"unit":     unit,
	"quantity": quantity,
	"rates":    func(l Live) *bars { return newBars(l.Rates, l.Interval, "Lines") },
	"specs":    func(c Capability) rows[component.Specification] { return first(c.Specifications, maxSpecs) },
	"line":     func(s repository.Series) *line { return newLine(s.Points, unit(s.Metric)) },
	"unix":     func(seconds int64) time.Time { return time.Unix(seconds, 0) },
}).Parse(pageText))

// storeLags returns the lag of every store of a stream as text. It returns nil if the
// stream has only one store.
func storeLags(l *mathproto.StreamStats) (list []string) {
	if len(l.Stores) < 2 {
		return nil
	}
	for _, s := range l.Stores {
		text := s.Store + ": –" // nothing stored yet
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

// uneven reports whether a store of a stream fails or lags behind other stores.
func uneven(l *mathproto.StreamStats) bool {
	return slices.ContainsFunc(l.Stores, func(s bulk.StoreSummary) bool {
		return s.Behind > 0 || s.Error != "" || !s.Last.Equal(l.Stores[0].Last)
	})
}

// rows holds the shown elements of a list and the number of omitted elements.
type rows[T any] struct {
	Shown []T
	More  int64
}

func first[T any](list []T, n int) rows[T] {
	n = min(n, len(list))
	return rows[T]{list[:n], int64(len(list) - n)}
}

// Query parameters of the page.
const (
	queryRefresh = "refresh" // seconds
	queryMetric  = "metric"  // substring of the names of metrics to plot
	queryShow    = "show"    // "unhealthy" hides healthy probes, streams and sections
	queryProbe   = "probe"   // name of the probe to open and to plot
	queryOpen    = "open"    // section to open
)

// view holds the data for the page template and for the status JSON.
type view struct {
	*State
	Now       time.Time
	Style     template.CSS
	Icon      template.URL
	Refresh   int // seconds between reloads; 0: never
	Filter    string
	Unhealthy bool   // hide healthy probes and sections
	Chosen    string // name of the chosen probe
	Opened    string // section to open

	All      []Problem
	Problems rows[Problem]
	Errors   int
	Warnings int

	Probes []*probeView     // all probes
	Front  rows[*probeView] // open; see OpenProbe
	Folded rows[*probeView] // folded: the others that the filter does not hide
	Rest   int64            // healthy probes that the filter hides

	Late int64 // streams that are late or failing

	// HasLogs, HasLive and HasRRD report whether this process handles logs,
	// live lines and RRDs.
	HasLogs, HasLive, HasRRD bool

	Plots []plots

	RowsDay   int64
	LinesRate float64
	Sources   int64
	Metrics   int64
	NewestRRD time.Time
}

// plots holds the series of an RRD run that match the query.
type plots struct {
	RRD
	rows[repository.Series]
	Probes int64
}

func newView(s *State, notReady error, now time.Time, query url.Values) *view {
	s.nameProbes()
	v := &view{
		State: s, Now: now, Style: template.CSS(pageStyle), Filter: cut(query.Get(queryMetric), maxFilter),
		Unhealthy: query.Get(queryShow) == "unhealthy", Chosen: cut(query.Get(queryProbe), maxFilter), Opened: cut(query.Get(queryOpen), maxFilter),
	}
	if n, err := strconv.Atoi(query.Get(queryRefresh)); err == nil && n >= refreshMin && n <= refreshMax {
		v.Refresh = n
	}
	v.All = s.Problems(notReady, now)
	for _, p := range v.All {
		if p.Error {
			v.Errors++
		} else {
			v.Warnings++
		}
	}
	v.Problems = first(v.All, maxProblems)
	v.Icon = icon(v.Level())
	v.HasLogs = len(s.Logs) > 0 || s.endpoint("collect-log") != nil
	v.HasLive = len(s.Live) > 0 || s.endpoint("collect-streaming") != nil
	v.HasRRD = len(s.RRD) > 0 || s.endpoint("collect-rrd") != nil
	v.addProbes()
	for _, l := range v.Live {
		v.LinesRate += l.Rate
		v.Sources += int64(len(l.Sources))
	}
	for _, r := range s.RRD {
		v.addRRD(r)
	}
	return v
}

func (v *view) addProbes() {
	v.Probes = newProbes(v.State, v.All)
	var front, folded []*probeView
	for _, p := range v.Probes {
		v.Late += p.Late + p.Failing
		v.RowsDay += p.RowsDay
		switch {
		case p.Name == v.Chosen: // first, so that there is room for it
			front = slices.Insert(front, 0, p)
		case v.OpenProbe(p):
			front = append(front, p)
		default:
			folded = append(folded, p)
		}
	}
	v.Front, v.Folded = first(front, maxProbes), first(folded, max(0, maxProbes-len(front)))
	if v.Unhealthy {
		v.Rest = int64(len(folded))
		v.Folded = rows[*probeView]{}
	}
	streams := 0
	for _, p := range slices.Concat(v.Front.Shown, v.Folded.Shown) {
		p.bound(v.Unhealthy && p.Level != fine && p.Name != v.Chosen, maxLogs-streams)
		streams += len(p.Streams.Shown)
	}
}

func (v *view) addRRD(r RRD) {
	probes := map[string]bool{}
	var found []repository.Series
	for _, s := range r.Series {
		probes[s.Probe] = true
		if (v.Chosen == "" || s.Probe == v.Chosen) && strings.Contains(strings.ToLower(s.Probe+"."+s.Metric), strings.ToLower(v.Filter)) {
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

// levelOf returns the level of the most severe problem in the given parts.
func (v *view) levelOf(parts ...string) string {
	w := fine
	for _, p := range v.All {
		if slices.Contains(parts, p.Part) {
			w = worst(w, p.level())
		}
	}
	return w
}

// Part returns the level of the most severe problem in the given part of the service.
func (v *view) Part(part string) string { return v.levelOf(part) }

// CapabilityLevel returns the level of the section on capabilities and endpoints.
func (v *view) CapabilityLevel() string {
	return v.levelOf(PartSupervisor, PartService, PartCertificates)
}

// Title returns the name of this repository or probe.
func (v *view) Title() string {
	if v.Tstat != nil {
		return v.Tstat.Probe
	}
	return v.Name
}

// Hidden returns how many probes the page omits because it shows only a limited number.
func (v *view) Hidden() int64 { return v.Front.More + v.Folded.More }

// Open reports whether a section of the page is open rather than folded. A section is
// open if the query names it or if it has problems. The plots are also open if the query
// selects a probe or metrics. With few probes, they are open unless the filter for
// unhealthy parts is on.
func (v *view) Open(section string) bool {
	switch section {
	case v.Opened:
		return true
	case "live":
		return v.levelOf(PartLive) != fine
	case "rrd":
		return v.levelOf(PartRRD) != fine || v.Filter != "" || v.Chosen != "" || v.Metrics > 0 && len(v.Probes) <= fewProbes && !v.Unhealthy
	case "recent":
		return v.levelOf(PartRecent) != fine
	case "capabilities":
		return v.CapabilityLevel() != fine
	}
	return false
}

// Shows reports whether the page shows a section. The filter for unhealthy parts hides
// sections that are not open.
func (v *view) Shows(section string) bool { return !v.Unhealthy || v.Open(section) }

// OpenProbe reports whether the details of a probe are open rather than folded. They are
// open if the probe has problems or is named in the query. The details of the probe on
// this machine are also open, unless the filter for unhealthy parts is on.
func (v *view) OpenProbe(p *probeView) bool {
	return p.Level != fine || p.Name == v.Chosen || p.Tstat != nil && !v.Unhealthy
}

// FoldTwice reports whether there are so many folded probes that an outer fold
// encloses them.
func (v *view) FoldTwice() bool { return len(v.Folded.Shown) > fewProbes }

// Level returns the level of the most severe problem.
func (v *view) Level() string {
	switch {
	case v.Errors > 0:
		return failure
	case v.Warnings > 0:
		return warning
	}
	return fine
}

// Verdict returns the numbers of errors and warnings as text, or "All is well" if there
// are none.
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

// Ago, Absolute and Machine format a time for the template. Ago formats it relative to
// now, and Machine formats it as RFC 3339.
func (v *view) Ago(t time.Time) string      { return ago(t, v.Now) }
func (v *view) Absolute(t time.Time) string { return absolute(t) }
func (v *view) Machine(t time.Time) string  { return t.UTC().Format(time.RFC3339) }

// Port returns the port of the endpoint with the given name, or "PORT" if that endpoint
// is not open.
func (v *view) Port(endpoint string) string {
	if e := v.endpoint(endpoint); e != nil && len(e.Addrs) > 0 {
		if _, port, err := net.SplitHostPort(e.Addrs[0]); err == nil {
			return port
		}
	}
	return "PORT"
}

// Folder formats the time of a log folder.
func (v *view) Folder(t time.Time) string { return t.Format("2006-01-02 15:04") }

// RefreshChoice returns the reload interval, in seconds, that the page offers.
func (v *view) RefreshChoice() int { return refreshChoice }

// Up returns the uptime of the process.
func (v *view) Up() string { return span(v.Now.Sub(v.Started)) }

// Span returns the time since t as text.
func (v *view) Span(t time.Time) string { return span(v.Now.Sub(t)) }

// probeOf holds the data for the templates "probe" and "streams".
type probeOf struct {
	P *probeView
	V *view
}

// ProbeData returns the data of the templates "probe" and "streams".
func (v *view) ProbeData(p *probeView) probeOf { return probeOf{p, v} }

// timed holds the data for the template "time".
type timed struct {
	T time.Time
	V *view
}

// TimeData returns the data of the template "time".
func (v *view) TimeData(t time.Time) timed { return timed{t, v} }

// parts splits the name of a metric after each dot and underscore, where a line may
// break.
func parts(metric string) (list []string) {
	for node := range strings.SplitAfterSeq(cut(metric, maxText), ".") {
		list = append(list, strings.SplitAfter(node, "_")...)
	}
	return list
}

// icon returns the favicon for a level, a colored dot, as a data URL.
func icon(level string) template.URL {
	color := map[string]string{fine: "%232e8b57", warning: "%23d98e04", failure: "%23c62828"}[level]
	return template.URL(fmt.Sprintf("data:image/svg+xml,%%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%%3E%%3Ccircle cx='8' cy='8' r='7' fill='%s'/%%3E%%3C/svg%%3E", color))
}
