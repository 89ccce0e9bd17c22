package stream

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// putLog writes a log in a folder below root.
func putLog(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// zipped returns text compressed with gzip.
func zipped(text string) string {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	io.WriteString(w, text)
	w.Close()
	return z.String()
}

// TestFollowCompressedMeanwhile compresses a log that was read to its end, in the newest
// folder, as a nightly job does after Tstat has stopped. Its lines do not come again when
// Tstat has started again.
func TestFollowCompressedMeanwhile(t *testing.T) {
	root := t.TempDir()
	text := rows(0, 3000)
	const first, next = "2016_03_24_21_00.out/log_udp_complete", "2016_03_24_22_00.out/log_udp_complete"
	putLog(t, root, first, text)
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line})
	awaitOutput(t, s, text)
	putLog(t, root, first+".gz", zipped(text))
	if err := os.Remove(filepath.Join(root, first)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // 10 polls
	putLog(t, root, next, "next\n")
	await(t, "the next folder", func() bool { return strings.HasSuffix(s.out.String(), "next\n") })
	if sum := s.stop(); s.out.String() != text+"next\n" || sum.Vanished != 0 || sum.Cuts != 0 {
		t.Errorf("%d bytes, want %d; %+v", s.out.Len(), len(text)+5, sum)
	}
}

// TestFollowRemovedMeanwhile removes a folder whose logs were read to their end. They do
// not count as vanished, and the next folder is streamed, also if it has the same name.
func TestFollowRemovedMeanwhile(t *testing.T) {
	for _, next := range []string{"2016_03_24_21_00.out", "2016_03_24_22_00.out"} {
		root := t.TempDir()
		text := rows(0, 3000)
		putLog(t, root, "2016_03_24_21_00.out/log_udp_complete", text)
		s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line})
		awaitOutput(t, s, text)
		if err := os.RemoveAll(filepath.Join(root, "2016_03_24_21_00.out")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // 10 polls
		putLog(t, root, next+"/log_udp_complete", "next\n")
		await(t, "the next folder", func() bool { return strings.HasSuffix(s.out.String(), "next\n") })
		if sum := s.stop(); s.out.String() != text+"next\n" || sum.Vanished != 0 || sum.Cuts != 0 {
			t.Errorf("%d bytes, want %d; %+v", s.out.Len(), len(text)+5, sum)
		}
	}
}

// TestFollowOverlongLine checks that a line longer than the limit is rejected, however
// much of the log is read at once.
func TestFollowOverlongLine(t *testing.T) {
	root := t.TempDir()
	long := strings.Repeat("x", 5000)
	limit := strings.Repeat("y", 4096) + "\n"
	putLog(t, root, "2016_03_24_21_00.out/log_udp_complete", "a\n"+long+"\n"+limit+long+"\n"+long+"\nb\n")
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, MaxLine: 4096})
	await(t, "the last line", func() bool { return strings.HasSuffix(s.out.String(), "b\n") })
	if sum := s.stop(); s.out.String() != "a\n"+limit+"b\n" || sum.Sources[0].Rejects != 3 {
		t.Errorf("%d bytes, %+v", s.out.Len(), sum)
	}
}

// TestFollowEndWithCompressedLog checks that --start end skips a compressed log of the
// newest folder, and does not call it damaged.
func TestFollowEndWithCompressedLog(t *testing.T) {
	root := t.TempDir()
	putLog(t, root, "2016_03_24_21_00.out/log_udp_complete.gz", zipped(rows(0, 3000)))
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartEnd})
	await(t, "the begin", func() bool { return strings.Contains(s.log.String(), "following") })
	putLog(t, root, "2016_03_24_22_00.out/log_udp_complete", "next\n")
	await(t, "the next folder", func() bool { return strings.HasSuffix(s.out.String(), "next\n") })
	if sum := s.stop(); s.out.String() != "next\n" || sum.Cuts != 0 {
		t.Errorf("%d bytes, %+v", s.out.Len(), sum)
	}
}

// TestFollowEndIsRecorded starts at the end of a log, and stops before a new line arrives.
// The next run continues there.
func TestFollowEndIsRecorded(t *testing.T) {
	root := t.TempDir()
	const log = "2016_03_24_21_00.out/log_udp_complete"
	putLog(t, root, log, rows(0, 3000))
	opt := Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartEnd, StateDir: t.TempDir()}
	s := startStream(t, opt)
	await(t, "the begin", func() bool { return strings.Contains(s.log.String(), "following") })
	time.Sleep(200 * time.Millisecond) // 10 polls
	s.stop()
	putLog(t, root, log, rows(0, 3001))
	opt.Start = StartCheckpoint
	s = startStream(t, opt)
	await(t, "the new line", func() bool { return strings.HasSuffix(s.out.String(), rows(3000, 1)) })
	if s.stop(); s.out.String() != rows(3000, 1) {
		t.Errorf("%d bytes", s.out.Len())
	}
}

// gate is a writer that blocks until it is opened.
type gate struct {
	output
	opened chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.opened
	return g.output.Write(p)
}

// TestFollowCountsRemovedLogs removes folders while no sink accepts lines: two folders
// that were seen but not read, and one that came and went. All three are counted.
func TestFollowCountsRemovedLogs(t *testing.T) {
	root := t.TempDir()
	folder := func(n int) string { return fmt.Sprintf("2016_03_24_21_0%d.out", n) }
	text := rows(0, 30_000)
	putLog(t, root, folder(0)+"/log_udp_complete", text)
	putLog(t, root, folder(1)+"/log_udp_complete", "gone\n")
	putLog(t, root, folder(2)+"/log_udp_complete", "gone\n")
	out := &gate{opened: make(chan struct{})}
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, Format: Line, Start: StartBegin, Stdout: out, Window: 64 << 10})
	await(t, "a full window", func() bool { return s.Stats().Bytes > 0 })
	putLog(t, root, folder(3)+"/log_udp_complete", "gone\n")
	for n := 1; n <= 3; n++ {
		if err := os.RemoveAll(filepath.Join(root, folder(n))); err != nil {
			t.Fatal(err)
		}
	}
	putLog(t, root, folder(4)+"/log_udp_complete", "last\n")
	close(out.opened)
	await(t, "the last line", func() bool { return strings.HasSuffix(out.String(), "last\n") })
	if sum := s.stop(); sum.Vanished != 3 || out.String() != text+"last\n" {
		t.Errorf("%d vanished, want 3", sum.Vanished)
	}
}
