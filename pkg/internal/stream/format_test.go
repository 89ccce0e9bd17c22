package stream

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// testEncoding returns an encoding without saved headers.
func testEncoding(t testing.TB, opt encodeOptions) *encoding {
	t.Helper()
	opt.State = filepath.Join(t.TempDir(), "layouts")
	opt.Location = time.UTC
	opt.Counts = newCounts()
	opt.Log = slog.New(slog.DiscardHandler)
	e, err := newEncoding(opt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const sampleLog = "../../tstat/testdata/logs/v300/2026_11_22_06_39.out/log_tcp_complete"

func BenchmarkJSON(b *testing.B) {
	lines, err := os.ReadFile(sampleLog)
	if err != nil {
		b.Fatal(err)
	}
	e := testEncoding(b, encodeOptions{Format: JSON}).newEncoder()
	o := &origin{probe: "turin", path: "/var/lib/tstat/2026_11_22_06_39.out/log_tcp_complete", typ: "log_tcp_complete"}
	n := bytes.Count(lines, []byte{'\n'})
	var dst []byte
	b.SetBytes(int64(len(lines)))
	for b.Loop() {
		dst = e.encode(dst[:0], text{origin: o, source: newCounts().sources.lookup("", ""), bytes: lines, lines: n})
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(float64(len(dst))/float64(n), "bytes/line")
}
