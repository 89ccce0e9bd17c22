// Package rrdtest provides tests with real RRDs from Tstat, and with rrdtool to create
// and read other RRDs.
package rrdtest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// samples is an archive of RRDs that Tstat 3.3.0 created from a trace of March 2016: 198
// files with a step of 300 s below rrds/, and 7 files with a step of 60 s below
// rrds/step60/.
//
//go:embed testdata/rrds.tar.gz
var samples []byte

// Samples unpacks the sample RRDs into a temporary folder of the test, and returns the
// folder that contains them.
func Samples(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := Extract(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "rrds")
}

// Extract unpacks the sample RRDs into dir/rrds.
func Extract(dir string) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(samples))
	if err != nil {
		return err
	}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
}

// Tool is a running rrdtool that reads commands from a pipe.
type Tool struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// Start starts rrdtool. If rrdtool is not installed, the test is skipped, or fails
// on CI.
func Start(t testing.TB) *Tool {
	t.Helper()
	if _, err := exec.LookPath("rrdtool"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no rrdtool: apt-get install rrdtool")
		}
		t.Skip("no rrdtool: apt-get install rrdtool")
	}
	cmd := exec.Command("rrdtool", "-")
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // ends with its input
	})
	return &Tool{t: t, in: in, out: bufio.NewReader(out)}
}

// Try formats an rrdtool command like fmt.Sprintf, runs it, and returns the lines of its
// output.
func (r *Tool) Try(format string, args ...any) ([]string, error) {
	if _, err := fmt.Fprintf(r.in, format+"\n", args...); err != nil {
		return nil, err
	}
	var lines []string
	for {
		line, err := r.out.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "OK "):
			return lines, nil
		case strings.HasPrefix(line, "ERROR: "):
			return nil, errors.New(line)
		}
		lines = append(lines, line)
	}
}

// Do is like Try, but the test fails if the command fails.
func (r *Tool) Do(format string, args ...any) []string {
	r.t.Helper()
	lines, err := r.Try(format, args...)
	if err != nil {
		r.t.Fatalf(format+": %v", append(args, err)...)
	}
	return lines
}

// Info returns the output of "rrdtool info" by key, for example "step" -> "300".
func (r *Tool) Info(file string) map[string]string {
	r.t.Helper()
	info := map[string]string{}
	for _, line := range r.Do("info %s", file) {
		k, v, _ := strings.Cut(line, " = ")
		info[k] = strings.Trim(v, `"`)
	}
	return info
}

// Number returns the value of a key in the output of Info as a whole number, or 0 if the
// value is not a whole number.
func Number(info map[string]string, key string) int64 {
	n, _ := strconv.ParseInt(info[key], 10, 64)
	return n
}

// Row is a line that "rrdtool fetch" prints: a time and the value of each data source.
type Row struct {
	Time   int64
	Values []float64
}

// Fetch returns the rows that "rrdtool fetch" prints.
func (r *Tool) Fetch(file, function string, resolution, start, end int64) []Row {
	r.t.Helper()
	var rows []Row
	for _, line := range r.Do("fetch %s %s -r %d -s %d -e %d", file, function, resolution, start, end) {
		t, text, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		row := Row{}
		row.Time, _ = strconv.ParseInt(t, 10, 64)
		for _, f := range strings.Fields(text) {
			v, err := strconv.ParseFloat(strings.TrimPrefix(f, "-n"), 64)
			if err != nil {
				v = math.NaN()
			}
			row.Values = append(row.Values, v)
		}
		rows = append(rows, row)
	}
	return rows
}

// Points returns the points that rrdfile's Reader.Read must return for the same
// arguments: for each data source, a map from Unix time to value. Each point is from the
// finest archive that reaches back to its time. Unfinished steps and NaN are left out.
// All points are from archives with the same consolidation function: the first of
// AVERAGE, LAST, MAX and MIN for which the file has archives.
func (r *Tool) Points(file string, after int64) []map[int64]float64 {
	r.t.Helper()
	info := r.Info(file)
	step, update := Number(info, "step"), Number(info, "last_update")
	type archive struct{ width, rows int64 }
	archives := map[string][]archive{}
	for i := 0; ; i++ {
		function := info[fmt.Sprintf("rra[%d].cf", i)]
		if function == "" {
			break
		}
		archives[function] = append(archives[function], archive{
			step * Number(info, fmt.Sprintf("rra[%d].pdp_per_row", i)), Number(info, fmt.Sprintf("rra[%d].rows", i)),
		})
	}
	var best string
	for _, function := range []string{"MIN", "MAX", "LAST", "AVERAGE"} {
		if archives[function] != nil {
			best = function
		}
	}
	slices.SortFunc(archives[best], func(a, b archive) int { return cmp.Compare(a.width, b.width) })
	var points []map[int64]float64
	begin := int64(math.MaxInt64) // earliest time of the finer archives
	for _, a := range archives[best] {
		last := update - update%a.width
		first := last - a.width*a.rows
		for _, row := range r.Fetch(file, best, a.width, first, last) {
			for len(points) < len(row.Values) {
				points = append(points, map[int64]float64{})
			}
			if row.Time <= first || row.Time > last || row.Time > begin || row.Time <= after {
				continue
			}
			for ds, v := range row.Values {
				if !math.IsNaN(v) {
					points[ds][row.Time] = v
				}
			}
		}
		begin = min(begin, first)
	}
	return points
}
