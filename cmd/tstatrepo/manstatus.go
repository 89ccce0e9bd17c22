package main

import "github.com/tstatrepo/tstatrepo/pkg/admin"

// adminSection documents the answers of the administration listener.
func (p *page) adminSection() {
	p.section(`"ADMINISTRATION LISTENER"`)
	p.text("The listener at the address of admin answers GET and HEAD. It changes nothing.")
	p.item("/", "The page for people. Its query chooses what the page shows: show=unhealthy, probe=NAME, metric=TEXT (plots metrics whose names contain TEXT), "+
		"open=SECTION (live, recent, capabilities or rrd) and refresh=SECONDS.")
	p.item("/ with the header Accept: application/json", "The status as JSON, see below. metric and probe choose the plots. All probes are listed.")
	p.item("/metrics", "Metrics for Prometheus.")
	p.item("/-/healthy", "200 as long as the process answers.")
	p.item("/-/ready", "200 if all endpoints and stores are open, else 503 and what is not.")
	p.WriteString(".SS Status as JSON\n")
	p.literal("curl -H 'Accept: application/json' http://localhost:9099/")
	p.text("Later versions may add keys. They do not rename or remove a key, or change its type or unit. Times are RFC 3339 in UTC; null is an unknown time. " +
		"The values of keys that end in _seconds are in seconds, those of bytes and of keys that end in _bytes in bytes. Counts begin when the process starts. " +
		"Long texts that peers sent are shortened.")
	for _, k := range admin.Keys() {
		p.item(k.Path+" ("+k.Type+")", k.Doc+".")
	}
}
