//go:build linux

package exporter

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// TestExportRRD checks that the repository receives the points of real RRDs once, and that
// the result has the last point of each RRD.
func TestExportRRD(t *testing.T) {
	dest, err := rrdpush.ParseDest("-")
	if err != nil {
		t.Fatal(err)
	}
	naming, _ := rrdfile.NamingOf("default", nil)
	out := new(logs)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	e, err := rrdpush.NewEndpoint(rrdpush.EndpointOptions{
		Listen: []peer.Options{{Addr: "127.0.0.1:0"}},
		Target: rrdpush.Target{Dest: dest, Probe: "turin", Prefix: "tstat", Naming: naming, StateDir: t.TempDir(), Stdout: out},
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- e.Run(ctx) }()
	addr := e.Addrs()[0]

	b := newBench(t, func(o *Options) { o.RRDFolder = rrdtest.Samples(t) })
	token := b.submit(RRD, "now + 1h", "repository.url="+addr)
	eventually(t, "all RRDs", func() bool {
		s := b.Stats()
		return len(s) == 1 && !s[0].LastSuccess.IsZero() && s[0].Points > 0
	})
	received := func() int64 { s := e.Stats(); return s.Points + s.Unnamed }
	if sent := b.Stats()[0].Points; sent != received() {
		t.Errorf("%d points sent, %d received", sent, received())
	}
	result := b.interrupt(token)
	points := received()
	files, err := filepath.Glob(filepath.Join(b.RRDFolder, "*.rrd"))
	if err != nil || len(result.Rows) == 0 || len(result.Rows) > len(files) {
		t.Errorf("%v: %d rows of %d files", err, len(result.Rows), len(files))
	}
	metric := slices.Index(result.Results, "rrdMetirc")
	for _, row := range result.Rows {
		if !strings.HasSuffix(row[metric], ".rrd") {
			t.Errorf("%q", row)
		}
	}
	// All points are sent: the next export scans the RRDs and sends nothing.
	token = b.submit(RRD, "now + 1h", "repository.url="+addr)
	eventually(t, "a scan", func() bool {
		s := b.Stats()
		return len(s) == 1 && !s[0].LastSuccess.IsZero()
	})
	if result := b.interrupt(token); len(result.Rows) != 0 || received() != points {
		t.Errorf("sent again: %v", result.Rows)
	}
	// A scope that starts in the past sends the points since then again.
	token = b.submit(RRD, "2016-03-25 ... future", "repository.url="+addr)
	eventually(t, "points again", func() bool { return received() > points })
	b.interrupt(token)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	sum := e.Stats()
	if strings.Count(out.String(), "\n") != int(sum.Points) {
		t.Errorf("%+v", sum)
	}
}

// TestDNSRebindingIsRefusedForRRDs is TestDNSRebindingIsRefused for points.
func TestDNSRebindingIsRefusedForRRDs(t *testing.T) {
	b := newBench(t, func(o *Options) {
		o.RRDFolder, o.Peers = rrdtest.Samples(t), peer.Networks{netip.MustParsePrefix("192.0.2.0/24")}
	})
	b.retry = time.Millisecond
	b.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil
	}
	b.submit(RRD, "now + inf", "repository.url=localhost:1")
	eventually(t, "refusal", func() bool {
		s := b.Stats()
		return len(s) == 1 && strings.Contains(s[0].LastError, "127.0.0.1 is not in the networks")
	})
}
