package command

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// limits lists the limits in tstatrepo-serve(1), by heading and by the tag of their
// item. Each limit has the values in the item and the code that sets them: names of
// packages, each followed by definitions in that package.
var limits = map[string][]struct {
	what         string
	values, code []string
}{
	"All listeners": {
		{"connections of one host", []string{"6", "64"}, []string{"pkg/internal/peer", "return max(1, total/4)"}},
		{"header of a request", []string{"64 KiB", "20 seconds"}, []string{"pkg/internal/peer", "maxHeader = 64 << 10", "ReadHeaderTimeout: 20 * time.Second"}},
		{"body of a request", []string{"1 KiB/s", "10 seconds"}, []string{"pkg/internal/peer", "slowestBody = 1 << 10", "bodyGrace = 10 * time.Second"}},
		{"idle connection", []string{"2 minutes", "2h"}, []string{"pkg/internal/peer", "IdleTimeout: 2 * time.Minute"}},
		{"lines of the log about refusals", nil, []string{"pkg/internal/peer", "logEvery = time.Minute"}},
	},
	"Logs by MATH ([collect-log], import-bulk --listen)": {
		{"connections", []string{"256"}, []string{"pkg/internal/mathproto", "MaxConns: 256"}},
		{"streams", []string{"1,000", "64"}, []string{"pkg/internal/mathproto", "MaxStreams = 1000", "maxPeerStreams = MaxStreams / 4"}},
		{"owner of a stream", nil, []string{"pkg/internal/mathproto", "ownerSilence = time.Hour"}},
		{"registration", []string{"64 KiB"}, []string{"pkg/internal/mathproto", "maxBody = 64 << 10"}},
		{"list of files", []string{"64 MiB", "1,048,576", "1 KiB", "64 MiB"}, []string{"pkg/internal/mathproto", "maxList = 64 << 20", "maxFiles = 1 << 20", "maxName = 1 << 10", "reading: 64 << 20"}},
		{"waiting files", []string{"50,000", "10,000"}, []string{"pkg/internal/mathproto", "pending: 50_000, maxPerStream: 10_000"}},
		{"slow file", []string{"1 KiB/s", "2 minutes"}, []string{"pkg/internal/mathproto", "minSpeed = 1 << 10", "stall: 2 * time.Minute"}},
		{"rejected lines", []string{"16 MiB", "1 KiB", "20"}, []string{"pkg/internal/bulk", "maxRejectFile = 16 << 20", "maxRejectText = 1 << 10", "keptRejectRuns = 20"}},
		{"columns of a log", []string{"1,024", "64"}, []string{"pkg/tstat", "maxColumns = 1024", "pkg/internal/store/sqlstore", "MaxUnknown = 64"}},
	},
	"Live lines ([collect-streaming], stream --listen)": {
		{"connections", []string{"1024"}, []string{"pkg/internal/stream", "DefaultMaxConnections = 1024"}},
		{"TLS handshake", []string{"10 seconds"}, []string{"pkg/internal/stream/source", "handshakeTimeout = 10 * time.Second"}},
		{"line", []string{"32 KiB"}, []string{"pkg/internal/stream", "DefaultMaxLine = 32 << 10"}},
		{"names of probes that peers announce", []string{"4,096"}, []string{"pkg/internal/stream/source", "maxProbes = 4096", "pkg/internal/stream/protocol", "nameAge = 24 * time.Hour", "return max(1, limit/4)"}},
		{"logs of unknown types", []string{"64"}, []string{"pkg/internal/stream/protocol", "maxTypes = 64"}},
		{"headers kept", []string{"4,096"}, []string{"pkg/internal/stream/encode", "maxLayouts = 4096"}},
		{"sources counted separately", []string{"2,048"}, []string{"pkg/internal/stream/stats", "maxSources = 2048"}},
		{"bytes read ahead", []string{"24 MiB"}, []string{"pkg/internal/stream/source", "readBudget = 24 << 20"}},
	},
	"Points of RRDs ([collect-rrd], rrd-push --listen)": {
		{"connections", []string{"1,024"}, []string{"pkg/internal/rrdpush", "maxConns = 1024"}},
		{"POSTs at a time", []string{"16", "64"}, []string{"pkg/internal/rrdpush", "maxPosts = 16", "maxOpen = 64"}},
		{"POST", []string{"256 MiB", "2,097,152", "5 minutes"}, []string{"pkg/internal/rrdpush", "maxBody = 256 << 20", "maxPoints = 2 << 20", "ReadTimeout: 5 * time.Minute"}},
		{"metrics of one probe", []string{"10,000"}, []string{"pkg/internal/rrdpush", "DefaultMaxMetrics = 10_000"}},
		{"probes", []string{"1,000"}, []string{"pkg/internal/rrdpush", "maxProbes = 1000"}},
		{"time of a point", nil, []string{"pkg/internal/rrdpush", "maxAhead = 24 * time.Hour"}},
	},
	"mPlane (supervisor, serve --clients, [probe])": {
		{"connections", []string{"8,192"}, []string{"pkg/internal/mplane/wire", "MaxConns: 8192"}},
		{"message", []string{"8 MiB", "1,048,576", "16 levels", "4 KiB"}, []string{"pkg/mplane", "MaxMessage = 8 << 20", "maxValues = 1 << 20", "maxDepth = 16", "maxName = 4096"}},
		{"messages of more than 64 KiB at a time", []string{"4"}, []string{"pkg/internal/mplane/wire", "small = 64 << 10", "maxLarge = 4"}},
		{"memory for messages of peers", []string{"64 MiB", "24 MiB"}, []string{"pkg/internal/mplane/registrar", "MaxKept = 64 << 20", "MaxKeptOf = 24 << 20"}},
		{"components", []string{"10,000", "1,000", "10,000"}, []string{"pkg/internal/mplane/registrar", "maxComponents = 10000", "maxOffers = 1000", "maxQueue = 10000"}},
		{"specifications", []string{"100,000", "10,000"}, []string{"pkg/internal/mplane/supervisor", "maxJobs = 100000", "maxClientJobs = 10000"}},
		{"messages for an unreachable supervisor", []string{"10,000"}, []string{"pkg/internal/mplane/component", "maxOutbox = 10000"}},
	},
	"Administration page (admin)": {
		{"connections", []string{"1,024"}, []string{"pkg/internal/service", "MaxConns: 1024"}},
		{"scrapes at a time", []string{"4"}, []string{"pkg/internal/admin", "maxScrapes = 4"}},
	},
}

