package admin

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// When problems begin.
const (
	settleIn     = 30 * time.Second    // a registration may take after the start
	expiresSoon  = 30 * 24 * time.Hour // before a certificate ends
	expiresNow   = 7 * 24 * time.Hour  // before a certificate ends
	recentErrors = time.Hour           // errors in the log older than this are history
	clockError   = 2 * time.Minute     // clocks further apart give wrong times
	tstatSilent  = 2 * time.Hour       // Tstat writes a log folder each hour
	tstatArchive = 30 * 24 * time.Hour // folders that did not change for so long are not of a Tstat that runs
)

// Parts of a service that a problem belongs to. They are part of the contract
// of the JSON.
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

// endpointParts are the parts that endpoints belong to.
var endpointParts = map[string]string{"collect-log": PartLogs, "collect-streaming": PartLive, "collect-rrd": PartRRD}

// Problem is something that is wrong, and what to do about it.
type Problem struct {
	Error  bool   // else a warning: nothing is lost, or late, yet
	Part   string // PartLogs, …
	Probes []string
	What   string
	Do     string
}

// level returns failure or warning.
func (p *Problem) level() string { return levelIf(p.Error) }

// Problems returns what is wrong in a state at a time, errors first. notReady
// is what the listener says is not ready; nil: nothing.
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
		add(true, PartSupervisor, "Is the supervisor running, is the URL right, and does it trust this certificate? It is tried again all the time; collecting goes on meanwhile.",
			"Not registered at %s%s", v.URL, why)
	}
	for _, e := range s.Endpoints {
		if e.Err != nil {
			add(true, endpointParts[e.Name()], "Probes cannot send. Is another process on that port?", "Endpoint %s is not open: %s", e.Name(), e.Err)
		}
	}
	list = append(list, s.tstatProblems(now)...)
	list = append(list, logProblems(s.Logs)...)
	list = append(list, rejectProblems(s.Logs)...)
	list = append(list, clockProblems(s.Logs)...)
	for _, l := range s.Live {
		if tooMany(l.Rejects, l.Lines) {
			add(false, PartLive, "Do the sources send logs of Tstat?", "%s of %s were rejected", count(l.Rejects, "live line"), l.Name)
			p := &list[len(list)-1]
			for _, src := range l.Sources {
				if tooMany(src.Rejects, src.Lines) && !slices.Contains(p.Probes, src.Probe) {
					p.Probes = append(p.Probes, src.Probe)
				}
			}
		}
		for _, c := range l.Consumers {
			switch {
			case c.Trouble != "" && c.Optional:
				add(false, PartLive, "It is opened again by itself; once its queue is full it misses lines.", "Consumer %s takes nothing: %s", c.Name, c.Trouble)
			case c.Trouble != "":
				add(true, PartLive, "It is opened again by itself; once its queue is full the sources wait.", "Consumer %s takes nothing: %s", c.Name, c.Trouble)
			case c.Dropped > 0:
				add(false, PartLive, "It was too slow, or refused them. Make it faster or its queue larger; what is gone does not come again.",
					"Consumer %s missed %s", c.Name, count(c.Dropped, "line"))
			}
		}
	}
	for _, r := range s.RRD {
		switch {
		case r.Down != nil:
			add(true, PartRRD, "Points wait on disk and go first when it is back. Is the Graphite server running and reachable?", "%s does not take points: %s", r.To, r.Down)
		case r.Spooled > 0:
			add(false, PartRRD, "They are sent before new ones. If this grows, the Graphite server is too slow.", "%s of points wait for %s", size(r.Spooled), r.To)
		}
	}
	for _, c := range s.Certificates {
		left := c.NotAfter.Sub(now)
		switch {
		case c.Err != "":
			add(true, PartCertificates, "The former certificate stays in use until this one can be read.", "Certificate of %s: %s", c.Use, c.Err)
		case c.NotAfter.IsZero():
		case left <= 0:
			add(true, PartCertificates, "Replace the file; it is read again without a restart.", "The certificate of %s has expired %s ago", c.Use, span(-left))
		case left < expiresSoon:
			add(left < expiresNow, PartCertificates, "Replace the file; it is read again without a restart.", "The certificate of %s expires in %s", c.Use, span(left))
		}
	}
	var n int64
	for _, r := range s.Recent {
		if r.Error && now.Sub(r.Time) < recentErrors {
			n++
		}
	}
	if n > 0 {
		add(false, PartRecent, "They are listed under Errors and warnings.", "%s in the last hour", count(n, "logged error"))
	}
	if notReady != nil && !slices.ContainsFunc(list, func(p Problem) bool { return p.Error }) { // an error tells the cause
		add(true, PartService, "If this does not pass by itself, the log of the service says more.", "Not ready: %v.", notReady)
	}
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Compare(severity(a.level()), severity(b.level())) })
	return list
}

