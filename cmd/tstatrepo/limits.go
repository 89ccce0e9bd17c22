package main

// limit bounds what peers can make tstatrepo do or keep.
type limit struct {
	what, value string
	// code names packages, each followed by definitions in it that have the value.
	// A test compares them.
	code []string
}

// limitGroup holds the limits of a kind of listener.
type limitGroup struct {
	title  string
	limits []limit
}

// limitsIntro introduces the limits in the manual.
const limitsIntro = "Peers are hosts in the networks of --allow, owners of certificates, and the web pages in a browser on this machine. " +
	"The limits bound what they can do. Whatever tstatrepo refuses or leaves out, it logs at a limited rate and counts in /metrics: " +
	"tstatrepo_connections_refused_total has the listener and the reason. Limits without a setting are fixed."

// limits lists the limits of all listeners. They protect memory, disk and the
// share of other peers.
var limits = []limitGroup{
	{"All listeners", []limit{
		{"web pages", "No HTTP listener answers a request with an Origin or of another site (403), nor one under a foreign Host on a loopback address without TLS (421): " +
			"an IP address, localhost, the name of the machine and the host in the setting are accepted.", nil},
		{"connections of one host", "A quarter of those of the listener; this machine may have all. An IPv6 network of 64 bits is one host.",
			[]string{"pkg/peer", "return max(1, total/4)"}},
		{"header of a request", "64 KiB, within 20 seconds.", []string{"pkg/peer", "maxHeader = 64 << 10", "ReadHeaderTimeout: 20 * time.Second"}},
		{"body of a request", "1 KiB/s on average, after the first 10 seconds.", []string{"pkg/peer", "slowestBody = 1 << 10", "bodyGrace = 10 * time.Second"}},
		{"idle connection", "2 minutes; for lines --idle-timeout (2h).", []string{"pkg/peer", "IdleTimeout: 2 * time.Minute"}},
		{"lines of the log about refusals", "One a minute for each listener and cause.", []string{"pkg/peer", "logEvery = time.Minute"}},
	}},
	{"Logs by MATH ([collect-log], import-bulk --listen)", []limit{
		{"connections", "256.", []string{"pkg/mathproto", "MaxConns: 256"}},
		{"streams", "1,000, of one peer a quarter. Names have 64 characters at most and do not begin with -.",
			[]string{"pkg/mathproto", "MaxStreams = 1000", "maxPeerStreams = MaxStreams / 4"}},
		{"owner of a stream", "The certificate that registered it, without TLS the address. Another address may take over or remove the stream when its probe has not answered for an hour.",
			[]string{"pkg/mathproto", "ownerSilence = time.Hour"}},
		{"callback address", "The address of the peer that registers, or --allow-callback.", nil},
		{"registration", "64 KiB.", []string{"pkg/mathproto", "maxBody = 64 << 10"}},
		{"list of files", "64 MiB and 1,048,576 names of 1 KiB; all lists read at a time together 64 MiB.",
			[]string{"pkg/mathproto", "maxList = 64 << 20", "maxFiles = 1 << 20", "maxName = 1 << 10", "reading: 64 << 20"}},
		{"waiting files", "50,000 of all streams, 10,000 of one; the next pass handles the others.", []string{"pkg/mathproto", "pending: 50_000, most: 10_000"}},
		{"jobs", "--jobs for all. Streams with work at the same time take turns.", nil},
		{"slow file", "1 KiB/s on average, after the first 2 minutes.", []string{"pkg/mathproto", "slowest = 1 << 10", "stall: 2 * time.Minute"}},
		{"rejected lines", "--max-rejects of a file; 16 MiB of a run and 1 KiB of a line are kept, for 20 runs.",
			[]string{"pkg/bulk", "maxRejectFile = 16 << 20", "maxRejectText = 1 << 10", "keptRejectRuns = 20"}},
		{"columns of a log", "1,024; a table gets at most 64 that no known Tstat writes (columns=widen).", []string{"pkg/tstat", "maxColumns = 1024", "pkg/store/sqlstore", "MaxUnknown = 64"}},
	}},
	{"Live lines ([collect-streaming], stream --listen)", []limit{
		{"connections", "--max-connections (1024).", []string{"pkg/stream", "DefaultMaxConnections = 1024"}},
		{"TLS handshake", "10 seconds.", []string{"pkg/stream", "handshakeTimeout = 10 * time.Second"}},
		{"line", "--max-line (32 KiB), with the path of its log.", []string{"pkg/stream", "DefaultMaxLine = 32 << 10"}},
		{"first line", "A connection that begins with HTTP, TLS on a listener without it, or a long line without a path is closed.", nil},
		{"names of probes that peers announce", "4,096, of one host a quarter. A name that was unused for a day is replaced.",
			[]string{"pkg/stream", "maxProbes = 4096", "nameAge = 24 * time.Hour", "return max(1, most/4)"}},
		{"logs of unknown types", "64, of one host a quarter.", []string{"pkg/stream", "maxTypes = 64"}},
		{"headers kept", "4,096.", []string{"pkg/stream", "maxLayouts = 4096"}},
		{"sources counted separately", "2,048; all others count as one.", []string{"pkg/stream", "maxSources = 2048"}},
		{"bytes queued for a sink", "--queue.", nil},
		{"bytes read ahead", "24 MiB over all connections.", []string{"pkg/stream", "readBudget = 24 << 20"}},
	}},
	{"Points of RRDs ([collect-rrd], rrd-push --listen)", []limit{
		{"connections", "1,024.", []string{"pkg/rrdpush", "maxConns = 1024"}},
		{"POSTs at a time", "16 processed and 64 read, of one probe one.", []string{"pkg/rrdpush", "maxPosts = 16", "maxOpen = 64"}},
		{"POST", "256 MiB and 2,097,152 points, within 5 minutes.", []string{"pkg/rrdpush", "maxBody = 256 << 20", "maxPoints = 2 << 20", "ReadTimeout: 5 * time.Minute"}},
		{"metrics of one probe", "--max-metrics (10,000), of RRDs of Tstat only.", []string{"pkg/rrdpush", "DefaultMaxMetrics = 10_000"}},
		{"probes", "1,000.", []string{"pkg/rrdpush", "maxProbes = 1000"}},
		{"time of a point", "A day ahead of the clock.", []string{"pkg/rrdpush", "maxAhead = 24 * time.Hour"}},
		{"points waiting for the destination", "--spool.", nil},
	}},
	{"mPlane (supervisor, serve --clients, [probe])", []limit{
		{"connections", "8,192.", []string{"pkg/mplane/wire", "MaxConns: 8192"}},
		{"message", "8 MiB, 1,048,576 values, 16 levels, names of 4 KiB.", []string{"pkg/mplane", "MaxMessage = 8 << 20", "maxValues = 1 << 20", "maxDepth = 16", "maxName = 4096"}},
		{"messages of more than 64 KiB at a time", "4, of one host one.", []string{"pkg/mplane/wire", "small = 64 << 10", "maxLarge = 4"}},
		{"memory for messages of peers", "64 MiB, for one identity and for one host 24 MiB.", []string{"pkg/mplane/client", "MaxKept = 64 << 20", "MaxKeptOf = 24 << 20"}},
		{"components", "10,000, with 1,000 capabilities and 10,000 queued messages each.", []string{"pkg/mplane/client", "maxComponents = 10000", "maxOffers = 1000", "maxQueue = 10000"}},
		{"specifications", "100,000, of one client 10,000 without a result.", []string{"pkg/mplane/supervisor", "maxJobs = 100000", "maxClientJobs = 10000"}},
		{"messages for an unreachable supervisor", "10,000.", []string{"pkg/mplane/component", "maxOutbox = 10000"}},
		{"log.folder", "Below the folders of [probe]; links that lead out of the named folder are not followed.", nil},
		{"repository.url", "In the networks of peers of [probe]; without that setting, this machine.", nil},
	}},
	{"Administration page (admin)", []limit{
		{"connections", "1,024. GET and HEAD only: nothing can be changed.", []string{"cmd/tstatrepo", "MaxConns: 1024"}},
		{"scrapes at a time", "4.", []string{"pkg/admin", "maxScrapes = 4"}},
	}},
}

// limitsSection writes the limits into a page of the manual.
func (p *page) limitsSection() {
	p.section("LIMITS")
	p.text(limitsIntro)
	for _, g := range limits {
		p.WriteString(".SS " + roff(g.title) + "\n")
		for _, l := range g.limits {
			p.item(l.what, upperFirst(l.value))
		}
	}
}
