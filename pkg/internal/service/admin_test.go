package service

import (
	"crypto/x509/pkix"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/admin"
	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
)

// TestExportShowsNewestFolder checks that an export of logs shows the newest
// folder that the repository has fetched from, and its lag.
func TestExportShowsNewestFolder(t *testing.T) {
	var s admin.State
	newest := time.Now().Add(-time.Hour)
	addExport(&s, "turin", exporter.Export{Capability: exporter.Log, Newest: newest})
	addExport(&s, "turin", exporter.Export{Capability: exporter.Log})
	if lag, known := s.Logs[0].Lag(); !s.Logs[0].LastFolder.Equal(newest) || !known || lag < time.Hour || s.Logs[0].Late() {
		t.Errorf("%+v", s.Logs[0])
	}
	if lag, known := s.Logs[1].Lag(); known {
		t.Errorf("lag %v before a log was fetched", lag)
	}
}

// TestExportShowsSink checks that an export of lines shows the state of its sink and the
// current rate.
func TestExportShowsSink(t *testing.T) {
	var s admin.State
	addExport(&s, "turin", exporter.Export{
		Capability: exporter.Streaming, Repository: "repo:9001", Rate: 7, Rates: []int64{35}, Interval: 5 * time.Second,
		Sink: stream.SinkStats{Name: "ack://repo:9001", Lines: 9, Dropped: 2, Queued: 3, Limit: 4, Trouble: "connection refused"},
	})
	l := s.Live[0]
	if c := l.Sinks[0]; c.Name != "repo:9001" || c.Lines != 9 || c.Dropped != 2 || c.Queued != 3 || c.Limit != 4 || c.Trouble != "connection refused" {
		t.Errorf("sink %+v", c)
	}
	if l.Rate != 7 || l.Sources[0].Rate != 7 || len(l.Rates) != 1 || l.Interval != 5*time.Second {
		t.Errorf("%+v", l.Stats)
	}
	if p := s.Problems(nil, time.Now()); len(p) != 1 || !p[0].Error || !strings.Contains(p[0].What, "connection refused") {
		t.Errorf("problems %+v", p)
	}
}

// TestUnusableCertificates checks that files that listeners cannot load are shown with
// the reason. The listeners keep the former certificate, which expires at another time.
func TestUnusableCertificates(t *testing.T) {
	a := peertest.NewAuthority(t)
	cert, key, ca := a.Issue("one", pkix.Name{CommonName: "one"})
	_, other, _ := a.Issue("two", pkix.Name{CommonName: "two"})
	empty := t.TempDir() + "/empty.pem"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		files        peer.TLS
		cert, caText string // texts in the errors
	}{
		{peer.TLS{Cert: cert, Key: key, CA: ca}, "", ""},
		{peer.TLS{Cert: cert, Key: other, CA: ca}, "private key does not match", ""},
		{peer.TLS{Cert: empty, Key: key, CA: empty}, "failed to find any PEM data", "no certificate in it"},
	} {
		list := certificates(c.files)
		if len(list) != 2 {
			t.Errorf("%+v: %+v", c.files, list)
			continue
		}
		for i, want := range []string{c.cert, c.caText} {
			if got := list[i]; (got.Err == "") != (want == "") || !strings.Contains(got.Err, want) || got.NotAfter.IsZero() != (want != "") {
				t.Errorf("%s: %+v, want error %q", got.Use, got, want)
			}
		}
	}
}
