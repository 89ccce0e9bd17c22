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

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
)

// Bounds of what the page shows; it says how much more there is.
const (
	maxProblems = 20
	maxProbes   = 200
	maxLogs     = 600 // of all probes
	maxPlaces   = 5
	maxSources  = 100
	maxSpecs    = 10
	maxPlots    = 36
	maxFilter   = 100 // bytes
	fewProbes   = 3   // whose plots are not folded, and whose streams are folded once
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
	// A type is shown where the name of the stream leaves it open.
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

// uneven tells whether a store of a stream is not as far as the others.
func uneven(l *mathproto.StreamStats) bool {
	return slices.ContainsFunc(l.Stores, func(s bulk.StoreSummary) bool {
		return s.Behind > 0 || s.Error != "" || !s.Last.Equal(l.Stores[0].Last)
	})
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

// Values of the query of the page.
const (
	queryRefresh = "refresh" // seconds
	queryMetric  = "metric"  // what the names of the plotted metrics contain
	queryShow    = "show"    // unhealthy: only that
	queryProbe   = "probe"   // that is not folded, and whose metrics are plotted
	queryOpen    = "open"    // the section that is not folded
)

// view is what the template and the JSON are made of.
type view struct {
	*State
	Now       time.Time
	Style     template.CSS
	Icon      template.URL
	Refresh   int // seconds, 0: not
	Filter    string
	Unhealthy bool   // shows only what is unhealthy
	Chosen    string // probe
	Opened    string // section

	All      []Problem
	Problems rows[Problem]
	Errors   int
	Warnings int

	Probes []*probeView     // all of them
	Front  rows[*probeView] // those with problems, and the chosen one
	Folded rows[*probeView] // the others, without those that the filter hides
	Rest   int64            // healthy probes that the filter hides

	Late int64 // streams that are late or failing

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
	streams := 0
	for _, p := range v.Probes {
		v.Late += p.Late + p.Failing
		v.RowsDay += p.RowsDay
		p.bound(v.Unhealthy && p.Level != fine && p.Name != v.Chosen, maxLogs-streams)
		streams += len(p.Streams.Shown)
		if v.OpenProbe(p) {
			front = append(front, p)
		} else {
			folded = append(folded, p)
		}
	}
	v.Front, v.Folded = first(front, maxProbes), first(folded, max(0, maxProbes-len(front)))
	if v.Unhealthy {
		v.Rest = int64(len(folded))
		v.Folded = rows[*probeView]{}
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

// levelOf is the level of the worst problem of parts.
func (v *view) levelOf(parts ...string) string {
	w := fine
	for _, p := range v.All {
		if slices.Contains(parts, p.Part) {
			w = worst(w, p.level())
		}
	}
	return w
}

// Part is the level of a part of the service.
func (v *view) Part(part string) string { return v.levelOf(part) }

// CapabilityLevel is the level of the section of capabilities and endpoints.
func (v *view) CapabilityLevel() string {
	return v.levelOf(PartSupervisor, PartService, PartCertificates)
}

// Title names this repository or probe.
func (v *view) Title() string {
	if v.Tstat != nil {
		return v.Tstat.Probe
	}
	return v.Name
}

// Hidden is how many probes there was no room for.
func (v *view) Hidden() int64 { return v.Front.More + v.Folded.More }

// Open tells whether a section is not folded: it was asked for, it has trouble,
// or it holds what was searched for.
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

// Shows tells whether the page has a section: the filter hides those without
// trouble that were not asked for.
func (v *view) Shows(section string) bool { return !v.Unhealthy || v.Open(section) }

// OpenProbe tells whether a probe is not folded: it has trouble, was asked for,
// or is this machine.
func (v *view) OpenProbe(p *probeView) bool {
	return p.Level != fine || p.Name == v.Chosen || p.Tstat != nil && !v.Unhealthy
}

// FoldTwice tells whether the folded probes are so many that they are folded
// together.
func (v *view) FoldTwice() bool { return len(v.Folded.Shown) > fewProbes }

// Level is the class of the whole: error, warning or fine.
func (v *view) Level() string {
	switch {
	case v.Errors > 0:
		return failure
	case v.Warnings > 0:
		return warning
	}
	return fine
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

// link is the address of this page with some of its query changed: pairs of a
// key and a value, "" to leave it out.
func (v *view) link(changes ...string) string {
	q := url.Values{}
	set := func(key, value string) {
		if q.Del(key); value != "" {
			q.Set(key, value)
		}
	}
	if v.Refresh > 0 {
		set(queryRefresh, strconv.Itoa(v.Refresh))
	}
	set(queryMetric, v.Filter)
	set(queryProbe, v.Chosen)
	set(queryOpen, v.Opened)
	if v.Unhealthy {
		set(queryShow, "unhealthy")
	}
	for i := 0; i+1 < len(changes); i += 2 {
		set(changes[i], changes[i+1])
	}
	if len(q) == 0 {
		return "/"
	}
	return "/?" + q.Encode()
}

// Reload is the address of this page with another refresh.
func (v *view) Reload(seconds int) string {
	if seconds == 0 {
		return v.link(queryRefresh, "")
	}
	return v.link(queryRefresh, strconv.Itoa(seconds))
}

// LinkSection leads to a section, which is not folded then.
func (v *view) LinkSection(section string) string { return v.link(queryOpen, section) + "#" + section }

// LinkProbe leads to a probe, which is not folded then.
func (v *view) LinkProbe(p *probeView) string { return v.link(queryProbe, p.Name) + "#" + p.ID }

// LinkPlots leads to the plots of a probe.
func (v *view) LinkPlots(p *probeView) string {
	return v.link(queryProbe, p.Name, queryMetric, "", queryOpen, "rrd") + "#rrd"
}

// LinkShow leads to all, or to what is unhealthy.
func (v *view) LinkShow(unhealthy bool) string {
	if unhealthy {
		return v.link(queryShow, "unhealthy", queryProbe, "") + "#probes"
	}
	return v.link(queryShow, "", queryProbe, "") + "#probes"
}

// LinkAllPlots leads to the plots of all probes.
func (v *view) LinkAllPlots() string {
	return v.link(queryProbe, "", queryMetric, "", queryOpen, "rrd") + "#rrd"
}

// place is a link to where more is said of a problem.
type place struct{ Href, Text string }

// Places are where more is said of a problem.
func (v *view) Places(p Problem) (list []place) {
	for _, name := range p.Probes {
		i := slices.IndexFunc(v.Front.Shown, func(of *probeView) bool { return of.Name == name })
		if i < 0 {
			continue
		}
		if len(list) == maxPlaces {
			return append(list, place{"#probes", "more"})
		}
		list = append(list, place{"#" + v.Front.Shown[i].ID, name})
	}
	if len(list) > 0 {
		return list
	}
	switch p.Part {
	case PartLive:
		return []place{{"#live", "Live lines"}}
	case PartRRD:
		return []place{{"#rrd", "RRDs"}}
	case PartRecent:
		return []place{{"#recent", "Errors and warnings"}}
	case PartSupervisor, PartCertificates:
		return []place{{"#capabilities", "Capabilities and endpoints"}}
	}
	return nil
}

// RefreshChoice is what the page offers.
func (v *view) RefreshChoice() int { return refreshChoice }

// Up is how long the process runs.
func (v *view) Up() string { return span(v.Now.Sub(v.Started)) }

// Span is how long ago something began.
func (v *view) Span(t time.Time) string { return span(v.Now.Sub(t)) }

// probeOf is a probe for the templates "probe" and "streams".
type probeOf struct {
	P *probeView
	V *view
}

// Of gives a probe to a template.
func (v *view) Of(p *probeView) probeOf { return probeOf{p, v} }

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
	colour := map[string]string{fine: "%232e8b57", warning: "%23d98e04", failure: "%23c62828"}[level]
	return template.URL(fmt.Sprintf("data:image/svg+xml,%%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%%3E%%3Ccircle cx='8' cy='8' r='7' fill='%s'/%%3E%%3C/svg%%3E", colour))
}
