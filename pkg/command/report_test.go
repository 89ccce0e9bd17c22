package command

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
)

func sampleSummary() *bulk.Summary {
	first := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	return &bulk.Summary{
		Probe: "turin",
		Types: []*bulk.TypeSummary{
			{Name: "log_tcp_complete", Files: 12, Rows: 123456, Rejects: 3, Text: 5 << 20, First: first, Last: first.Add(time.Hour)},
			{Name: "log_udp_complete", Files: 2, Rows: 77, Text: 900, LeftOpen: 1, Others: 5, Claimed: 6, First: first, Last: first.Add(2 * time.Hour)},
		},
		Total:          bulk.TypeSummary{Files: 14, Rows: 123533, Rejects: 3, Text: 5<<20 + 900, LeftOpen: 1, Others: 5, Claimed: 6},
		Open:           []bulk.OpenFolder{{Path: "/d/x\x1b.out", Files: 1}},
		Seconds:        1.5,
		BytesPerSecond: 3 << 20,
		RowsPerSecond:  82355.3,
		RejectFile:     "/s/rejects.txt",
	}
}

func TestSummary(t *testing.T) {
	var b bytes.Buffer
	if err := writeSummary(&b, sampleSummary(), time.UTC); err != nil {
		t.Fatal(err)
	}
	const want = `type              files     rows  rejects  left open  by others  claimed     text
log_tcp_complete     12  123,456        3          0          0        0  5.0 MiB
log_udp_complete      2       77        0          1          5        6    900 B
total                14  123,533        3          1          5        6  5.0 MiB
probe     turin
folders   2024-05-01 12:00 to 2024-05-01 14:00 (UTC)
duration  1.5s, 3.0 MiB/s, 82,355 rows/s
left open: 1 file in /d/x\x1b.out (--include-open)
rejected lines are in /s/rejects.txt
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}

	var open []bulk.OpenFolder
	for i := range 4 {
		open = append(open, bulk.OpenFolder{Path: fmt.Sprintf("/d/%d.out", i), Files: 1000})
	}
	for _, c := range []struct {
		sum  bulk.Summary
		want string
	}{
		{bulk.Summary{Planned: true}, "nothing to import: no log of the wanted types and times\n"},
		{bulk.Summary{Total: bulk.TypeSummary{Skipped: 1234567, LeftOpen: 4000}, Open: open, Probe: "p", Planned: true},
			"nothing to import: 1,234,567 files stored already\nleft open: 4,000 files in 4 folders, from /d/0.out to /d/3.out (--include-open)\n"},
		{bulk.Summary{Total: bulk.TypeSummary{LeftOpen: 1000}, Open: open[:1], DryRun: true, Planned: true},
			"nothing to import: Tstat may still write to all files\nleft open: 1,000 files in /d/0.out (--include-open)\n"},
		// An interrupt arrived before all files were examined.
		{bulk.Summary{}, "type   files  rows\ntotal      0     0\nduration  0s, 0 B/s, 0 rows/s\n"},
		{bulk.Summary{Left: 3, Planned: true}, "type   files  rows\ntotal      0     0\nduration  0s, 0 B/s, 0 rows/s\n"},
	} {
		b.Reset()
		if err := writeSummary(&b, &c.sum, time.UTC); err != nil {
			t.Fatal(err)
		}
		if b.String() != c.want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), c.want)
		}
	}
}

func TestWarnOpen(t *testing.T) {
	for _, c := range []struct {
		sum  bulk.Summary
		want bool
	}{
		{bulk.Summary{Total: bulk.TypeSummary{LeftOpen: 3, Files: 1, Skipped: 1}, Planned: true}, true},
		{bulk.Summary{Total: bulk.TypeSummary{LeftOpen: 3, Files: 1, Skipped: 2}, Planned: true}, false},
		{bulk.Summary{Total: bulk.TypeSummary{LeftOpen: 3, Failed: 3}, Planned: true}, false},
		{bulk.Summary{Total: bulk.TypeSummary{LeftOpen: 3}, Left: 3, Planned: true}, false}, // interrupted, or a store was unavailable
		{bulk.Summary{Total: bulk.TypeSummary{LeftOpen: 3}}, false},
	} {
		var b bytes.Buffer
		c.sum.Open = []bulk.OpenFolder{{Path: "/d", Files: 3}}
		warnOpen(slog.New(slog.NewTextHandler(&b, nil)), &c.sum)
		if got := strings.Contains(b.String(), "more files left open than stored"); got != c.want {
			t.Errorf("%+v: warned: %v", c.sum.Total, got)
		}
	}
}

// TestReport checks where each output goes, and that nothing else is printed.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name           string
		b              config.ImportBulk
		tty            bool
		stdout, stderr bool
	}{
		{"cron", config.ImportBulk{}, false, false, false},
		{"terminal", config.ImportBulk{}, true, false, true},
		{"verbose", config.ImportBulk{Output: config.Output{Verbose: true}}, false, false, true},
		{"quiet", config.ImportBulk{Output: config.Output{Quiet: true}}, true, false, false},
		{"json", config.ImportBulk{Output: config.Output{JSON: true}}, true, true, false},
		{"json verbose", config.ImportBulk{Output: config.Output{JSON: true, Verbose: true}}, false, true, true},
		{"dry run", config.ImportBulk{DryRun: true}, true, true, false},
		{"dry run in cron", config.ImportBulk{DryRun: true, Output: config.Output{Quiet: true}}, false, true, false},
	} {
		var stdout, stderr bytes.Buffer
		if err := (&importBulk{ImportBulk: tt.b}).report(&stdout, console.New(&stderr, tt.tty), sampleSummary()); err != nil {
			t.Fatal(err)
		}
		if (stdout.Len() > 0) != tt.stdout || (stderr.Len() > 0) != tt.stderr {
			t.Errorf("%s: stdout %q, stderr %q", tt.name, &stdout, &stderr)
		}
		if tt.b.JSON && !strings.HasPrefix(stdout.String(), "{\n  \"probe\": \"turin\",\n") {
			t.Errorf("%s: %s", tt.name, &stdout)
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if err := (&importBulk{ImportBulk: config.ImportBulk{Output: config.Output{JSON: true}}}).report(full, console.New(full, false), sampleSummary()); err == nil {
		t.Error("a summary that was not written is no error")
	}
}
