package command

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestStreamMetrics runs a stream of two probes' folders until a signal, and
// compares its metrics file with the lines streamed.
func TestStreamMetrics(t *testing.T) {
	dir := t.TempDir()
	for _, probe := range []string{"turin", "milan"} {
		folder := filepath.Join(dir, probe, "2016_03_24_21_37.out")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "log_udp_complete"), []byte("#c_ip:1 c_port:2\n10.0.0.1 53\nno row\n10.0.0.2 53\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	metrics, out := filepath.Join(dir, "stream.prom"), filepath.Join(dir, "out")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: exe, Stderr: log, Args: []string{"tstatrepo", "stream", "--state-dir", filepath.Join(dir, "state"), "--timezone", "UTC",
		"--follow", "turin=" + filepath.Join(dir, "turin"), "--follow", "milan=" + filepath.Join(dir, "milan"),
		"--to", "file:" + out, "--to-optional", "exec:cat >/dev/null", "--format", "json", "--metrics-file", metrics, "--name", "live"}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // if the test fails
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var rows []byte
		paths, _ := filepath.Glob(filepath.Join(out, "*", "log_udp_complete", "*.json"))
		for _, p := range paths {
			text, _ := os.ReadFile(p)
			rows = append(rows, text...)
		}
		if bytes.Count(rows, []byte(`{"probe":"turin",`)) == 2 && bytes.Count(rows, []byte(`{"probe":"milan",`)) == 2 {
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("not all rows arrived: %s\n%s", rows, text)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit status %d, want 130", code)
	}
	text, err := os.ReadFile(metrics)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.ReplaceAll(line, out, "DIR"))
		}
	}
	want := `tstatrepo_build_info\{goversion="go.*",version=".*"\} 1
tstatrepo_stream_accepted_total\{stream="live"\} 0
tstatrepo_stream_bytes_total\{stream="live"\} 96
tstatrepo_stream_connections\{stream="live"\} 0
tstatrepo_stream_cuts_total\{stream="live"\} 0
tstatrepo_stream_empty_total\{stream="live"\} 0
tstatrepo_stream_lines_total\{stream="live"\} 8
tstatrepo_stream_outside_total\{stream="live"\} 0
tstatrepo_stream_refused_total\{stream="live"\} 0
tstatrepo_stream_rejects_total\{stream="live"\} 2
tstatrepo_stream_sink_dropped_total\{sink="exec:cat >/dev/null",stream="live"\} 0
tstatrepo_stream_sink_dropped_total\{sink="file:DIR",stream="live"\} 0
tstatrepo_stream_sink_lines_total\{sink="exec:cat >/dev/null",stream="live"\} 8
tstatrepo_stream_sink_lines_total\{sink="file:DIR",stream="live"\} 8
tstatrepo_stream_sink_repeated_bytes_total\{sink="exec:cat >/dev/null",stream="live"\} 0
tstatrepo_stream_sink_repeated_bytes_total\{sink="file:DIR",stream="live"\} 0
tstatrepo_stream_sink_restarts_total\{sink="exec:cat >/dev/null",stream="live"\} 0
tstatrepo_stream_sink_restarts_total\{sink="file:DIR",stream="live"\} 0
tstatrepo_stream_unacknowledged_lines\{stream="live"\} 0
tstatrepo_stream_updated_timestamp_seconds\{stream="live"\} [0-9.e+]+
tstatrepo_stream_vanished_total\{stream="live"\} 0
`
	if !regexp.MustCompile("^" + want + "$").MatchString(strings.Join(got, "")) {
		t.Errorf("metrics:\n%s", strings.Join(got, ""))
	}
}
