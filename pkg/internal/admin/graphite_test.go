//go:build linux

package admin

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/carbontest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// samplesAllWays returns a folder with a sample of each histogram in all of its
// directions, of which rrdtest has only one.
func samplesAllWays(t *testing.T) string {
	t.Helper()
	dir := rrdtest.Samples(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.rrd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, d := range []string{"_in.", "_out.", "_loc."} {
			other := filepath.Join(dir, direction.ReplaceAllString(filepath.Base(file), d))
			if err := os.Link(file, other); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// TestGraphiteBoard runs the targets of the dashboard on a real graphite-web with the
// points of real RRDs.
func TestGraphiteBoard(t *testing.T) {
	const begin, end = 1458855000, 1458865000 // time range of the samples
	dir := t.TempDir()
	schemas := filepath.Join(dir, "storage-schemas.conf")
	if err := os.WriteFile(schemas, []byte(carbontest.YearsOf300), 0o644); err != nil {
		t.Fatal(err)
	}
	whisper := filepath.Join(dir, "whisper")
	dest, err := rrdpush.ParseDest("whisper:" + whisper + "?schemas=" + schemas)
	if err != nil {
		t.Fatal(err)
	}
	naming, _ := rrdfile.NamingOf("default", nil)
	push, err := rrdpush.New(rrdpush.Options{Sources: []string{samplesAllWays(t)}, Target: rrdpush.Target{Dest: dest, Probe: "turin", Prefix: "tstat",
		Naming: naming, Mode: "default", SpoolSize: 64 << 20, StateDir: t.TempDir(), Stdout: io.Discard}})
	if err != nil {
		t.Fatal(err)
	}
	defer push.Close()
	for _, err := range push.Run(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
	}
	web := carbontest.StartWeb(t, whisper)
	call := regexp.MustCompile(`^(aliasByNode|alias|sumSeries|highestAverage)\((.*?)(?:, (-1|10|'\w+'))?\)$`)
	for _, p := range readDashboard(t, "tstat-graphite.json", "graphite").Panels {
		for _, q := range p.Targets {
			target := strings.NewReplacer("$prefix", "tstat", "$probe", "turin").Replace(q.Target)
			// The metrics of the target, and the functions applied to them.
			metrics, title, sum, largest := target, "", false, false
			for f := call.FindStringSubmatch(metrics); f != nil; f = call.FindStringSubmatch(metrics) {
				metrics = f[2]
				switch f[1] {
				case "alias":
					title = strings.Trim(f[3], "'")
				case "sumSeries":
					sum = true
				case "highestAverage":
					largest = true
				}
			}
			raw := web.Points([]string{metrics}, begin, end)
			got := web.Points([]string{target}, begin, end)
			want := carbontest.Points{}
			for name, points := range raw {
				switch {
				case title == "":
					want[name[strings.LastIndexByte(name, '.')+1:]] = points
				case sum && want[title] != nil:
					for at, v := range points {
						want[title][at] += v
					}
				default:
					want[title] = points
				}
			}
			if largest && len(want) > 10 {
				if len(got) != 10 {
					t.Errorf("%s: %d series", p.Title, len(got))
				}
			} else if len(got) != len(want) {
				t.Errorf("%s: %d series, expected %d: %s", p.Title, len(got), len(want), target)
			}
			for name, points := range got {
				if slices.Contains([]string{"", path.Base(target)}, name) || want[name] == nil || points == nil {
					t.Errorf("%s: a series is named %q", p.Title, name)
				}
				for at, v := range points {
					if d := v - want[name][at]; d > 1e-6 || d < -1e-6 {
						t.Errorf("%s: %s: %g, expected %g", p.Title, name, v, want[name][at])
					}
				}
			}
			if got.Count() == 0 {
				t.Errorf("%s: no points: %s", p.Title, target)
			}
		}
	}
}
