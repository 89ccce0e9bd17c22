package mathproto

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExporterReportsWhatItDoesNotServe checks that each name is reported once.
func TestExporterReportsWhatItDoesNotServe(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	put := func(parts ...string) {
		t.Helper()
		path := filepath.Join(parts...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(dir, "2023_11_14_20_13.out", "log_udp_complete.tmp")
	put(dir, "old", "log_mm_complete")
	put(other, "2023_11_14_21_13.out", "log_tcp_complete")
	for link, target := range map[string]string{"2023_11_14_21_13.out": filepath.Join(other, "2023_11_14_21_13.out"), "gone": filepath.Join(other, "gone")} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	var log logs
	p, err := NewExporter(ExporterOptions{Dir: dir, Stream: "s", Settle: time.Nanosecond, Location: time.UTC, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.scanFolder(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		`level=ERROR msg="part of the source cannot be read" source=` + dir,
		`level=WARN msg="logs left out: links lead out of the folder" source=` + dir + " logs=1 examples=" + filepath.Join(dir, "2023_11_14_21_13.out", "log_tcp_complete"),
		`level=WARN msg="passed over names that look like logs" source=` + dir + " files=1 folders=1 examples=",
	} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("%s is not once in\n%s", want, log.String())
		}
	}
}
