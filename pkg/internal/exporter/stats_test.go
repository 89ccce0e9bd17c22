package exporter

import (
	"net"
	"testing"
)

// TestStatsOfUnreachableRepository checks that an export of lines says why the repository
// accepts none, and that it counts the lines that it reads.
func TestStatsOfUnreachableRepository(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b := newBench(t, nil)
	b.write("2026_11_22_06_39.out/log_tcp_complete", "#c_ip:1\none\n")
	b.submit(Streaming, "now + 1d", "repository.url="+l.Addr().String(), "log.folder="+b.LogFolder, "log.type=log_tcp_complete", "log.time=60")
	eventually(t, "an error", func() bool {
		s := b.Stats()
		return len(s) == 1 && s[0].LastError != "" && s[0].Sink.Trouble == s[0].LastError && s[0].Sink.Limit > 0 && s[0].Rate > 0 && len(s[0].Rates) > 0
	})
}
