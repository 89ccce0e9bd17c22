package tstat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseFolder(t *testing.T) {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		t.Fatal(err)
	}
	lordHowe, err := time.LoadLocation("Australia/Lord_Howe")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		loc    *time.Location
		want   string // UTC
		latest string // "" if the same
	}{
		{"2016_03_24_21_37.out", time.UTC, "2016-03-24T21:37", ""},
		{"06_39_22_Nov_2026.out", time.UTC, "2026-11-22T06:39", ""},
		{"2016_03_24_21_37.out", rome, "2016-03-24T20:37", ""},
		{"2016_03_27_02_30.out", rome, "2016-03-27T01:30", ""}, // an hour that does not exist there
		{"2021_10_31_02_07.out", rome, "2021-10-31T00:07", "2021-10-31T01:07"},
		{"2021_10_31_01_59.out", rome, "2021-10-30T23:59", ""},
		{"2021_10_31_03_00.out", rome, "2021-10-31T02:00", ""},
		{"2021_04_04_01_45.out", lordHowe, "2021-04-03T14:45", "2021-04-03T15:15"},
		{"2016_02_30_21_37.out", time.UTC, "", ""},
		{"2016_03_24_24_37.out", time.UTC, "", ""},
		{"2016_03_24_21_37", time.UTC, "", ""},
		{"2016_03_24_21_37.out.gz", time.UTC, "", ""},
		{"06_39_22_nov_2026.out", time.UTC, "", ""},
		{"", time.UTC, "", ""},
	}
	for _, tt := range tests {
		got, err := ParseFolder(tt.name, tt.loc)
		if (err == nil) != (tt.want != "") {
			t.Errorf("%s: error %v", tt.name, err)
			continue
		}
		if err != nil {
			continue
		}
		if tt.latest == "" {
			tt.latest = tt.want
		}
		const form = "2006-01-02T15:04"
		if got.Time.Format(form) != tt.want || got.Latest.Format(form) != tt.latest {
			t.Errorf("%s in %s: %v to %v, want %s to %s", tt.name, tt.loc, got.Time, got.Latest, tt.want, tt.latest)
		}
	}
}

func FuzzParseFolder(f *testing.F) {
	f.Add("2016_03_24_21_37.out")
	f.Add("06_39_22_Nov_2026.out")
	f.Fuzz(func(t *testing.T, name string) {
		got, err := ParseFolder(name, time.UTC)
		if err != nil {
			return
		}
		if got.Time != got.Latest {
			t.Errorf("%q: two times in UTC", name)
		}
		again, err := ParseFolder(FolderName(got.Time), time.UTC)
		if err != nil || !again.Time.Equal(got.Time) {
			t.Errorf("%q: %v, again %v, %v", name, got, again, err)
		}
		if filepath.Base(name) != name || strings.ContainsAny(name, "/\x00") {
			t.Errorf("%q is no name of a folder", name)
		}
	})
}

