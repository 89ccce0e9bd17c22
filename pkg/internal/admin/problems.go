package admin

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Thresholds for reporting problems.
const (
	settleIn     = 30 * time.Second    // after the start; registration and the first log folder may take this long
	expiresSoon  = 30 * 24 * time.Hour // before a certificate expires
	expiresNow   = 7 * 24 * time.Hour  // before a certificate expires
	recentErrors = time.Hour           // older logged errors are not reported as a problem
	clockError   = 2 * time.Minute     // clocks further apart give wrong times
	tstatSilent  = 2 * time.Hour       // Tstat writes a log folder each hour
	tstatArchive = 30 * 24 * time.Hour // folders unchanged for longer are an archive, not the output of a running Tstat
)

// Values of Problem.Part. They are part of the stable status JSON.
const (
	PartSupervisor   = "supervisor"
	PartService      = "service"
	PartLogs         = "logs"
	PartLive         = "live"
	PartRRD          = "rrd"
	PartTstat        = "tstat"
	PartClock        = "clock"
	PartCertificates = "certificates"
	PartRecent       = "recent"
)

// endpointParts maps the name of an endpoint to the value of Problem.Part for its
// problems.
var endpointParts = map[string]string{"collect-log": PartLogs, "collect-streaming": PartLive, "collect-rrd": PartRRD}

// Problem describes a problem and how to solve it.
type Problem struct {
	Error  bool   // false: a warning; nothing is late or lost yet
	Part   string // PartLogs, …
	Probes []string
	What   string
	Do     string
}

// level returns the level of p, which is failure or warning.
func (p *Problem) level() string { return levelIf(p.Error) }

// Problems returns the problems at the given time, errors first. notReady is the
// reason why the service is not ready, or nil if it is ready.
func (s *State) Problems(notReady error, now time.Time) []Problem {
	var list []Problem
	add := func(isError bool, part, do, what string, args ...any) {
		list = append(list, Problem{Error: isError, Part: part, What: fmt.Sprintf(what, args...), Do: do})
	}
	if v := s.Supervisor; v != nil && v.URL != "" && !v.Registered && now.Sub(s.Started) > settleIn {
		why := ""
		if v.Err != "" {
			why = ": " + v.Err
		}
		add(true, PartSupervisor, "Check that the supervisor runs, that the URL is right and that the supervisor trusts this certificate. Registration is retried. Collecting goes on without it.",
			"Not registered at %s%s", v.URL, why)
	}
	for _, e := range s.Endpoints {
		if e.Err != nil {
			add(true, endpointParts[e.Name()], "Probes cannot send. Check whether another process uses the port.", "Endpoint %s is not open: %s", e.Name(), e.Err)
		}
	}
	list = append(list, s.tstatProblems(now)...)
	list = append(list, logProblems(s.Logs)...)
	list = append(list, rejectProblems(s.Logs)...)
	list = append(list, clockProblems(s.Logs)...)
	for _, l := range s.Live {
		if tooMany(l.Rejects, l.Lines) {
			add(false, PartLive, "Check that the sources send logs of Tstat.", "%s of %s were rejected", count(l.Rejects, "live line"), l.Name)
			p := &list[len(list)-1]
			for _, src := range l.Sources {
				if tooMany(src.Rejects, src.Lines) && !slices.Contains(p.Probes, src.Probe) {
					p.Probes = append(p.Probes, src.Probe)
				}
			}
		}
		for _, c := range l.Sinks {
			switch {
			case c.Trouble != "" && c.Optional:
				add(false, PartLive, "Bring the sink back; tstatrepo reconnects. When its queue is full, the sink misses lines.", "Sink %s accepts nothing: %s", c.Name, c.Trouble)
			case c.Trouble != "":
				add(true, PartLive, "Bring the sink back; tstatrepo reconnects. When its queue is full, the sources wait.", "Sink %s accepts nothing: %s", c.Name, c.Trouble)
			case c.Dropped > 0:
				add(false, PartLive, "The sink was too slow or refused lines. Make it faster or its queue larger. Missed lines are not sent again.",
					"Sink %s missed %s", c.Name, count(c.Dropped, "line"))
			}
		}
	}
	for _, r := range s.RRD {
		switch {
		case r.Down != nil:
			add(true, PartRRD, "Check that the server runs and is reachable. Points wait on disk and are sent first when it is back.", "%s accepts no points: %s", r.To, r.Down)
		case r.Spooled > 0:
			add(false, PartRRD, "The waiting points are sent before new ones. If their size grows, the server is too slow.", "%s of points wait for %s", size(r.Spooled), r.To)
		}
	}
	for _, c := range s.Certificates {
		left := c.NotAfter.Sub(now)
		switch {
		case c.Err != "":
			add(true, PartCertificates, "Replace the file. The previous certificate stays in use until then.", "Certificate of %s: %s", c.Use, c.Err)
		case c.NotAfter.IsZero():
		case left <= 0:
			add(true, PartCertificates, "Replace the file. No restart is needed.", "The certificate of %s expired %s ago", c.Use, span(-left))
		case left < expiresSoon:
			add(left < expiresNow, PartCertificates, "Replace the file. No restart is needed.", "The certificate of %s expires in %s", c.Use, span(left))
		}
	}
	var n int64
	for _, r := range s.Recent {
		if r.Error && now.Sub(r.Time) < recentErrors {
			n++
		}
	}
	if n > 0 {
		add(false, PartRecent, "Read them under Errors and warnings.", "%s in the last hour", count(n, "logged error"))
	}
	if notReady != nil && !slices.ContainsFunc(list, func(p Problem) bool { return p.Error }) { // an error names the cause
		add(true, PartService, "Wait a minute. If the service does not become ready, read its log.", "Not ready: %v.", notReady)
	}
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Compare(severity(a.level()), severity(b.level())) })
	return list
}

