package command

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStreamOutlivesReaderOfStdout closes the pipe behind standard output, which is an
// optional sink. The other sink gets all lines, and the stream runs until it is stopped.
func TestStreamOutlivesReaderOfStdout(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "2016_03_24_21_37.out")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "log_udp_complete"), []byte("10.0.0.1 53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := &exec.Cmd{Path: exe, Stdout: w, Stderr: log, Args: []string{"tstatrepo", "stream", "--state-dir", filepath.Join(dir, "state"), "--timezone", "UTC",
		"--follow", "turin=" + dir, "--to", "file:" + filepath.Join(dir, "out"), "--to-optional", "-"}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() // if the test fails
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(log.Name())
		if paths, _ := filepath.Glob(filepath.Join(dir, "out/turin/*/*.log")); len(paths) == 1 && bytes.Contains(text, []byte("optional sink failed")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s", text)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	text, _ := os.ReadFile(log.Name())
	if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(string(text), "sink=- lines=0 dropped=1") {
		t.Errorf("%v: %s", cmd.ProcessState, text)
	}
}
