package main

import "github.com/tstatrepo/tstatrepo/pkg/admin"

// adminSection writes what the administration listener answers.
func (p *page) adminSection() {
	p.section(`"ADMINISTRATION LISTENER"`)
	p.text("The listener of admin answers GET and HEAD. It changes nothing.")
	p.item("/", "The page for people. Its query chooses what is shown: show=unhealthy, probe=NAME, metric=TEXT (in the names of plotted metrics), "+
		"open=SECTION (live, recent, capabilities or rrd) and refresh=SECONDS.")
	p.item("/ with the header Accept: application/json", "The same as JSON, see below. metric and probe choose the plots; all probes are listed.")
	p.item("/metrics", "Metrics for Prometheus.")
	p.item("/-/healthy", "200 as long as the process answers.")
	p.item("/-/ready", "200, or 503 and what is not ready.")
	p.WriteString(".SS Status as JSON\n")
	p.literal("curl -H 'Accept: application/json' http://localhost:9099/")
	p.text("The keys are a contract: keys are added, never renamed or removed, and keep their types and units. Times are RFC 3339 in UTC, or null " +
		"if there is none. Keys that end in _seconds are seconds, in _bytes bytes; bytes is bytes too. Counts begin with the process. Texts of others are cut.")
	for _, k := range admin.Keys() {
		p.item(k.Path+" ("+k.Type+")", k.Doc+".")
	}
}