// logProblems reports logs that are late or not stored. It returns one problem per
// cause, however many streams are affected.
func logProblems(logs []mathproto.StreamStats) (list []Problem) {
	type cause struct {
		problem Problem
		streams []*mathproto.StreamStats
		behind  int64 // files that are missing from a store
	}
	var order []string
	causes := map[string]*cause{}
	add := func(key string, l *mathproto.StreamStats, what, do string) *cause {
		c := causes[key]
		if c == nil {
			c = &cause{problem: Problem{Error: true, Part: PartLogs, What: what, Do: do}}
			causes[key] = c
			order = append(order, key)
		}
		if !slices.Contains(c.streams, l) {
			c.streams = append(c.streams, l)
		}
		return c
	}
	for i := range logs {
		l := &logs[i]
		advice := hint.Of(l.Failure)
		down := false
		for _, st := range l.Stores {
			if st.Error != "" {
				down = true
				c := add("store "+st.Store, l, fmt.Sprintf("Store %s accepts no logs: %s", st.Store, st.Error),
					cmp.Or(advice, "Check that the store runs and has room. The missing logs follow when it answers again."))
				c.behind += st.Behind
			}
		}
		switch {
		case l.Err() == "":
			if l.Late() {
				lag, _ := l.Lag()
				add("late "+l.Probe, l, fmt.Sprintf("Logs of %s are late: the newest folder began %s ago", cmp.Or(l.Probe, l.StreamName), span(lag)),
					"Check that Tstat runs on the probe and writes new folders, that the probe is reachable from here, and that its clock is right.")
			}
		case errors.Is(l.Failure, bulk.ErrSource):
			host, _, _ := net.SplitHostPort(l.CallBackUrl) // each of its streams may use another port
			what := "Probe " + l.Probe
			if l.Probe != host {
				what += " at " + host
			}
			add("source "+what, l, what+" does not deliver logs: "+l.Err(),
				cmp.Or(advice, "Check that the probe runs and is reachable from here. Its logs are fetched when it answers again."))
		case !down || !errors.Is(l.Failure, store.ErrUnavailable):
			do := cmp.Or(advice, "Wait: files that were not stored are retried. If the error stays, read the log, which names the files.")
			if l.Unstored > 0 && l.RejectFile != "" {
				do += " The rejected lines and the reasons are in " + l.RejectFile + "."
			}
			add("error "+l.Err(), l, "Logs are not stored: "+l.Err(), do)
		}
	}
	for _, key := range order {
		c := causes[key]
		c.problem.Probes = probesOf(c.streams)
		text := titleOf(c.streams)
		if c.behind > 0 {
			text += ", " + count(c.behind, "file") + " behind"
		}
		c.problem.What += " (" + text + ")"
		list = append(list, c.problem)
	}
	return list
}

