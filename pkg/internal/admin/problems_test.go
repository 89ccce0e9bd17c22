package admin

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*State)
		ready  error
		want   string // error or warning, and start of What; "": no problem
	}{
		{"busy", func(*State) {}, nil, ""},
		{"not ready", func(*State) {}, errors.New("no"), "error: Not ready: no."},
		{"not registered", func(s *State) { s.Supervisor.Registered, s.Supervisor.Err = false, "refused" }, nil, "error: Not registered at https://supervisor.polito.it:8889: refused"},
		{"just begun", func(s *State) { s.Supervisor.Registered, s.Started = false, noon.Add(-20*time.Second) }, nil, ""},
		{"clients only", func(s *State) { s.Supervisor = &Supervisor{Clients: []string{":8891"}} }, nil, ""},
		{"no supervisor", func(s *State) { s.Supervisor = nil }, nil, ""},
		{"closed on purpose", func(s *State) { s.Endpoints[0].Addrs = nil }, nil, ""},
		{"not open", func(s *State) { s.Endpoints[0].Addrs, s.Endpoints[0].Err = nil, errors.New("in use") }, nil, "error: Endpoint collect-log is not open: in use"},
		{"store away", func(s *State) { s.Logs[0].LastError = "away" }, nil, "error: Logs are not stored: away (polito1 (polito1_log_tcp_complete))"},
		{"wrong password for all", func(s *State) {
			for i := range s.Logs {
				s.Logs[i].LastError = "wrong password"
			}
		}, nil, "error: Logs are not stored: wrong password (3 streams)"},
		{"store down from the start", func(s *State) {
			for i := range s.Logs {
				l := &s.Logs[i]
				l.Stores[1].Error, l.Stores[1].Behind = "refused", 3
				l.Failure = fmt.Errorf("open: %w", store.ErrUnavailable)
				l.LastError = l.Failure.Error()
			}
		}, nil, "error: Store postgres://tstat@db/tstat accepts no logs: refused (3 streams, 9 files behind)"},
		{"probe away", func(s *State) {
			for i := range s.Logs {
				l := &s.Logs[i]
				l.Probe, l.LastFolder, l.CallBackUrl = "turin", noon.Add(-4*time.Hour), fmt.Sprintf("10.1.0.7:300%d", i)
				l.Failure = fmt.Errorf("stream %d: %w", i, bulk.ErrSource)
				l.LastError = l.Failure.Error()
			}
		}, nil, "error: Probe turin at 10.1.0.7 does not deliver logs: stream 0: source unavailable (3 streams)"},
		{"late", func(s *State) { s.Logs[0].LastFolder = noon.Add(-4 * time.Hour) }, nil, "error: Logs of polito1 are late: the newest folder began 4\u00a0h ago (polito1 (polito1_log_tcp_complete))"},
		{"died long ago", func(s *State) { s.Logs[0].LastFolder, s.Logs[0].Live = noon.Add(-31*24*time.Hour), true }, nil, "error: Logs of polito1 are late: the newest folder began 31\u00a0days ago"},
		{"never late", func(s *State) { s.Logs[0].LastFolder, s.Logs[0].LateAfter = noon.Add(-4000*time.Hour), 0 }, nil, ""},
		{"archive", func(s *State) { s.Logs[0].LastFolder = noon.Add(-31 * 24 * time.Hour) }, nil, ""},
		{"nothing stored yet", func(s *State) { s.Logs[0].LastFolder = time.Time{} }, nil, ""},
		{"clock ahead", func(s *State) { s.Logs[0].LastFolder = noon.Add(time.Hour) }, nil, ""},
		{"rejects", func(s *State) { s.Logs[0].Rows, s.Logs[0].Rejects = 980, 20 }, nil, "warning: 20 lines of polito1"},
		{"few rejects", func(s *State) { s.Logs[0].Rows, s.Logs[0].Rejects = 990, 10 }, nil, ""},
		{"live rejects", func(s *State) { s.Live[0].Lines, s.Live[0].Rejects = 50, 50 }, nil, "warning: 50 live lines of collect-streaming"},
		{"sink away", func(s *State) { s.Live[0].Sinks[0].Trouble = "away" }, nil, "error: Sink nats://localhost:4222/TSTAT accepts nothing: away"},
		{"optional sink away", func(s *State) { s.Live[0].Sinks[1].Trouble = "away" }, nil, "warning: Sink exec:webrowse --stdin accepts nothing"},
		{"dropped", func(s *State) { s.Live[0].Sinks[1].Dropped = 1 }, nil, "warning: Sink exec:webrowse --stdin missed 1 line"},
		{"carbon away", func(s *State) { s.RRD[0].Down = errors.New("away") }, nil, "error: graphite://localhost:2003 accepts no points: away"},
		{"spool", func(s *State) { s.RRD[0].Spooled = 1 << 20 }, nil, "warning: 1\u00a0MiB of points wait for graphite://localhost:2003"},
		{"certificate ends", func(s *State) { s.Certificates[0].NotAfter = noon.Add(29 * 24 * time.Hour) }, nil, "warning: The certificate of serve tls-cert expires in 29\u00a0days"},
		{"certificate ends soon", func(s *State) { s.Certificates[0].NotAfter = noon.Add(6 * 24 * time.Hour) }, nil, "error: The certificate of serve tls-cert expires in 6\u00a0days"},
		{"certificate ended", func(s *State) { s.Certificates[0].NotAfter = noon }, nil, "error: The certificate of serve tls-cert expired 0\u00a0s ago"},
		{"certificate unreadable", func(s *State) { s.Certificates[0].Err = "no PEM" }, nil, "error: Certificate of serve tls-cert: no PEM"},
		{"certificate unknown", func(s *State) { s.Certificates[0].NotAfter = time.Time{} }, nil, ""},
		{"logged", func(s *State) { s.Recent = []Notice{{Time: noon.Add(-time.Minute), Error: true}, {Time: noon}} }, nil, "warning: 1 logged error in the last hour"},
		{"logged long ago", func(s *State) { s.Recent = []Notice{{Time: noon.Add(-time.Hour), Error: true}} }, nil, ""},
	} {
		s := busy()
		c.change(s)
		var got []string
		for _, p := range s.Problems(c.ready, noon) {
			level := "warning: "
			if p.Error {
				level = "error: "
			}
			got = append(got, level+p.What)
			if p.Do == "" {
				t.Errorf("%s: nothing to do", c.name)
			}
		}
		switch {
		case c.want == "" && len(got) == 0:
		case c.want != "" && len(got) == 1 && strings.HasPrefix(got[0], c.want):
		default:
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	warned := false
	for _, p := range broken().Problems(nil, noon) {
		if p.Error && warned {
			t.Error("an error stands behind a warning")
		}
		warned = warned || !p.Error
	}
}
