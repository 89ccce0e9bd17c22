package textfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
)

// TestMetricsOfStreams checks that the counts of a probe's streams are added up.
func TestMetricsOfStreams(t *testing.T) {
	one, two, other := sampleSummary(), sampleSummary(), sampleSummary()
	one.Probe, two.Probe, other.Probe = "turin", "turin", "rome"
	now := time.Unix(1700000000, 0)
	runs := ByProbe(map[string]Run{"a": {one, nil, now}, "b": {two, errors.New("x"), now.Add(time.Second)}, "c": {other, nil, now}})
	if r := runs["turin"]; len(runs) != 2 || r.Summary.Total.Rows != 2*runs["rome"].Summary.Total.Rows || r.Failure == nil || !r.Ended.Equal(now.Add(time.Second)) {
		t.Errorf("%+v", runs)
	}
}

func TestMetrics(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "t.prom"), Version: "v1"}
	now := time.Unix(1700000000, 0)
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	has := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			if !strings.Contains("\n"+read(), "\n"+line+"\n") {
				t.Errorf("no line %q in\n%s", line, read())
			}
		}
	}
	// A failure before any success writes no success.
	if err := f.WriteImports(map[string]Run{"turin": {nil, errors.New("x"), now}}, nil); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(read(), metricSuccess) {
		t.Errorf("success without a success:\n%s", read())
	}
	if err := f.WriteImports(map[string]Run{"turin": {sampleSummary(), nil, now}}, nil); err != nil {
		t.Fatal(err)
	}
	has(`tstatrepo_import_last_success_timestamp_seconds{probe="turin"} 1.7e+09`,
		`tstatrepo_import_last_run_success{probe="turin"} 1`,
		`tstatrepo_import_last_run_duration_seconds{probe="turin"} 1.5`,
		`tstatrepo_import_last_run_rows{probe="turin",type="log_tcp_complete"} 123456`,
		`tstatrepo_import_last_run_left_open_files{probe="turin",type="log_udp_complete"} 1`,
		`tstatrepo_import_last_run_others_files{probe="turin",type="log_udp_complete"} 5`,
		`tstatrepo_import_last_run_claimed_files{probe="turin",type="log_udp_complete"} 6`)
	if strings.Contains(read(), "_total") || !strings.Contains(read(), `version="v1"} 1`) {
		t.Errorf("names:\n%s", read())
	}
	// A failure keeps the time of the last success.
	if err := f.WriteImports(map[string]Run{"turin": {nil, errors.New("x"), now.Add(time.Hour)}}, nil); err != nil {
		t.Fatal(err)
	}
	has(`tstatrepo_import_last_success_timestamp_seconds{probe="turin"} 1.7e+09`,
		`tstatrepo_import_last_run_timestamp_seconds{probe="turin"} 1.7000036e+09`,
		`tstatrepo_import_last_run_success{probe="turin"} 0`)
	if err := (File{Path: filepath.Join(f.Path, "x")}).WriteImports(map[string]Run{"turin": {nil, nil, now}}, nil); err == nil {
		t.Error("no error without a folder")
	}
}

// TestSuccessSurvivesRestart writes the metrics of a repository that has restarted. One
// probe succeeds first, and overwrites the file. Then another probe fails.
func TestSuccessSurvivesRestart(t *testing.T) {
	now := time.Unix(1700000000, 0)
	path := filepath.Join(t.TempDir(), "t.prom")
	runs := map[string]Run{"turin": {nil, nil, now}, "rome": {nil, nil, now}}
	if err := (File{Path: path}).WriteImports(runs, nil); err != nil {
		t.Fatal(err)
	}
	f := File{Path: path}
	f.Former = f.Successes()
	runs = map[string]Run{}
	for _, probe := range []string{"turin", "rome"} {
		runs[probe] = Run{nil, map[string]error{"rome": errors.New("x")}[probe], now.Add(time.Hour)}
		if err := f.WriteImports(runs, nil); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if want := metricSuccess + `{probe="rome"} 1.7e+09` + "\n"; err != nil || !strings.Contains(string(text), want) {
		t.Errorf("no %s in\n%s, %v", want, text, err)
	}
}

// sampleSummary returns the summary of an import of two types.
func sampleSummary() *bulk.Summary {
	return &bulk.Summary{
		Types: []*bulk.TypeSummary{
			{Name: "log_tcp_complete", Files: 12, Rows: 123456, Rejects: 3},
			{Name: "log_udp_complete", Files: 2, Rows: 77, LeftOpen: 1, Others: 5, Claimed: 6},
		},
		Total:   bulk.TypeSummary{Files: 14, Rows: 123533, Rejects: 3, LeftOpen: 1, Others: 5, Claimed: 6},
		Seconds: 1.5,
	}
}
