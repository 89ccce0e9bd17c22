// Command bench measures imports and streams against their peers and against the targets
// of the project: `make bench`. It generates load (pkg/tstatgen), builds the
// product and DuckDB (pkg/duckdb), and runs both in alternating pairs on the
// same two CPUs.
//
// What it makes lies in a folder below $TMPDIR and stays there, so that the
// next run need not generate it again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// bench holds the settings of a run and its results so far.
type bench struct {
	root  string // the repository
	dir   string // load, programs and output
	rows  int64
	pairs int
	files int // of the case again
	// of the case mplane
	components int
	specs      int // a second
	limits
	results []result
	median  float64 // speed of ours in the last comparison
}

// result is one line of the report.
type result struct {
	name       string
	ours, peer string // rate: median (quartiles)
	ratio      string
	target     string
	met        bool
	rss        string // peak memory, ours / peer
}

// A benchCase measures one thing and appends to b.results.
var cases = []struct {
	name, what string
	run        func(*bench, context.Context) error
}{
	{"table", "to Parquet; peer: DuckDB read_csv into a table", (*bench).caseTable},
	{"parquet", "to Parquet; peer: DuckDB COPY (read_csv) TO Parquet, unordered, zstd", (*bench).caseParquet},
	{"onefile", "the same with all rows in one file; no target", (*bench).caseOneFile},
	{"scale", "time and memory at 1, 2, 4 and 10 times the rows", (*bench).caseScale},
	{"copy", "to a copy; peer: cp -r, then sync", (*bench).caseCopy},
	{"compact", "compaction of a Parquet store; peer: cat of its files into one for each day, then sync", (*bench).caseCompact},
	{"databases", "to PostgreSQL and DBStream; peer: two parallel psql \\copy of converted files", (*bench).caseDatabases},
	{"importers", "two imports with one job each into one PostgreSQL; peer: one with two jobs", (*bench).caseImporters},
	{"clickhouse", "to ClickHouse; peer: two parallel curl that post converted files", (*bench).caseClickHouse},
	{"math", "from a MATH probe of ours to a copy; peer: curl over one connection, then sync", (*bench).caseMath},
	{"stream", "live lines to standard output; peer: socat", (*bench).caseStream},
	{"follow", "a followed folder to TCP, and the latency", (*bench).caseFollow},
	{"nats", "live lines to JetStream; peer: a bare publisher", (*bench).caseNATS},
	{"kafka", "live lines to a Kafka broker in memory; peer: franz-go's bare producer", (*bench).caseKafka},
	{"connections", "memory with a thousand connections", (*bench).caseConnections},
	{"rrdread", "reads 2,000 RRDs with a day of points; peer: python3-rrdtool's fetch", (*bench).caseRRDRead},
	{"rrdpush", "pushes them to a sink that counts; peer: mPlane's exporter and importer, emulated", (*bench).caseRRDPush},
	{"graphite", "pushes them into carbon and VictoriaMetrics; peer: nc with a prepared file", (*bench).caseGraphite},
	{"again", "a second run over many files that are stored already", (*bench).caseAgain},
	{"mplane", "a supervisor with many components, then with many specifications; no peer", (*bench).caseMPlane},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	missed, err := run(ctx)
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	case missed > 0:
		fmt.Fprintf(os.Stderr, "bench: %d targets missed\n", missed)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(ctx context.Context) (missed int, err error) {
	b := &bench{}
	var only string
	flag.StringVar(&b.dir, "dir", filepath.Join(os.TempDir(), "tstatrepo-bench"), "folder for load and output")
	flag.StringVar(&only, "case", "", "comma list of the cases to run; default all")
	flag.Int64Var(&b.rows, "rows", 1_000_000, "rows of log_tcp_complete; targets hold for a million and more")
	flag.IntVar(&b.pairs, "pairs", 5, "measured pairs of each case, after a warm-up")
	flag.IntVar(&b.files, "files", 10_000, "files of the case \"again\"")
	flag.IntVar(&b.components, "components", 1000, "components of the case \"mplane\"")
	flag.IntVar(&b.specs, "specifications", 1000, "specifications a second of the case \"mplane\"")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: go run ./pkg/bench [flags]\n\nCases:\n")
		for _, c := range cases {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-11s %s\n", c.name, c.what)
		}
		fmt.Fprintf(flag.CommandLine.Output(), "\nFlags:\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	wanted := map[string]bool{}
	for _, name := range strings.Split(only, ",") {
		wanted[name] = true
	}
	known := wanted[""]
	for _, c := range cases {
		known = known || wanted[c.name]
	}
	if flag.NArg() > 0 || b.rows < 1000 || b.pairs < 1 || b.files < 1 || b.components < 1 || b.specs < 1 || !known {
		flag.Usage()
		return 0, errUsage
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return 0, fmt.Errorf("not inside the repository: %w", err)
	}
	b.root = strings.TrimSpace(string(root))
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return 0, err
	}
	defer os.RemoveAll(b.out())
	b.limits = newLimits(ctx)
	if err := b.build(ctx); err != nil {
		return 0, err
	}
	for _, c := range cases {
		if !wanted[""] && !wanted[c.name] {
			continue
		}
		b.say("case %s: %s", c.name, c.what)
		if err := c.run(b, ctx); err != nil {
			return 0, fmt.Errorf("case %s: %w", c.name, err)
		}
	}
	return b.report(), nil
}

// say tells how far the run is; the report goes to stdout.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// report prints the table and returns how many targets were missed.
func (b *bench) report() (missed int) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\tours: median (q1-q3)\tpeer: median (q1-q3)\tratio\ttarget\t\tpeak RSS, MiB: ours / peer")
	for _, r := range b.results {
		verdict := ""
		if r.target == "" {
			r.target = "-"
		} else if r.met {
			verdict = "ok"
		} else {
			verdict = "MISS"
			missed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.ours, r.peer, r.ratio, r.target, verdict, r.rss)
	}
	w.Flush()
	fmt.Printf("\n%d rows unless said otherwise; %d pairs A B A B after a warm-up; ratio: median of the pairs' ratios of speed.\n", b.rows, b.pairs)
	fmt.Printf("%s %s/%s, %d CPUs (%s), %s; each command with %s.\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpuModel(), totalMemory(), b.what)
	return missed
}

func cpuModel() string {
	if s := procValue("/proc/cpuinfo", "model name"); s != "" {
		return s
	}
	return "unknown model"
}

func totalMemory() string {
	var kib int64
	if _, err := fmt.Sscanf(procValue("/proc/meminfo", "MemTotal"), "%d kB", &kib); err != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%.1f GiB of memory", float64(kib)/(1<<20))
}

// procValue is the first value of a key in a "key: value" file.
func procValue(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(text), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
