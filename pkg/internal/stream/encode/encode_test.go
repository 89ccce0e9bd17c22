package encode

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// testEncoding returns an encoding without saved headers.
func testEncoding(t testing.TB, opt Options) *Encoding {
	t.Helper()
	opt.State = filepath.Join(t.TempDir(), "layouts")
	opt.Location = time.UTC
	opt.Counts = stats.NewStream()
	opt.Log = slog.New(slog.DiscardHandler)
	e, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const sampleLog = "../../../tstat/testdata/logs/v300/2026_11_22_06_39.out/log_tcp_complete"

func BenchmarkJSON(b *testing.B) {
	lines, err := os.ReadFile(sampleLog)
	if err != nil {
		b.Fatal(err)
	}
	e := testEncoding(b, Options{Format: batch.JSON}).NewEncoder()
	o := &batch.Origin{Probe: "turin", Path: "/var/lib/tstat/2026_11_22_06_39.out/log_tcp_complete", Type: "log_tcp_complete"}
	n := bytes.Count(lines, []byte{'\n'})
	from := stats.NewStream().Sources.Lookup("", "")
	var dst []byte
	b.SetBytes(int64(len(lines)))
	for b.Loop() {
		dst = e.Encode(dst[:0], batch.Text{Origin: o, Source: from, Bytes: lines, Lines: n})
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(float64(len(dst))/float64(n), "bytes/line")
}

// TestRemovedLinesCountOnce checks that the encoder counts removed lines as rejects only
// if the follower has not counted them.
func TestRemovedLinesCountOnce(t *testing.T) {
	for counted, want := range map[bool]int64{false: 1, true: 0} {
		e := testEncoding(t, Options{Format: batch.JSON})
		o := &batch.Origin{Probe: "turin", Path: "/t/log_tcp_complete", Type: "log_tcp_complete"}
		text := tstat.AppendRemoved(nil, "column c_ip: not an address")
		out := e.NewEncoder().Encode(nil, batch.Text{Origin: o, Source: e.opt.Counts.Sources.Lookup("turin", ""), Bytes: text, Lines: 1, Removed: counted})
		if got := e.opt.Counts.Rejects.Load(); len(out) > 0 || got != want {
			t.Errorf("%v: %d rejects, %q", counted, got, out)
		}
	}
}
