// Command bench measures tstatrepo against other programs and against the project's
// targets: `make bench`. It generates load (cmd/tstatgen) and builds tstatrepo and its
// peers, such as DuckDB (pkg/internal/tools/duckdb). Each case runs tstatrepo and a peer
// alternately on the same two CPUs. With -base the peer is tstatrepo built from an older
// commit.
//
// Load and programs are kept in a folder below $TMPDIR for the next run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// bench holds the settings and results of a run.
type bench struct {
	root  string // of the source tree
	dir   string // load, programs and output
	rows  int64
	pairs int
	files int // for the cases "again" and "small"
	// for the case "mplane"
	components int
	specs      int // specifications per second
	limits
	ours   string // tstatrepo built from this tree
	binary string // tstatrepo that the next command runs
	base   *base  // nil: the peers are other programs
	log    io.Writer

	results []result
	ran     []benchCase
	last    reading // noise reading when the last result was added
	leftOut []string
	median  float64 // speed of tstatrepo in the last comparison
}

// result is one line of the report.
type result struct {
	name       string
	ours, peer string // rate: median (quartiles)
	ratio      string
	target     string
	met        bool
	rss        string // peak memory, ours / peer
	noise      noise
}

// benchCase is a named measurement. Its function run adds results to b.results.
type benchCase struct {
	name, what string
	run        func(*bench, context.Context) error
	needs      string // programs, apart from tstatrepo
	peerNeeds  string // further programs of the peer
	alike      string // why the case is left out when the peer is an older tstatrepo
}

