package admin

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
)

// states returns the test states by name.
func states() map[string]*State {
	return map[string]*State{"busy": busy(), "broken": broken(), "hostile": hostile(), "empty": empty(), "many": many(), "many broken": manyBroken(), "probe": probeState()}
}

// pageAt returns the HTML of the page at noon with a query.
func pageAt(t *testing.T, s *State, notReady error, query string) string {
	t.Helper()
	q, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := pageTemplate.Execute(&b, newView(s, notReady, noon, q)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestStatusAgrees checks that the title, the verdict, the tiles and the probes of the
// page show the same status.
func TestStatusAgrees(t *testing.T) {
	list := states()
	change := func(name string, f func(*State)) {
		s := busy()
		f(s)
		list[name] = s
	}
	change("registering", func(s *State) { s.Supervisor.Registered, s.Started = false, noon.Add(-time.Second) })
	change("late", func(s *State) { s.Logs[1].LastFolder = noon.Add(-5 * time.Hour) })
	change("store", func(s *State) { s.Logs[1].Stores[0].Error = "away" })
	change("rejects", func(s *State) { s.Logs[2].Rows, s.Logs[2].Rejects = 10, 10 })
	change("clock", func(s *State) { s.Logs[2].ClockAhead = time.Hour })
	change("live rejects", func(s *State) { s.Live[0].Lines, s.Live[0].Rejects = 10, 10 })
	change("sink", func(s *State) { s.Live[0].Sinks[0].Trouble = "away" })
	change("carbon", func(s *State) { s.RRD[0].Down = errors.New("away") })
	change("endpoint", func(s *State) { s.Endpoints[0].Err = errors.New("in use") })
	for name, s := range list {
		for _, notReady := range []error{nil, errors.New("no")} {
			v := newView(s, notReady, noon, nil)
			if parts := v.levelOf(PartSupervisor, PartService, PartLogs, PartLive, PartRRD, PartTstat, PartClock, PartCertificates, PartRecent); parts != v.Level() {
				t.Errorf("%s: the whole is %s, its parts are %s", name, v.Level(), parts)
			}
			for _, p := range v.Probes {
				var levels []string
				for _, l := range p.All {
					levels = append(levels, streamLevel(l))
				}
				if w := worst(levels...); worst(w, p.Level) != p.Level {
					t.Errorf("%s: probe %.20s is %s, its streams are %s", name, p.Name, p.Level, w)
				}
				if v.levelOf(PartLogs) == fine && worst(levels...) != fine {
					t.Errorf("%s: a stream is %s, logs are fine", name, worst(levels...))
				}
			}
			text := pageAt(t, s, notReady, "")
			for _, want := range []string{"<title>" + v.Verdict() + " ", "</svg>" + v.Verdict() + "</h2>", `<section id="status" class="` + v.Level() + `"`} {
				if !strings.Contains(text, want) {
					t.Errorf("%s: no %q", name, want)
				}
			}
			tiles := text[strings.Index(text, `<dl class="tiles">`):]
			tiles = tiles[:strings.Index(tiles, "</dl>")]
			shown := fine
			for _, m := range regexp.MustCompile(`class="mark (\w+)"`).FindAllStringSubmatch(tiles, -1) {
				shown = worst(shown, m[1])
			}
			if want := v.levelOf(PartSupervisor, PartLogs, PartLive, PartRRD, PartTstat); shown != want {
				t.Errorf("%s: the tiles are %s, their parts are %s", name, shown, want)
			}
			if strings.Contains(tiles, "late or failing") != (v.Late > 0) || v.Late > 0 && v.Level() != failure {
				t.Errorf("%s: %d late or failing, the whole is %s", name, v.Late, v.Level())
			}
		}
	}
}

// TestPageByProbe checks that the page shows the selection of its query, and the
// number of omitted elements.
func TestPageByProbe(t *testing.T) {
	const open, folded = `<details class="probe" open>`, `<details class="probe">`
	for _, c := range []struct {
		name, query  string
		state        *State
		open, folded int
		rows         int // in the table of probes
		has, lacks   string
	}{
		{"well", "", many(), 0, 20, 20, "Streams of 20 probes", "not shown"},
		{"only what is unhealthy, and all is well", "show=unhealthy", many(), 0, 0, 0, "20 healthy probes not shown", "probe-01"},
		{"one of them", "probe=probe-03.example.org", many(), 1, 19, 20, "Streams of the other 19 probes", "not shown"},
		{"trouble", "", manyBroken(), 3, 17, 20, `<a class="error" href="#probe-probe-01.example.org">12 failing</a>`, "not shown"},
		{"only trouble", "show=unhealthy", manyBroken(), 3, 0, 3, "11 healthy streams not shown", "probe-02"},
		{"reject file", "", manyBroken(), 3, 17, 20, `<a href="#rejects-probe-probe-04.example.org">600</a>`, "not shown"},
		{"path of the reject file", "", manyBroken(), 3, 17, 20, "The rejected lines and the reasons are in /var/lib/tstatrepo/rejects/20260820T101112Z-4711.txt.", "not shown"},
		{"file that is not stored", "", manyBroken(), 3, 17, 20, `<a class="error" href="#rejects-probe-probe-04.example.org">1 not stored</a>`, "not shown"},
		{"probe", "", probeState(), 1, 0, 1, `<span>probe</span> turin`, "not shown"},
		{"files that wait", "", probeState(), 1, 0, 1, `<dt>Files waiting</dt><dd>432</dd>`, "not shown"},
		{"unknown", "probe=no", busy(), 0, 2, 2, "polito1", "not shown"},
		{"kept", "show=unhealthy&refresh=10", manyBroken(), 3, 0, 3, `href="/?open=live&amp;refresh=10&amp;show=unhealthy#live"`, "not shown yet"},
	} {
		text := pageAt(t, c.state, nil, c.query)
		rows := 0
		if i := strings.Index(text, `<table class="probes">`); i >= 0 {
			rows = strings.Count(text[i:i+strings.Index(text[i:], "</tbody>")], `<th scope="row">`)
		}
		if o, f := strings.Count(text, open), strings.Count(text, folded); o != c.open || f != c.folded || rows != c.rows {
			t.Errorf("%s: %d open, %d folded, %d rows; want %d, %d, %d", c.name, o, f, rows, c.open, c.folded, c.rows)
		}
		if !strings.Contains(text, c.has) || strings.Contains(text, c.lacks) {
			t.Errorf("%s: no %q, or %q", c.name, c.has, c.lacks)
		}
	}
}

// TestTstatProblems checks that problems of Tstat on this machine are reported, with
// and without an export.
func TestTstatProblems(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Tstat)
		want   string
	}{
		{"writes", func(*Tstat) {}, ""},
		{"not looked yet", func(f *Tstat) { *f = Tstat{Probe: "turin"} }, ""},
		{"silent", func(f *Tstat) { f.Changed = noon.Add(-3 * time.Hour) }, "Tstat has written nothing into /var/lib/tstat for 3\u00a0h"},
		{"an archive", func(f *Tstat) { f.Changed = noon.Add(-31 * 24 * time.Hour) }, ""},
		{"no folder", func(f *Tstat) { f.Newest, f.Changed = time.Time{}, time.Time{} }, "Tstat has written no log folder into /var/lib/tstat"},
		{"not mounted", func(f *Tstat) { f.LogErr = "no such file" }, "A folder of Tstat cannot be read: no such file"},
		{"no RRDs", func(f *Tstat) { f.RRDErr = "denied" }, "A folder of Tstat cannot be read: denied"},
	} {
		s := probeState()
		c.change(s.Tstat)
		list := s.Problems(nil, noon)
		if c.want == "" && len(list) == 0 {
			continue
		}
		if len(list) != 1 || list[0].What != c.want || !list[0].Error || list[0].Part != PartTstat {
			t.Errorf("%s: got %+v, want %q", c.name, list, c.want)
		}
	}
}