// logProblems returns why logs are not stored or late: one problem for each
// cause, however many streams have it.
func logProblems(logs []mathproto.StreamStats) (list []Problem) {
	type cause struct {
		problem Problem
		streams []*mathproto.StreamStats
		behind  int64 // files that a store lacks
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
				c := add("store "+st.Store, l, fmt.Sprintf("Store %s takes no logs: %s", st.Store, strings.TrimPrefix(st.Error, "open "+st.Store+": ")),
					cmp.Or(advice, "What it misses is stored when it answers again. If it is stopped or full, bring it back."))
				c.behind += st.Behind
			}
		}
		switch {
		case l.Err() == "":
			if l.Late() {
				lag, _ := l.Lag()
				add("late "+l.Probe, l, fmt.Sprintf("Logs of %s are late: the newest folder began %s ago", cmp.Or(l.Probe, l.StreamName), span(lag)),
					"Does Tstat run on the probe and write new folders? Is the probe reachable from here, and its clock right?")
			}
		case errors.Is(l.Failure, bulk.ErrSource):
			host, _, _ := net.SplitHostPort(l.CallBackUrl) // its streams may have a port each
			what := "Probe " + l.Probe
			if l.Probe != host {
				what += " at " + host
			}
			add("source "+what, l, what+" does not deliver logs: "+l.Err(),
				cmp.Or(advice, "Its logs are fetched when it answers again. Does the probe run, and is it reachable from here?"))
		case !down || !errors.Is(l.Failure, store.ErrUnavailable):
			do := cmp.Or(advice, "The files are tried again by themselves; one that is refused each time is named in the log.")
			if l.Unstored > 0 && l.RejectFile != "" {
				do += " Rejected lines, and why: " + l.RejectFile + "."
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

// rejectProblems returns the probes with too many rejected lines.
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
		do := "Often Tstat has an unknown version, or a disk is damaged."
		if len(files) > 0 {
			do = "Which lines, and why: " + files[0] + ". " + do
		}
		of := titleOf(streams)
		if len(streams) > 1 {
			of = name + " (" + of + ")"
		}
		list = append(list, Problem{Part: PartLogs, Probes: []string{name}, What: fmt.Sprintf("%s of %s were rejected", count(n, "line"), of), Do: do})
	}
	return list
}

// rejectFiles are the files with the rejected lines of streams.
func rejectFiles(streams []*mathproto.StreamStats) (files []string) {
	for _, l := range streams {
		if l.RejectFile != "" && l.Rejects+l.Failed > 0 && !slices.Contains(files, l.RejectFile) {
			files = append(files, l.RejectFile)
		}
	}
	return files
}

// clockProblems returns the probes whose clocks are wrong, or ours is.
func clockProblems(logs []mathproto.StreamStats) (list []Problem) {
	names, streams := byProbe(logs)
	for _, name := range names {
		if ahead, known := clockOf(streams[name]); known && ahead.Abs() > clockError {
			list = append(list, Problem{Part: PartClock, Probes: []string{name}, What: "The clock of " + name + " is " + aheadText(ahead),
				Do: "Names of log folders and times of flows are as wrong. Is NTP running on the probe, and here?"})
		}
	}
	return list
}

// tstatProblems returns what is wrong with the Tstat of this machine.
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
			add("Is the folder mounted, and may this account read it?", "A folder of Tstat cannot be read: %s", err)
		}
	}
	silent := now.Sub(t.Changed)
	switch {
	case t.LogFolder == "" || t.LogErr != "":
	case t.Newest.IsZero():
		if now.Sub(s.Started) > settleIn {
			add("Does Tstat run, and is this its output folder?", "Tstat has written no log folder into %s", t.LogFolder)
		}
	case silent > tstatSilent && silent < tstatArchive:
		add("Does Tstat run, and does it see packets?", "Tstat has written nothing into %s for %s", t.LogFolder, span(silent))
	}
	return list
}

// probesOf are the probes of streams.
func probesOf(streams []*mathproto.StreamStats) (names []string) {
	for _, l := range streams {
		if !slices.Contains(names, l.Probe) {
			names = append(names, l.Probe)
		}
	}
	return names
}

// titleOf names a stream, or counts several.
func titleOf(streams []*mathproto.StreamStats) string {
	if len(streams) == 1 {
		return title(streams[0])
	}
	return count(int64(len(streams)), "stream")
}

// tooMany tells whether more than 1 % of lines were rejected.
func tooMany(rejects, good int64) bool { return rejects > 0 && rejects*100 > rejects+good }

func (n *Notice) level() string { return levelIf(n.Error) }

// endpoint returns the endpoint with a name, nil if there is none.
func (s *State) endpoint(name string) *repository.EndpointStats {
	i := slices.IndexFunc(s.Endpoints, func(e repository.EndpointStats) bool { return e.Name() == name })
	if i < 0 {
		return nil
	}
	return &s.Endpoints[i]
}

// title names a stream to people.
func title(l *mathproto.StreamStats) string {
	if l.Probe == "" || l.Probe == l.StreamName {
		return l.StreamName
	}
	return l.Probe + " (" + l.StreamName + ")"
}
