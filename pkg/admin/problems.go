package admin

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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
)

// Problem is something that is wrong, and what to do about it.
type Problem struct {
	Error bool // else a warning: nothing is lost, or late, yet
	What  string
	Do    string
}

// Problems returns what is wrong in a state at a time, errors first. notReady
// is what the listener says is not ready; nil: nothing.
func (s *State) Problems(notReady error, now time.Time) []Problem {
	var list []Problem
	add := func(isError bool, do, what string, args ...any) {
		list = append(list, Problem{isError, fmt.Sprintf(what, args...), do})
	}
	if v := s.Supervisor; v != nil && v.URL != "" && !v.Registered && now.Sub(s.Started) > settleIn {
		why := ""
		if v.Err != "" {
			why = ": " + v.Err
		}
		add(true, "Is the supervisor running, is the URL right, and does it trust this certificate? It is tried again all the time; collecting goes on meanwhile.",
			"Not registered at %s%s", v.URL, why)
	}
	for _, e := range s.Endpoints {
		if e.Err != nil {
			add(true, "Probes cannot send. Is another process on that port?", "Endpoint %s is not open: %s", e.Name(), e.Err)
		}
	}
	list = append(list, logProblems(s.Logs)...)
	for i := range s.Logs {
		l := &s.Logs[i]
		if tooMany(l.Rejects, l.Rows) {
			add(false, "The files of rejects in the state folder say which lines and why: often an unknown version of Tstat, or a damaged disk.",
				"%s of %s were rejected", count(l.Rejects, "line"), title(l))
		}
	}
	for _, l := range s.Live {
		if tooMany(l.Rejects, l.Lines) {
			add(false, "The table of live lines names the source. Does it send logs of Tstat?", "%s of %s were rejected", count(l.Rejects, "live line"), l.Name)
		}
		for _, c := range l.Consumers {
			switch {
			case c.Trouble != "" && c.Optional:
				add(false, "It is opened again by itself; once its queue is full it misses lines.", "Consumer %s takes nothing: %s", c.Name, c.Trouble)
			case c.Trouble != "":
				add(true, "It is opened again by itself; once its queue is full the sources wait.", "Consumer %s takes nothing: %s", c.Name, c.Trouble)
			case c.Dropped > 0:
				add(false, "It was too slow, or refused them. Make it faster or its queue larger; what is gone does not come again.",
					"Consumer %s missed %s", c.Name, count(c.Dropped, "line"))
			}
		}
	}
	for _, r := range s.RRD {
		switch {
		case r.Down != nil:
			add(true, "Points wait on disk and go first when it is back. Is the Graphite server running and reachable?", "%s does not take points: %s", r.To, r.Down)
		case r.Spooled > 0:
			add(false, "They are sent before new ones. If this grows, the Graphite server is too slow.", "%s of points wait for %s", size(r.Spooled), r.To)
		}
	}
	for _, c := range s.Certificates {
		left := c.NotAfter.Sub(now)
		switch {
		case c.Err != "":
			add(true, "The former certificate stays in use until this one can be read.", "Certificate of %s: %s", c.Use, c.Err)
		case c.NotAfter.IsZero():
		case left <= 0:
			add(true, "Replace the file; it is read again without a restart.", "The certificate of %s has expired %s ago", c.Use, span(-left))
		case left < expiresSoon:
			add(left < expiresNow, "Replace the file; it is read again without a restart.", "The certificate of %s expires in %s", c.Use, span(left))
		}
	}
	var n int64
	for _, r := range s.Recent {
		if r.Error && now.Sub(r.Time) < recentErrors {
			n++
		}
	}
	if n > 0 {
		add(false, "They are listed under Errors and warnings.", "%s in the last hour", count(n, "logged error"))
	}
	if notReady != nil && !slices.ContainsFunc(list, func(p Problem) bool { return p.Error }) { // an error tells the cause
		add(true, "If this does not pass by itself, the log of the service says more.", "Not ready: %v.", notReady)
	}
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Compare(rank(a), rank(b)) })
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
			c = &cause{problem: Problem{Error: true, What: what, Do: do}}
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
				c := add("store "+st.Store, l, fmt.Sprintf("Store %s takes no logs: %s", st.Store, st.Error),
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
			add("source "+l.Probe+" "+l.CallBackUrl, l, fmt.Sprintf("Probe %s at %s does not deliver logs: %s", l.Probe, l.CallBackUrl, l.Err()),
				cmp.Or(advice, "Its logs are fetched when it answers again. Does the probe run, and is it reachable from here?"))
		case !down || !errors.Is(l.Failure, store.ErrUnavailable):
			add("error "+l.Err(), l, "Logs are not stored: "+l.Err(), cmp.Or(advice, "The files are tried again by themselves; one that is refused each time is named in the log."))
		}
	}
	for _, key := range order {
		c := causes[key]
		names := make([]string, len(c.streams))
		for i, l := range c.streams {
			names[i] = title(l)
		}
		text := names[0]
		if len(names) > 1 {
			text = count(int64(len(names)), "stream")
		}
		if c.behind > 0 {
			text += ", " + count(c.behind, "file") + " behind"
		}
		c.problem.What += " (" + text + ")"
		list = append(list, c.problem)
	}
	return list
}

func rank(p Problem) int {
	if p.Error {
		return 0
	}
	return 1
}

// tooMany tells whether more than 1 % of lines were rejected.
func tooMany(rejects, good int64) bool { return rejects > 0 && rejects*100 > rejects+good }

func (n Notice) level() string {
	if n.Error {
		return "error"
	}
	return "warning"
}

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
