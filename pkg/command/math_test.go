package command

import (
	"errors"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/textfile"
)

// TestRemovedStreamLeavesMetricsFile checks that the failure of a stream counts for its
// probe only until the stream is removed.
func TestRemovedStreamLeavesMetricsFile(t *testing.T) {
	stream := func(name string) mathproto.StreamStats {
		return mathproto.StreamStats{Registration: mathproto.Registration{StreamName: name}}
	}
	run := func(failure error) textfile.Run {
		return textfile.Run{Summary: &bulk.Summary{Probe: "turin"}, Failure: failure}
	}
	runs := streamRuns{}
	runs.record("bad", run(errors.New("x")), []mathproto.StreamStats{stream("bad"), stream("good")})
	runs.record("good", run(nil), []mathproto.StreamStats{stream("bad"), stream("good")})
	if r := textfile.ByProbe(runs)["turin"]; r.Failure == nil {
		t.Error("the failure of a registered stream is missing")
	}
	runs.record("good", run(nil), []mathproto.StreamStats{stream("good")})
	if r := textfile.ByProbe(runs)["turin"]; len(runs) != 1 || r.Failure != nil {
		t.Errorf("%+v", runs)
	}
}