// TestClockOfProbe checks that the newest reading of a probe's streams counts.
func TestClockOfProbe(t *testing.T) {
	streams := []*mathproto.StreamStats{
		{ClockAhead: time.Hour, ClockTime: noon.Add(-time.Hour)}, {ClockAhead: time.Second, ClockTime: noon}, {},
	}
	if ahead, known := clockOf(streams); ahead != time.Second || !known {
		t.Errorf("%v, %v", ahead, known)
	}
	if _, known := clockOf(streams[2:]); known {
		t.Error("known without a reading")
	}
	for d, want := range map[time.Duration]string{-time.Second: "right", time.Minute: "1\u00a0min ahead", -time.Hour: "1\u00a0h behind"} {
		if got := aheadText(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestChosenProbeIsShown checks that the page shows the probe in its query, for any
// number of other probes and streams.
func TestChosenProbeIsShown(t *testing.T) {
	s := many()
	logs := s.Logs
	s.Logs = nil
	for k := range maxProbes/20 + 1 {
		for _, l := range logs {
			l.Probe = fmt.Sprintf("%s-%02d", l.Probe, k)
			l.StreamName = l.Probe + "_" + l.Type()
			s.Logs = append(s.Logs, l)
		}
	}
	const chosen = "probe-20.example.org-10"
	if text := pageAt(t, s, nil, ""); strings.Contains(text, chosen) {
		t.Error("there is room for all probes")
	}
	text := pageAt(t, s, nil, "probe="+chosen)
	if !strings.Contains(text, `id="probe-`+chosen+`"`) || !strings.Contains(text, chosen+"_log_quic_complete") {
		t.Error("the chosen probe is not shown")
	}
}
