package admin

import (
	"net/url"
	"slices"
	"strconv"
)

// link returns the URL of this page with changes to its query. The changes are keys, each
// followed by its new value. The value "" removes the key.
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

// Reload returns the URL of this page with the given number of seconds between reloads;
// 0 disables reloads.
func (v *view) Reload(seconds int) string {
	if seconds == 0 {
		return v.link(queryRefresh, "")
	}
	return v.link(queryRefresh, strconv.Itoa(seconds))
}

// LinkSection returns a URL that opens a section.
func (v *view) LinkSection(section string) string { return v.link(queryOpen, section) + "#" + section }

// LinkProbe returns a URL that opens the details of a probe.
func (v *view) LinkProbe(p *probeView) string { return v.link(queryProbe, p.Name) + "#" + p.ID }

// LinkPlots returns a URL that shows the plots of a probe.
func (v *view) LinkPlots(p *probeView) string {
	return v.link(queryProbe, p.Name, queryMetric, "", queryOpen, "rrd") + "#rrd"
}

// LinkShow returns a URL that shows all probes, or only unhealthy probes.
func (v *view) LinkShow(unhealthy bool) string {
	if unhealthy {
		return v.link(queryShow, "unhealthy", queryProbe, "") + "#probes"
	}
	return v.link(queryShow, "", queryProbe, "") + "#probes"
}

// LinkAllPlots returns a URL that shows the plots of all probes.
func (v *view) LinkAllPlots() string {
	return v.link(queryProbe, "", queryMetric, "", queryOpen, "rrd") + "#rrd"
}

// place is a link to the details of a problem.
type place struct{ Href, Text string }

// Places returns links to the details of p, one for each of its probes whose details are
// open on the page. If there are none, it returns a link to the section for p.Part, if
// that part has a section of its own.
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
