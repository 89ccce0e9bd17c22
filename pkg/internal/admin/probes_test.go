package admin

import (
	"fmt"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
)

// TestStreamsWithoutProbe checks that unnamed streams of one host become one probe,
// and their failures one problem. A single stream keeps its name.
func TestStreamsWithoutProbe(t *testing.T) {
	s := &State{Started: noon}
	add := func(name, callback string) {
		failure := fmt.Errorf("stream %s: refused: %w", name, bulk.ErrSource)
		s.Logs = append(s.Logs, mathproto.StreamStats{
			Registration: mathproto.Registration{StreamName: name, CallBackUrl: callback}, Probe: name,
			Time: noon, ErrorTime: noon, Failure: failure, LastError: failure.Error(),
		})
	}
	for i := range 12 {
		add(fmt.Sprint("s", i), fmt.Sprintf("10.1.0.7:%d", 3001+i))
	}
	add("alone", "10.1.0.8:3001")
	v := newView(s, nil, noon, nil)
	if len(v.Probes) != 2 || v.Errors != 2 {
		t.Errorf("%d probes, %d errors", len(v.Probes), v.Errors)
	}
	for i, want := range []string{
		"Probe 10.1.0.7 does not deliver logs: stream s0: refused: source unavailable (12 streams)",
		"Probe alone at 10.1.0.8 does not deliver logs: stream alone: refused: source unavailable (alone)",
	} {
		if got := v.Problems.Shown[i].What; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