var cases = []benchCase{
	{name: "table", what: "to Parquet; peer: DuckDB read_csv into a table, types given, 2 threads, 4 GB", run: (*bench).caseTable, peerNeeds: "tstatduck", alike: "the same as parquet"},
	{name: "parquet", what: "to Parquet; peer: DuckDB COPY (read_csv) TO Parquet, types given, unordered, zstd 1, 2 threads, 4 GB", run: (*bench).caseParquet, peerNeeds: "tstatduck"},
	{name: "onefile", what: "the same with all rows in one file", run: (*bench).caseOneFile, peerNeeds: "tstatduck"},
	{name: "select", what: "15 columns to Parquet; peer: DuckDB COPY (SELECT of these from read_csv) TO Parquet", run: (*bench).caseSelect, peerNeeds: "tstatduck", alike: "0.9.0 has no selection"},
	{name: "anonymize", what: "addresses of 1,000,000 clients to Parquet with Crypto-PAn; peer: the same without", run: (*bench).caseAnonymize, alike: "0.9.0 does not anonymize"},
	{name: "cores", what: "one file to Parquet with two CPUs; peer: the same with one", run: (*bench).caseCores, alike: "it compares numbers of CPUs"},
	{name: "scale", what: "time and memory at 1, 2, 4 and 10 times the rows", run: (*bench).caseScale},
	{name: "copy", what: "to a copy; peer: cp -r, then sync", run: (*bench).caseCopy},
	{name: "small", what: "many small files to Parquet and to a copy; peer: cp -r, then sync", run: (*bench).caseSmall},
	{name: "compact", what: "compaction of a Parquet store; peer: cat of its files into one for each day, then sync", run: (*bench).caseCompact},
	{name: "databases", what: "to PostgreSQL and DBStream; peer: two parallel awk that drop headers and replace ---, each into psql \\copy to one plain table with the same columns", run: (*bench).caseDatabases, needs: "postgresql"},
	{name: "importers", what: "two imports with one job each into one PostgreSQL; peer: one with two jobs", run: (*bench).caseImporters, needs: "postgresql"},
	{name: "clickhouse", what: "to ClickHouse; peer: two parallel curl that post converted files", run: (*bench).caseClickHouse, needs: "clickhouse-server", peerNeeds: "curl"},
	{name: "math", what: "from tstatrepo's MATH probe to a copy; peer: curl over one connection, then sync", run: (*bench).caseMath, peerNeeds: "curl"},
	{name: "stream", what: "live lines to standard output; peer: socat", run: (*bench).caseStream, peerNeeds: "socat"},
	{name: "follow", what: "a followed folder to TCP, and the latency", run: (*bench).caseFollow},
	{name: "nats", what: "live lines to JetStream; peer: a bare publisher", run: (*bench).caseNATS, needs: "nats-server"},
	{name: "kafka", what: "live lines to a Kafka broker in memory; peer: franz-go's bare producer", run: (*bench).caseKafka, needs: "kafkapeer"},
	{name: "connections", what: "memory with a thousand connections", run: (*bench).caseConnections},
	{name: "rrdread", what: "reads 2,000 RRDs with a day of points; peer: python3-rrdtool's fetch", run: (*bench).caseRRDRead, needs: "rrdread rrdtool", peerNeeds: "python3-rrdtool",
		alike: "it runs no command of tstatrepo"},
	{name: "rrdpush", what: "pushes them to a sink that counts; peer: mPlane's exporter and importer, emulated", run: (*bench).caseRRDPush, needs: "rrdtool", peerNeeds: "python3-rrdtool"},
	{name: "graphite", what: "pushes them into carbon and VictoriaMetrics; peer: nc with a prepared file", run: (*bench).caseGraphite,
		needs: "rrdtool carbon-cache victoria-metrics", peerNeeds: "netcat-openbsd"},
	{name: "again", what: "a second run over many files that are stored already", run: (*bench).caseAgain},
	{name: "mplane", what: "a supervisor with many components, then with many specifications; no peer", run: (*bench).caseMPlane},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := run(ctx)
	if err != nil && !errors.Is(err, errUsage) {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if missed > 0 {
		fmt.Fprintf(os.Stderr, "bench: %d targets missed\n", missed)
	}
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil || missed > 0:
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(ctx context.Context) (missed int, err error) {
	b := &bench{log: os.Stderr}
	adoptOrphans()
	var only, commit string
	flag.StringVar(&b.dir, "dir", filepath.Join(os.TempDir(), "tstatrepo-bench"), "folder for load and output")
	flag.StringVar(&only, "case", "", "comma list of the cases to run; default all")
	flag.StringVar(&commit, "base", "", "measure against tstatrepo of this `commit` in place of other programs")
	flag.Int64Var(&b.rows, "rows", 1_000_000, "rows of log_tcp_complete; targets hold for a million and more")
	flag.IntVar(&b.pairs, "pairs", 0, "measured pairs of each case, after a warm-up; 0: 5, or 9 with -base")
	flag.IntVar(&b.files, "files", 10_000, "files of the cases \"again\" and \"small\"")
	flag.IntVar(&b.components, "components", 1000, "components of the case \"mplane\"")
	flag.IntVar(&b.specs, "specifications", 500, "specifications a second of the case \"mplane\"")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: go run ./pkg/internal/tools/bench [flags]\n\nCases:\n")
		for _, c := range cases {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-11s %s\n", c.name, c.what)
		}
		fmt.Fprintf(flag.CommandLine.Output(), "\nFlags:\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	wanted, known := choose(only)
	if flag.NArg() > 0 || b.rows < 1000 || b.pairs < 0 || b.files < 1 || b.components < 1 || b.specs < 1 || !known {
		flag.Usage()
		return 0, errUsage
	}
	if b.pairs == 0 {
		b.pairs = 5
		if commit != "" {
			b.pairs = 9
		}
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
	if commit != "" {
		wanted = b.comparable(wanted)
	}
	builds, needs := requirements(wanted, commit != "")
	if err := missing(ctx, needs); err != nil {
		return 0, err
	}
	b.limits = newLimits(ctx)
	if err := b.build(ctx, builds); err != nil {
		return 0, err
	}
	b.ours = filepath.Join(b.dir, "tstatrepo")
	b.binary = b.ours
	if commit != "" {
		if b.base, err = b.buildBase(ctx, commit); err != nil {
			return 0, err
		}
	}
	err = b.runCases(ctx, wanted)
	os.RemoveAll(b.out())
	return b.report(os.Stdout), err
}

// choose returns the cases named in a comma-separated list, or all cases if the list is
// empty. known is false if any name is unknown.
func choose(list string) (chosen []benchCase, known bool) {
	if list == "" {
		return cases, true
	}
	names := strings.Split(list, ",")
	for _, c := range cases {
		if slices.Contains(names, c.name) {
			chosen = append(chosen, c)
		}
	}
	return chosen, len(chosen) == len(names)
}

// add adds results that were measured together. Each gets the noise since the previous
// call to add, or since the start of the case.
func (b *bench) add(list ...result) {
	now := readNoise("/proc")
	for _, r := range list {
		r.noise = now.since(b.last)
		b.results = append(b.results, r)
	}
	b.last = now
}

// runCases runs all cases, even if some fail. Its error names the failed cases.
func (b *bench) runCases(ctx context.Context, list []benchCase) error {
	var failed []string
	for _, c := range list {
		b.logf("case %s: %s", c.name, c.what)
		b.ran = append(b.ran, c)
		b.last = readNoise("/proc")
		err := c.run(b, ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("case %s: %w", c.name, ctx.Err())
		}
		if err != nil {
			b.logf("case %s failed: %v", c.name, err)
			failed = append(failed, c.name)
		}
	}
	if failed != nil {
		return fmt.Errorf("failed cases: %s", strings.Join(failed, ", "))
	}
	return nil
}

// logf prints progress to stderr; stdout is for the report.
func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.log, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// report prints the table of results and returns the number of missed targets.
func (b *bench) report(out io.Writer) (missed int) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\tours: median (q1-q3)\tpeer: median (q1-q3)\tratio: median (min-max)\ttarget\t\tpeak RSS, MiB: ours / peer\tCPUs: others + stolen")
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
		noisy := ""
		if r.noise.loud() {
			noisy = " noisy"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s%s\n", r.name, r.ours, r.peer, r.ratio, r.target, verdict, r.rss, r.noise, noisy)
	}
	w.Flush()
	fmt.Fprintf(out, "\n%s. %d rows unless said otherwise; %d pairs A B B A after a warm-up; ratio: of the speeds of each pair.\n"+
		"noisy: other processes and the host took more than %g of a CPU.\n", time.Now().Format(time.DateOnly), b.rows, b.pairs, maxNoise)
	if b.base == nil {
		for _, c := range b.ran {
			fmt.Fprintf(out, "%s: %s.\n", c.name, c.what)
		}
	}
	if b.base != nil {
		fmt.Fprintf(out, "Peer: tstatrepo of %s.\n", b.base.commit)
	}
	for _, why := range b.leftOut {
		fmt.Fprintf(out, "Left out: %s.\n", why)
	}
	fmt.Fprintf(out, "%s %s/%s, %d CPUs (%s), %s; each command with %s.\n",
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

// procValue returns the first value of a key in a file with "key: value" lines.
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