// rejectProblems returns a problem for each probe with too many rejected lines.
func rejectProblems(logs []mathproto.StreamStats) (list []Problem) {
	names, streams := byProbe(logs)
	for _, name := range names {
		streams := slices.DeleteFunc(streams[name], func(l *mathproto.StreamStats) bool { return !tooMany(l.Rejects, l.Rows) })
		if len(streams) == 0 {
			continue
		}
		var n int64
		files := rejectFiles(streams)
		for _, l := range streams {
			n += l.Rejects
		}
		do := "Often the version of Tstat is unknown, or a disk is damaged."
		if len(files) > 0 {
			do = "Read the lines and the reasons in " + files[0] + ". " + do
		}
		of := titleOf(streams)
		if len(streams) > 1 {
			of = name + " (" + of + ")"
		}
		list = append(list, Problem{Part: PartLogs, Probes: []string{name}, What: fmt.Sprintf("%s of %s were rejected", count(n, "line"), of), Do: do})
	}
	return list
}

// rejectFiles returns the paths of the files that hold the streams' rejected lines.
func rejectFiles(streams []*mathproto.StreamStats) (files []string) {
	for _, l := range streams {
		if l.RejectFile != "" && l.Rejects+l.Failed > 0 && !slices.Contains(files, l.RejectFile) {
			files = append(files, l.RejectFile)
		}
	}
	return files
}

// clockProblems returns a problem for each probe whose clock differs too much from
// this machine's clock.
func clockProblems(logs []mathproto.StreamStats) (list []Problem) {
	names, streams := byProbe(logs)
	for _, name := range names {
		if ahead, known := clockOf(streams[name]); known && ahead.Abs() > clockError {
			list = append(list, Problem{Part: PartClock, Probes: []string{name}, What: "The clock of " + name + " is " + aheadText(ahead),
				Do: "Check that NTP runs on the probe and here. Names of log folders and times of flows are wrong by as much."})
		}
	}
	return list
}

// tstatProblems returns the problems with Tstat on this machine.
func (s *State) tstatProblems(now time.Time) (list []Problem) {
	t := s.Tstat
	if t == nil || t.Looked.IsZero() {
		return nil
	}
	add := func(do, what string, args ...any) {
		list = append(list, Problem{Error: true, Part: PartTstat, Probes: []string{t.Probe}, What: fmt.Sprintf(what, args...), Do: do})
	}
	for _, err := range []string{t.LogErr, t.RRDErr} {
		if err != "" {
			add("Check that the folder is mounted and that this account may read it.", "A folder of Tstat cannot be read: %s", err)
		}
	}
	silent := now.Sub(t.Changed)
	switch {
	case t.LogFolder == "" || t.LogErr != "":
	case t.Newest.IsZero():
		if now.Sub(s.Started) > settleIn {
			add("Check that Tstat runs and that this is its output folder.", "Tstat has written no log folder into %s", t.LogFolder)
		}
	case silent > tstatSilent && silent < tstatArchive:
		add("Check that Tstat runs and sees packets.", "Tstat has written nothing into %s for %s", t.LogFolder, span(silent))
	}
	return list
}

// probesOf returns the names of the probes of streams, each once.
func probesOf(streams []*mathproto.StreamStats) (names []string) {
	for _, l := range streams {
		if !slices.Contains(names, l.Probe) {
			names = append(names, l.Probe)
		}
	}
	return names
}

// titleOf returns the title of a single stream, or the number of several streams as text.
func titleOf(streams []*mathproto.StreamStats) string {
	if len(streams) == 1 {
		return title(streams[0])
	}
	return count(int64(len(streams)), "stream")
}

// tooMany reports whether more than 1% of all lines were rejected. rejects is the
// number of rejected lines, and good is the number of all other lines.
func tooMany(rejects, good int64) bool { return rejects > 0 && rejects*100 > rejects+good }

func (n *Notice) level() string { return levelIf(n.Error) }

// endpoint returns the endpoint with the given name, or nil.
func (s *State) endpoint(name string) *repository.EndpointStats {
	i := slices.IndexFunc(s.Endpoints, func(e repository.EndpointStats) bool { return e.Name() == name })
	if i < 0 {
		return nil
	}
	return &s.Endpoints[i]
}

// title returns the display name of a stream.
func title(l *mathproto.StreamStats) string {
	if l.Probe == "" || l.Probe == l.StreamName {
		return l.StreamName
	}
	return l.Probe + " (" + l.StreamName + ")"
}
