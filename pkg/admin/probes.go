package admin

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
)

// Levels of a problem, a part, a probe or the whole, the worst last.
const (
	fine    = "fine"
	warning = "warning"
	failure = "error"
)

// levelIf returns failure for an error, else warning.
func levelIf(isError bool) string {
	if isError {
		return failure
	}
	return warning
}

// worst returns the worst of levels.
func worst(levels ...string) string {
	w := fine
	for _, l := range levels {
		if l == failure || l == warning && w == fine {
			w = l
		}
	}
	return w
}

// probeView is all that is known of a probe.
type probeView struct {
	Name  string
	ID    string // of its place on the page
	Level string // of the worst problem that names it
	Tstat *Tstat // on this machine; nil: it is another one

	All     []*mathproto.StreamStats     // its streams, those with trouble first
	Streams rows[*mathproto.StreamStats] // those that are shown
	Hidden  int64                        // streams that the filter hides
	Late    int64                        // streams
	Failing int64                        // streams
	RowsDay int64                        // rows stored in 24 hours
	Lag     time.Duration                // the longest of its streams
	HasLag  bool                         // some logs are stored
	Rejects []string                     // files with its rejected lines
	Sources []liveSource                 // of live lines
	Shown   rows[liveSource]             // those that are shown
	Rate    float64                      // live lines a second
	Last    time.Time                    // when the last live line came
	Points  []pointsOf                   // by RRD endpoint
	Metrics int64                        // of all of them
	Newest  time.Time                    // the newest point
	Clock   time.Duration                // how far ahead
	HasTime bool                         // Clock is known
}

// liveSource is a source of live lines and what it feeds.
type liveSource struct {
	Run string
	stream.SourceStats
}

// pointsOf is what a probe sent to an RRD endpoint.
type pointsOf struct {
	Run     string
	Metrics int64
	Newest  time.Time
}

