package protocol

import (
	"bytes"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// TestCRLFStays checks that lines with CR LF stay unchanged.
func TestCRLFStays(t *testing.T) {
	const wire = "/t/log_udp_complete 10.0.0.1 53 a\r\n/t/log_udp_complete \r\n/t/log_udp_complete \n/t/log_udp_complete b\n"
	s := Splitter{Types: &Types{}, MaxLine: 1 << 16, Reject: func(reason string, _ []byte) { t.Error(reason) }}
	var out []byte
	s.Split([]byte(wire), func(_ *batch.Origin, _ int, run []byte, _ int) error {
		out = append(out, run...)
		return nil
	})
	if want := "/t/log_udp_complete 10.0.0.1 53 a\r\n/t/log_udp_complete b\n"; string(out) != want || s.Empty != 2 {
		t.Errorf("raw %q, %d empty lines; want %q and 2", out, s.Empty, want)
	}
}

// FuzzSplitter checks that Split never panics, and that all emitted runs are
// complete lines of the input.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("/t/log_tcp_complete 1 2\n/t/log_tcp_complete \r\n/t/log_new x\nrubbish\n"))
	f.Add([]byte("#c_ip:1 c_port:2\n1.2.3.4 -5\n\n \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append(data, '\n')
		s := Splitter{Types: &Types{}, MaxLine: 1 << 16, Reject: func(string, []byte) {}}
		total := 0
		err := s.Split(data, func(o *batch.Origin, from int, run []byte, lines int) error {
			if !bytes.Equal(data[from:from+len(run)], run) || bytes.Count(run, []byte{'\n'}) != lines {
				t.Fatalf("run %q at %d with %d lines", run, from, lines)
			}
			total += lines
			return nil
		})
		if err != nil || total > bytes.Count(data, []byte{'\n'}) {
			t.Fatal(total, err)
		}
	})
}