// TestLimits checks that the manual states the limits of the code.
func TestLimits(t *testing.T) {
	page, err := os.ReadFile("../../man/tstatrepo-serve.1.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## LIMITS\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for title, group := range limits {
		_, rest, ok := strings.Cut(text, "\n### "+title+"\n")
		rest, _, _ = strings.Cut(rest, "\n### ")
		if !ok {
			t.Errorf("the manual has no limits of %q", title)
		}
		for _, l := range group {
			item := regexp.MustCompile("(?m)^- (?:`|\\*\\*)" + regexp.QuoteMeta(l.what) + "(?:`|\\*\\*): .*(?:\n  .*)*").FindString(rest)
			if item == "" {
				t.Errorf("%s: the manual has no %q", title, l.what)
				continue
			}
			for _, value := range l.values {
				if !strings.Contains(item, value) {
					t.Errorf("%s: %s: the manual does not say %q", title, l.what, value)
				}
			}
			code := ""
			for _, c := range l.code {
				if strings.HasPrefix(c, "pkg/") || strings.HasPrefix(c, "cmd/") {
					code = source(t, c)
				} else if !regexp.MustCompile(regexp.QuoteMeta(c)+`\b`).MatchString(code) && !strings.Contains(code, c+"\n") && !strings.Contains(code, c+" ") {
					t.Errorf("%s: %s: %q is not in the code", title, l.what, c)
				}
			}
		}
	}
}

// source returns the Go source of a package without its tests. It replaces consecutive
// spaces and tabs by one space.
func source(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", pkg, err)
	}
	var b strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return regexp.MustCompile(`[ \t]+`).ReplaceAllString(b.String(), " ")
}