// tree creates files below a new folder; the content of each is its name.
func tree(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		p := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestScan(t *testing.T) {
	root := tree(t,
		"2015/02-Feb/2015_02_27_10_00.out/log_tcp_complete",
		"2015/02-Feb/2015_02_27_11_00.out/log_tcp_complete.gz",
		"2015/02-Feb/2015_02_27_11_00.out/log_udp_complete",
		"2015/02-Feb/2015_02_27_11_00.out/log_udp_complete.gz", // gzip is running
		"2015/02-Feb/2015_02_27_11_00.out/log_novel_thing",
		"2015/02-Feb/2015_02_27_11_00.out/000/log_tcp_complete", // inside a histogram folder
		"2015/02-Feb/2015_02_27_11_00.out/LAST/ip_len_in",
		"2015/02-Feb/2015_02_27_11_00.out/addresses",
		"2015/02-Feb/2015_02_27_11_00.out/log_bad-name",
		"2015/02-Feb/2015_02_27_11_00.out/log_tcp_complete.1",
		"2015/02-Feb/2015_02_27_11_00.out/log_tcp_complete.zst", // younger than the .gz: zstd is running
		"2015/02-Feb/2015_02_27_11_00.out/log_chat_complete.bz2",
		"2015/02-Feb/2015_02_27_11_00.out/log_chat_messages.xz",
		"2015/02-Feb/2015_02_27_11_00.out/log_chat_messages.zst", // older
		"2015/02-Feb/2015_02_27_11_00.out/log_mm_complete.lz4",
		"2015/02-Feb/2015_02_27_11_00.out/log_mm_complete", // lz4 is running
		"2015/02-Feb/2015_02_27_11_00.out/log_video_complete/x",
		"2015/02-Feb/2015_02_27_11_00.out/.log_tcp_complete.gz.Ab1",
		"2015/2015_02_27_12_00.out.bak/log_tcp_complete.gz",
		"2015/2015_02_27_12_00.out.bak/log_tcp_complete",
		"2015/2015_02_27_12_00.out.bak/log_udp_complete.1",
		"2015/other/log_file", // not a log of Tstat
		"old/09_00_27_Feb_2015.out/log_tcp_complete",
		"log_tcp_complete",
		"CPanKey_2015_02_27_10_00",
	)
	for link, target := range map[string]string{
		"2015/loop":    root,                           // a loop to the root
		"again":        filepath.Join(root, "2015"),    // another path to it
		"gone":         filepath.Join(root, "nowhere"), // broken
		"2015/current": "02-Feb/2015_02_27_11_00.out",  // another name for a log folder
		"2015/0now":    "02-Feb/2015_02_27_11_00.out",
		"outside":      filepath.Join(tree(t, "2015_02_27_12_00.out/log_tcp_complete"), "2015_02_27_12_00.out"),
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"log_tcp_complete.gz", "log_tcp_complete.zst", "log_chat_messages.zst", "log_chat_messages.xz", "log_mm_complete.lz4", "log_mm_complete"} {
		at := time.Date(2024, 1, 1, i, 0, 0, 0, time.UTC)
		if err := os.Chtimes(filepath.Join(root, "2015/02-Feb/2015_02_27_11_00.out", name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Scan(context.Background(), root, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range got.Folders {
		for _, f := range d.Files {
			typ := "unknown"
			if f.Type != nil {
				typ = f.Type.Name
			}
			names = append(names, f.Rel+" "+typ)
		}
	}
	want := []string{
		"old/09_00_27_Feb_2015.out/log_tcp_complete log_tcp_complete",
		"2015/02-Feb/2015_02_27_10_00.out/log_tcp_complete log_tcp_complete",
		"2015/02-Feb/2015_02_27_11_00.out/log_chat_complete.bz2 log_chat_complete",
		"2015/02-Feb/2015_02_27_11_00.out/log_chat_messages.zst log_chat_messages",
		"2015/02-Feb/2015_02_27_11_00.out/log_mm_complete log_mm_complete",
		"2015/02-Feb/2015_02_27_11_00.out/log_novel_thing unknown",
		"2015/02-Feb/2015_02_27_11_00.out/log_tcp_complete.gz log_tcp_complete",
		"2015/02-Feb/2015_02_27_11_00.out/log_udp_complete log_udp_complete",
		"2015_02_27_12_00.out/log_tcp_complete log_tcp_complete",
	}
	if !slices.Equal(names, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	var passed []string
	for _, p := range got.Passed {
		passed = append(passed, fmt.Sprint(p.Rel, " ", p.Folder, " ", strings.Join(p.Types, " "), " ", !p.Time.IsZero()))
	}
	slices.Sort(passed)
	wantPassed := []string{
		". true log_tcp_complete false",
		"2015/02-Feb/2015_02_27_11_00.out/log_bad-name false log_bad true",
		"2015/02-Feb/2015_02_27_11_00.out/log_tcp_complete.1 false log_tcp_complete true",
		"2015/02-Feb/2015_02_27_11_00.out/log_video_complete false log_video_complete true",
		"2015/2015_02_27_12_00.out.bak true log_tcp_complete log_udp_complete false",
	}
	if !slices.Equal(passed, wantPassed) {
		t.Errorf("passed over\n%s\nwant\n%s", strings.Join(passed, "\n"), strings.Join(wantPassed, "\n"))
	}
	if len(got.Errors) != 1 || !strings.Contains(got.Errors[0].Error(), "gone") {
		t.Errorf("errors %v", got.Errors)
	}
	if one, err := Scan(context.Background(), filepath.Join(root, "2015/02-Feb/2015_02_27_10_00.out"), time.UTC); err != nil || len(one.Folders) != 1 || one.Folders[0].Rel != "." {
		t.Errorf("a single log folder: %v, %v", one, err)
	}
	if _, err := Scan(context.Background(), filepath.Join(root, "log_tcp_complete"), time.UTC); err == nil {
		t.Error("a file was scanned as a folder")
	}
}

// TestScanWithMatch checks that files accepted by Match belong to their log folder or
// are loose, and that several files for the same log are rejected.
func TestScanWithMatch(t *testing.T) {
	root := tree(t,
		"2015_02_27_10_00.out/log_tcp_complete.1",
		"2015_02_27_10_00.out/log_tcp_complete.1.gz", // gzip is running
		"2015_02_27_10_00.out/udp.log",
		"2015_02_27_10_00.out/note",
		"2015_02_27_10_00.out/000/tcp.log",
		"2015_02_27_11_00.out/log_tcp_complete",
		"2015_02_27_11_00.out/log_tcp_complete.1",
		"2015_02_27_12_00.out/log_tcp_complete.1",
		"2015_02_27_12_00.out/log_tcp_complete.2",
		"x.pcap.out/log_tcp_complete",
		"x.pcap.out/log_tcp_complete.xz", // xz is running
		"x.pcap.out/log_udp_complete",
		"x.pcap.out/.log_tcp_complete.1",
		"log_tcp_complete.1/log_tcp_complete.1", // a folder
	)
	if err := os.Symlink("x.pcap.out/log_tcp_complete", filepath.Join(root, "log_tcp_complete.7")); err != nil {
		t.Fatal(err)
	}
	got, err := ScanWith(context.Background(), root, ScanOptions{Location: time.UTC, Match: func(rel string) *LogType {
		switch name := filepath.Base(rel); {
		case strings.HasPrefix(name, "log_tcp_complete"), strings.HasPrefix(name, ".log_tcp_complete"):
			return TypeByName("log_tcp_complete")
		case name == "udp.log":
			return TypeByName("log_udp_complete")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range got.Folders {
		for _, f := range d.Files {
			names = append(names, f.Rel+" "+f.Name)
		}
	}
	for _, f := range got.Loose {
		names = append(names, f.Rel+" "+f.Name+" loose")
	}
	want := []string{
		"2015_02_27_10_00.out/log_tcp_complete.1 log_tcp_complete", "2015_02_27_10_00.out/udp.log log_udp_complete", "2015_02_27_11_00.out/log_tcp_complete log_tcp_complete",
		"log_tcp_complete.1/log_tcp_complete.1 log_tcp_complete loose", "log_tcp_complete.7 log_tcp_complete loose", "x.pcap.out/log_tcp_complete log_tcp_complete loose",
	}
	if !slices.Equal(names, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	var refused []string
	for _, err := range got.Errors {
		var e *AmbiguousError
		if !errors.As(err, &e) || e.Hint() == "" {
			t.Error(err)
			continue
		}
		refused = append(refused, strings.ReplaceAll(strings.Join(e.Paths, " "), root+"/", ""))
	}
	if fmt.Sprint(refused) != "[2015_02_27_11_00.out/log_tcp_complete 2015_02_27_11_00.out/log_tcp_complete.1 2015_02_27_12_00.out/log_tcp_complete.1 2015_02_27_12_00.out/log_tcp_complete.2]" {
		t.Errorf("refused %q", refused)
	}
	if len(got.Passed) != 1 || got.Passed[0].Rel != "x.pcap.out" || fmt.Sprint(got.Passed[0].Types) != "[log_udp_complete]" {
		t.Errorf("passed over %+v", got.Passed)
	}
}

func TestFinished(t *testing.T) {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		t.Fatal(err)
	}
	// The night when daylight saving time ends: 02_37 was opened before 02_08, and the
	// names do not show it.
	root := tree(t, "a/2021_10_31_01_37.out/log_x", "a/2021_10_31_02_37.out/log_x", "a/2021_10_31_02_08.out/log_x", "b/2021_10_30_00_00.out/log_x")
	finished := func() string {
		got, err := Scan(context.Background(), root, rome)
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, d := range got.Folders {
			if d.Finished(time.Now(), time.Hour) {
				s = append(s, d.Rel)
			}
		}
		return strings.Join(s, " ")
	}
	if got := finished(); got != "a/2021_10_31_01_37.out" {
		t.Errorf("finished: %s", got)
	}
	if err := os.MkdirAll(filepath.Join(root, "a/2021_10_31_03_09.out"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := finished(); got != "a/2021_10_31_01_37.out a/2021_10_31_02_08.out a/2021_10_31_02_37.out" {
		t.Errorf("with a later folder: %s", got)
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, p := range []string{"b/2021_10_30_00_00.out/log_x", "b/2021_10_30_00_00.out"} {
		if err := os.Chtimes(filepath.Join(root, p), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if got := finished(); !strings.HasPrefix(got, "b/2021_10_30_00_00.out") {
		t.Errorf("settled: %s", got)
	}
}

// TestFinishedClockBack checks that a folder whose name is ahead of the clock
// does not finish the one being written, not even when the clock passes that
// name.
func TestFinishedClockBack(t *testing.T) {
	now := time.Date(2026, 11, 29, 22, 30, 0, 0, time.UTC)
	type folder struct {
		name    string
		changed time.Duration // before now
	}
	const settle = 2 * time.Hour
	for name, tt := range map[string]struct {
		folders  []folder
		finished string
	}{
		"roll-over":      {[]folder{{"2026_11_29_21_22.out", 8 * time.Minute}, {"2026_11_29_22_22.out", time.Minute}}, "2026_11_29_21_22.out"},
		"zone went back": {[]folder{{"2026_11_30_06_10.out", 10 * time.Minute}, {"2026_11_29_22_22.out", 0}}, ""},
		"zone went back, then a roll-over": {[]folder{{"2026_11_30_06_10.out", 70 * time.Minute}, {"2026_11_29_21_22.out", 8 * time.Minute},
			{"2026_11_29_22_22.out", 0}}, "2026_11_29_21_22.out"},
		"zone went back 8 hours ago": {[]folder{{"2026_11_29_22_20.out", 8 * time.Hour}, {"2026_11_29_22_10.out", 0}}, "2026_11_29_22_20.out"},
		"clock was ahead, and is":    {[]folder{{"2026_11_29_23_50.out", -90 * time.Minute}, {"2026_11_29_22_22.out", 0}}, ""},
		"clock was ahead, passed":    {[]folder{{"2026_11_29_22_10.out", 15 * time.Minute}, {"2026_11_29_21_50.out", 0}}, ""},
		"settled":                    {[]folder{{"2026_11_29_23_50.out", 3 * time.Hour}, {"2026_11_29_22_22.out", 0}}, "2026_11_29_23_50.out"},
		"copied in any order":        {[]folder{{"2015_02_27_10_00.out", 0}, {"2015_02_27_11_00.out", time.Second}}, "2015_02_27_10_00.out"},
	} {
		t.Run(name, func(t *testing.T) {
			var files []string
			for _, f := range tt.folders {
				files = append(files, f.name+"/log_x")
			}
			root := tree(t, files...)
			for _, f := range tt.folders {
				at := now.Add(-f.changed)
				for _, p := range []string{filepath.Join(root, f.name, "log_x"), filepath.Join(root, f.name)} {
					if err := os.Chtimes(p, at, at); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := Scan(context.Background(), root, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			var finished []string
			for _, d := range got.Folders {
				if d.Finished(now, settle) {
					finished = append(finished, d.Name)
				}
			}
			if s := strings.Join(finished, " "); s != tt.finished {
				t.Errorf("finished: %q, want %q", s, tt.finished)
			}
		})
	}
}