// plainName is a name that can be an id on the page.
var plainName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// newProbes groups a state by probe, those with problems first.
func newProbes(s *State, problems []Problem) (list []*probeView) {
	byName := map[string]*probeView{}
	get := func(name string) *probeView {
		p := byName[name]
		if p == nil {
			p = &probeView{Name: name, Level: fine}
			byName[name] = p
			list = append(list, p)
		}
		return p
	}
	if s.Tstat != nil {
		get(s.Tstat.Probe).Tstat = s.Tstat
	}
	for i := range s.Logs {
		get(s.Logs[i].Probe).addStream(&s.Logs[i])
	}
	for _, l := range s.Live {
		for _, src := range l.Sources {
			p := get(src.Probe)
			p.Sources = append(p.Sources, liveSource{l.Name, src})
			p.Rate += src.Rate
			if src.Last.After(p.Last) {
				p.Last = src.Last
			}
		}
	}
	for i := range s.RRD {
		s.RRD[i].addTo(get)
	}
	for _, p := range problems {
		for _, name := range p.Probes {
			if v := byName[name]; v != nil {
				v.Level = worst(v.Level, p.level())
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *probeView) int {
		return cmp.Or(cmp.Compare(severity(a.Level), severity(b.Level)), strings.Compare(a.Name, b.Name))
	})
	for i, p := range list {
		if p.ID = "probe-" + p.Name; !plainName.MatchString(p.Name) {
			p.ID = fmt.Sprintf("probe-~%d", i)
		}
		p.finish()
	}
	return list
}

// severity orders levels, the worst first.
func severity(level string) int { return slices.Index([]string{failure, warning, fine}, level) }

func (p *probeView) addStream(l *mathproto.StreamStats) {
	p.All = append(p.All, l)
	switch {
	case fails(l):
		p.Failing++
	case l.Late():
		p.Late++
	}
	for _, n := range l.Hourly {
		p.RowsDay += n
	}
	if lag, ok := l.Lag(); ok {
		p.Lag, p.HasLag = max(p.Lag, lag), true
	}
}

// addTo adds the points of an endpoint to their probes.
func (r *RRD) addTo(get func(string) *probeView) {
	for _, s := range r.Series {
		p := get(s.Probe)
		if n := len(p.Points); n == 0 || p.Points[n-1].Run != r.Name {
			p.Points = append(p.Points, pointsOf{Run: r.Name})
		}
		of, t := &p.Points[len(p.Points)-1], time.Unix(s.Last().Time, 0)
		of.Metrics++
		p.Metrics++
		if t.After(of.Newest) {
			of.Newest = t
		}
		if t.After(p.Newest) {
			p.Newest = t
		}
	}
}

// finish orders what is shown.
func (p *probeView) finish() {
	slices.SortFunc(p.All, func(a, b *mathproto.StreamStats) int {
		return cmp.Or(cmp.Compare(severity(streamLevel(a)), severity(streamLevel(b))), strings.Compare(a.StreamName, b.StreamName), strings.Compare(a.Type(), b.Type()))
	})
	p.Shown = first(p.Sources, maxSources)
	p.Rejects = rejectFiles(p.All)
	p.Clock, p.HasTime = clockOf(p.All)
}

// Has says in a few words what the probe sends.
func (p *probeView) Has() string {
	var list []string
	if len(p.All) > 0 {
		list = append(list, count(int64(len(p.All)), "stream"))
	}
	if len(p.Sources) > 0 {
		list = append(list, count(int64(len(p.Sources)), "source")+" of live lines")
	}
	if p.Metrics > 0 {
		list = append(list, count(p.Metrics, "metric"))
	}
	return strings.Join(list, ", ")
}

// NewestFolder is the newest log folder of the Tstat of this machine, zero if
// there is none or it is another machine.
func (p *probeView) NewestFolder() time.Time {
	if p.Tstat == nil {
		return time.Time{}
	}
	return p.Tstat.Newest
}

// bound shows only so many streams, and only those with trouble if sick says
// so.
func (p *probeView) bound(sick bool, n int) {
	list := p.All
	if sick {
		list = slices.DeleteFunc(slices.Clone(list), func(l *mathproto.StreamStats) bool { return streamLevel(l) == fine })
	}
	p.Hidden = int64(len(p.All) - len(list))
	p.Streams = first(list, max(0, n))
}

// streamLevel is the level of a stream: that of the problems that it is in.
func streamLevel(l *mathproto.StreamStats) string {
	switch {
	case fails(l), l.Late():
		return failure
	case tooMany(l.Rejects, l.Rows):
		return warning
	}
	return fine
}

// fails tells whether something of a stream is not stored.
func fails(l *mathproto.StreamStats) bool {
	return l.Err() != "" || slices.ContainsFunc(l.Stores, func(s bulk.StoreSummary) bool { return s.Error != "" })
}

// byProbe groups streams; the names are in the order of the streams.
func byProbe(logs []mathproto.StreamStats) (names []string, streams map[string][]*mathproto.StreamStats) {
	streams = map[string][]*mathproto.StreamStats{}
	for i := range logs {
		l := &logs[i]
		if streams[l.Probe] == nil {
			names = append(names, l.Probe)
		}
		streams[l.Probe] = append(streams[l.Probe], l)
	}
	return names, streams
}

// nameProbes names the probe of streams that come from one host and are named
// by themselves only, as all are without certificates and configured probes,
// by that host. Else each of them would be a probe.
func (s *State) nameProbes() {
	alone := map[string][]*mathproto.StreamStats{} // by host
	for i := range s.Logs {
		l := &s.Logs[i]
		if host, _, err := net.SplitHostPort(l.CallBackUrl); err == nil && l.Probe == l.StreamName {
			alone[host] = append(alone[host], l)
		}
	}
	for host, streams := range alone {
		if len(streams) > 1 {
			for _, l := range streams {
				l.Probe = host
			}
		}
	}
}

// clockOf returns how far the clock of a probe was ahead when one of its
// streams last told.
func clockOf(streams []*mathproto.StreamStats) (ahead time.Duration, known bool) {
	var last time.Time
	for _, l := range streams {
		if l.ClockTime.After(last) {
			ahead, last = l.ClockAhead, l.ClockTime
		}
	}
	return ahead, !last.IsZero()
}

// aheadText says how far a clock is ahead.
func aheadText(d time.Duration) string {
	switch {
	case d.Abs() <= 2*time.Second: // what such a reading is worth
		return "right"
	case d < 0:
		return span(d) + " behind"
	}
	return span(d) + " ahead"
}
