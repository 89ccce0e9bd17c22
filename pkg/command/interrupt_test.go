package command

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
)

// TestInterruptReportsRemainingFiles checks that an interrupted import reports the
// remaining files, and that the next run stores them.
func TestInterruptReportsRemainingFiles(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(sampleLogs, "2026_11_22_06_39.out/log_tcp_complete"))
	if err != nil {
		t.Fatal(err)
	}
	header, rows, _ := bytes.Cut(text, []byte("\n"))
	text = append(append(header, '\n'), bytes.Repeat(rows, 100)...) // about 5 MB
	source, dir := t.TempDir(), t.TempDir()
	for _, folder := range []string{"2024_05_01_12_00.out", "2024_05_01_13_00.out"} {
		if err := os.Mkdir(filepath.Join(source, folder), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, folder, "log_tcp_complete"), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"import-bulk", "--state-dir", dir, "--probe", "p", "--include-open", "--jobs", "1", "--to", dir + "/store", source}
	p := startProcess(t, nil, append(args, "--rate", "0.1", "--progress-interval", "1s")...)
	p.says("progress")
	p.signal(syscall.SIGINT)
	p.ends(130)
	want := regexp.MustCompile(`(?m)^tstatrepo: interrupted\nhint: left: 2 files, [0-9.]+ MiB; the next run continues with them$`)
	if !want.MatchString(p.log.String()) {
		t.Errorf("it says\n%s", p.log)
	}
	p = startProcess(t, nil, append(args, "--verbose")...)
	p.ends(0)
	p.says("log_tcp_complete      2  ")
	p = startProcess(t, nil, append(args, "--verbose")...)
	p.ends(0)
	p.says("nothing to import: 2 files stored already")
}

// TestDefaultProbeIsLogged checks that an import logs the host name that it stores as
// the probe of each row.
func TestDefaultProbeIsLogged(t *testing.T) {
	args := []string{"import-bulk", "--state-dir", t.TempDir(), "--dry-run", "--to", t.TempDir() + "/store", sampleLogs}
	const says = "tstatrepo: probe named after the host probe="
	p := startProcess(t, nil, append(args, "--verbose")...)
	p.says(says)
	p.ends(0)
	for _, more := range [][]string{{"--verbose", "--probe", "p"}, {"--quiet"}, nil} {
		p := startProcess(t, nil, append(args, more...)...)
		p.ends(0)
		if bytes.Contains([]byte(p.log.String()), []byte(says)) {
			t.Errorf("%v: it says\n%s", more, p.log)
		}
	}
}
