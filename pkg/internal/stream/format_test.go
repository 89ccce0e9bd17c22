package stream

import (
	"bytes"
	"log/slog"
	"os"
	"testing"
	"time"
)

// testHub returns a hub without consumers.
func testHub(t testing.TB, opt Options) *hub {
	t.Helper()
	opt.StateDir = t.TempDir()
	opt.Location = time.UTC
	opt.defaults()
	l, err := openLayouts(&opt)
	if err != nil {
		t.Fatal(err)
	}
	return &hub{opt: &opt, log: slog.New(slog.DiscardHandler), types: &typeNames{}, layouts: l}
}

const sampleLog = "../../tstat/testdata/logs/v300/2026_11_22_06_39.out/log_tcp_complete"

func BenchmarkJSON(b *testing.B) {
	lines, err := os.ReadFile(sampleLog)
	if err != nil {
		b.Fatal(err)
	}
	h := testHub(b, Options{Format: JSON})
	e := newEncoder(h)
	o := &origin{probe: "turin", path: "/var/lib/tstat/2026_11_22_06_39.out/log_tcp_complete", typ: "log_tcp_complete"}
	n := bytes.Count(lines, []byte{'\n'})
	var dst []byte
	b.SetBytes(int64(len(lines)))
	for b.Loop() {
		dst = e.encode(dst[:0], text{origin: o, src: new(source), bytes: lines, lines: n})
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(float64(len(dst))/float64(n), "bytes/line")
}
