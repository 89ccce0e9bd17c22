package admin

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
)

// Levels of a problem, a part, a probe or the service, from least to most severe.
const (
	fine    = "fine"
	warning = "warning"
	failure = "error"
)

// levelIf returns failure if isError is set, and warning otherwise.
func levelIf(isError bool) string {
	if isError {
		return failure
	}
	return warning
}

// worst returns the most severe of the given levels.
func worst(levels ...string) string {
	w := fine
	for _, l := range levels {
		if l == failure || l == warning && w == fine {
			w = l
		}
	}
	return w
}

// probeView holds what the page shows about a probe.
type probeView struct {
	Name  string
	ID    string // HTML id of its details
	Level string // of the worst problem that names the probe
	Tstat *Tstat // of the probe on this machine; nil: the probe is remote

	All     []*mathproto.StreamStats     // all streams, those with errors first
	Streams rows[*mathproto.StreamStats] // shown on the page
	Hidden  int64                        // healthy streams that the filter hides
	Late    int64                        // late streams
	Failing int64                        // failing streams
	RowsDay int64                        // rows stored in the last 24 hours
	Lag     time.Duration                // longest lag of its streams
	HasLag  bool                         // Lag is known
	Rejects []string                     // files that hold the probe's rejected lines
	Sources []liveSource                 // all sources of live lines
	Shown   rows[liveSource]             // sources shown on the page
	Rate    float64                      // live lines per second
	Last    time.Time                    // when the last live line arrived
	Points  []pointsOf                   // by run
	Metrics int64                        // sum over Points
	Newest  time.Time                    // time of the newest point
	Clock   time.Duration                // how far its clock is ahead
	HasTime bool                         // Clock is known
}

// liveSource is a source of live lines. Run is the name of its run; see Live.
type liveSource struct {
	Run string
	stream.SourceStats
}

// pointsOf summarizes the RRD points that one run sends for one probe.
type pointsOf struct {
	Run     string
	Metrics int64
	Newest  time.Time
}

// plainName matches names that can be part of an HTML id.
var plainName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// newProbes groups the data in s by probe. Probes with problems come first.
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

// severity returns the sort rank of a level: 0 for the most severe.
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

// addTo adds the points of run r to the views of the probes they come from. get returns
// the view of the probe with a given name.
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

// finish sorts the streams of p, and sets the fields that are computed from all streams
// and sources of p.
func (p *probeView) finish() {
	slices.SortFunc(p.All, func(a, b *mathproto.StreamStats) int {
		return cmp.Or(cmp.Compare(severity(streamLevel(a)), severity(streamLevel(b))), strings.Compare(a.StreamName, b.StreamName), strings.Compare(a.Type(), b.Type()))
	})
	p.Shown = first(p.Sources, maxSources)
	p.Rejects = rejectFiles(p.All)
	p.Clock, p.HasTime = clockOf(p.All)
}

// Has returns the numbers of streams, sources and metrics of p as text. It omits numbers
// that are 0.
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

// NewestFolder returns the time of Tstat's newest log folder on this machine. It
// returns the zero time before Tstat writes the first folder, or if the probe is
// remote.
func (p *probeView) NewestFolder() time.Time {
	if p.Tstat == nil {
		return time.Time{}
	}
	return p.Tstat.Newest
}

// bound selects at most n streams for the page. If unhealthy is set, it leaves out
// healthy streams.
func (p *probeView) bound(unhealthy bool, n int) {
	list := p.All
	if unhealthy {
		list = slices.DeleteFunc(slices.Clone(list), func(l *mathproto.StreamStats) bool { return streamLevel(l) == fine })
	}
	p.Hidden = int64(len(p.All) - len(list))
	p.Streams = first(list, max(0, n))
}

// streamLevel returns the level of a stream's most severe problem.
func streamLevel(l *mathproto.StreamStats) string {
	switch {
	case fails(l), l.Late():
		return failure
	case tooMany(l.Rejects, l.Rows):
		return warning
	}
	return fine
}

// fails reports whether a stream or one of its stores has an error.
func fails(l *mathproto.StreamStats) bool {
	return l.Err() != "" || slices.ContainsFunc(l.Stores, func(s bulk.StoreSummary) bool { return s.Error != "" })
}

// byProbe groups streams by probe. names lists the probes in the order in which
// they first appear in logs.
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

// nameProbes names probes after their host if the host has several streams that
// each count as a separate probe. This happens if there are neither certificates
// nor configured probes. Without nameProbes, the page would list each stream as a
// probe.
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

// clockOf returns how far a probe's clock is ahead of this machine's clock, according to
// the newest reading in the probe's streams. known is false if there is no reading.
func clockOf(streams []*mathproto.StreamStats) (ahead time.Duration, known bool) {
	var last time.Time
	for _, l := range streams {
		if l.ClockTime.After(last) {
			ahead, last = l.ClockAhead, l.ClockTime
		}
	}
	return ahead, !last.IsZero()
}

// aheadText describes a clock that is ahead by d, as in "right", "5 min ahead" or
// "5 min behind".
func aheadText(d time.Duration) string {
	switch {
	case d.Abs() <= 2*time.Second: // within the precision of readings
		return "right"
	case d < 0:
		return span(d) + " behind"
	}
	return span(d) + " ahead"
}
