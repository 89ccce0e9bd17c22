package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const mib = 1 << 20

// memoryTarget is the limit for the peak memory of an import to Parquet with the default
// --memory.
const memoryTarget = 300 * mib

// out returns the output folder of measured commands. It is empty before each run.
func (b *bench) out() string { return filepath.Join(b.dir, "out") }

// fresh empties the output folder and runs sync, so that a run does not have to wait for
// the writes of the previous one.
func (b *bench) fresh(ctx context.Context) error {
	if err := os.RemoveAll(b.out()); err != nil {
		return err
	}
	if err := os.MkdirAll(b.out(), 0o755); err != nil {
		return err
	}
	return exec.CommandContext(ctx, "sync").Run()
}

// side runs one of the two programs that a case compares, and measures the run.
type side func(context.Context) (usage, error)

// imports returns a side that imports a tree into a new store of the given type, such as
// parquet. The side fails unless the import reports all files of the tree. It must also
// report all rows, except for a store of type copy.
func (b *bench) imports(t tree, store string, flags ...string) side {
	return func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		u, s, err := b.importTo(ctx, t, store+":"+filepath.Join(b.out(), "store"), flags...)
		if err == nil && (s.Files != int64(t.files) || store != "copy" && s.Rows != t.rows) {
			err = fmt.Errorf("%d files with %d rows stored of %d with %d", s.Files, s.Rows, t.files, t.rows)
		}
		return u, err
	}
}

// summary holds the fields of tstatrepo's JSON summary that bench reads.
type summary struct{ Files, Skipped, Rows int64 }

// importTo imports a tree into the destination dest, with two jobs.
func (b *bench) importTo(ctx context.Context, t tree, dest string, flags ...string) (usage, summary, error) {
	u, err := b.run(ctx, append(b.importArgs(t, dest, "state", 2), flags...)...)
	if err != nil {
		return u, summary{}, err
	}
	s, err := readSummary(u.out)
	return u, s, err
}

// importArgs returns the command that imports a tree with the given number of jobs.
// state is the name of the state folder in the output folder.
func (b *bench) importArgs(t tree, dest, state string, jobs int) []string {
	return b.tstatrepo("import-bulk", "--to="+dest, "--state-dir="+filepath.Join(b.out(), state), "--probe=bench",
		"--include-open", "--timezone=UTC", "--jobs="+strconv.Itoa(jobs), "--json", t.dir)
}

func readSummary(text []byte) (summary, error) {
	var s struct{ Total summary }
	if err := json.Unmarshal(text, &s); err != nil {
		return s.Total, fmt.Errorf("summary: %w: %s", err, tail(text))
	}
	return s.Total, nil
}

// duckdb returns a side that reads a tree with DuckDB, without a memory limit, into a
// table or a Parquet file. kind is "table" or "parquet".
func (b *bench) duckdb(t tree, kind string, flags ...string) side {
	return func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		args := append([]string{
			filepath.Join(b.dir, "tstatduck"), "readcsv", "-threads", "2",
			"-layouts", filepath.Join(b.root, "pkg", "tstat", "layouts.tsv"),
			"-to", kind + ":" + filepath.Join(b.out(), "duckdb."+kind),
		}, flags...)
		u, err := b.run(ctx, append(args, t.dir)...)
		if want := fmt.Sprintln(t.rows, "rows"); err == nil && string(u.out) != want {
			err = fmt.Errorf("DuckDB says %q, not %q", u.out, want)
		}
		return u, err
	}
}

// cp returns a side that copies a tree with `cp -r` and then runs sync, so that the copy
// is as durable as an import.
func (b *bench) cp(t tree) side {
	return func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		return b.run(ctx, "sh", "-c", `cp -r "$0" "$1" && sync`, t.dir, filepath.Join(b.out(), "cp"))
	}
}

// series holds the measured runs of one side.
type series struct {
	rates []float64 // units per second
	cpu   []float64 // seconds
	rss   int64     // highest
}

func (s *series) add(u usage, units float64) {
	s.rates = append(s.rates, units/u.wall.Seconds())
	s.cpu = append(s.cpu, u.cpu.Seconds())
	s.rss = max(s.rss, u.rss)
}

// String formats s as "median (q1-q3), CPU s", with the median and the quartiles of the
// rates and the median of the CPU times.
func (s *series) String() string {
	if len(s.rates) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%s-%s), CPU %.1f s", count(quantile(s.rates, 0.5)), count(quantile(s.rates, 0.25)),
		count(quantile(s.rates, 0.75)), quantile(s.cpu, 0.5))
}

// count rounds a number and formats it with spaces as thousands separators.
func count(x float64) string {
	s := strconv.FormatFloat(math.Round(x), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// quantile returns the q-quantile of v, for example the median if q is 0.5. It
// interpolates linearly.
func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return math.NaN()
	}
	x := q * float64(len(v)-1)
	i := int(x)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (x-float64(i))*(v[i+1]-v[i])
}

// baseTarget is the minimum ratio of tstatrepo's speed to the speed of an older version.
const baseTarget = 0.97

// peerName matches the peer in the name of a comparison: " / " and the text up to the
// next comma.
var peerName = regexp.MustCompile(` / [^,]*`)

// compare runs both sides alternately and adds a result. units is the amount of work in
// one run, for example in rows or MiB. target is the minimum ratio of tstatrepo's speed
// to the peer's; 0 means no target. If b.base is set, the older tstatrepo replaces the
// peer, and baseTarget replaces target. If the older tstatrepo cannot run the comparison,
// the comparison is left out.
func (b *bench) compare(ctx context.Context, name string, units, target float64, ours, peer side) error {
	if b.base != nil {
		peer, target = b.asBase(ours), baseTarget
		name = peerName.ReplaceAllString(name, "")
	}
	var a, p series
	var ratios []float64
	for i := range b.pairs + 1 {
		var ua, up usage
		var err, perr error
		if i%2 == 1 {
			up, perr = peer(ctx)
		}
		if ua, err = ours(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if i%2 == 0 {
			up, perr = peer(ctx)
		}
		if perr != nil && b.base != nil && i == 0 && ctx.Err() == nil {
			b.leftOut = append(b.leftOut, fmt.Sprintf("%s: %s cannot run it: %s", name, b.base.commit, strings.ReplaceAll(perr.Error(), "\n", " ")))
			return nil
		}
		if perr != nil {
			return fmt.Errorf("%s: peer: %w", name, perr)
		}
		if i == 0 {
			continue // warm-up: fills the page cache
		}
		a.add(ua, units)
		p.add(up, units)
		ratios = append(ratios, up.wall.Seconds()/ua.wall.Seconds())
		b.logf("  pair %d: %.2f s, peer %.2f s", i, ua.wall.Seconds(), up.wall.Seconds())
	}
	ratio := quantile(ratios, 0.5)
	b.median = quantile(a.rates, 0.5)
	r := result{
		name: name, ours: a.String(), peer: p.String(),
		ratio: fmt.Sprintf("%.2f (%.2f-%.2f)", ratio, slices.Min(ratios), slices.Max(ratios)),
		met:   ratio >= target,
		rss:   fmt.Sprintf("%d / %d", a.rss/mib, p.rss/mib),
	}
	if target > 0 {
		r.target = fmt.Sprintf(">= %g", target)
	}
	b.add(r)
	return nil
}

// load returns the log tree that most cases use.
func (b *bench) load(ctx context.Context) (tree, error) { return b.generate(ctx, b.rows, 8, time.Hour) }

func (b *bench) caseTable(ctx context.Context) error {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	return b.compare(ctx, "parquet / DuckDB table, rows/s", float64(t.rows), 3, b.imports(t, "parquet"), b.duckdb(t, "table"))
}

func (b *bench) caseParquet(ctx context.Context) error {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	return b.compare(ctx, "parquet / DuckDB parquet, rows/s", float64(t.rows), 1.8, b.imports(t, "parquet"), b.duckdb(t, "parquet"))
}

// caseSelect stores 15 of 130 columns.
func (b *bench) caseSelect(ctx context.Context) error {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	const some = "c_ip,c_port,s_ip,s_port,c_bytes_all,s_bytes_all,c_pkts_all,s_pkts_all,first,last,durat,con_t,c_rtt_avg,c_tls_SNI,fqdn"
	return b.compare(ctx, "parquet / DuckDB parquet, 15 columns, rows/s", float64(t.rows), 2,
		b.imports(t, "parquet", "--type=log_tcp_complete", "--select="+some), b.duckdb(t, "parquet", "-select", some))
}

// caseAnonymize measures how much anonymization slows down an import. The clients'
// addresses are distinct and unordered, which is the worst case for caches.
func (b *bench) caseAnonymize(ctx context.Context) error {
	clients := min(b.rows, 1_000_000)
	t, err := b.generate(ctx, b.rows, 8, time.Hour, fmt.Sprint("-clients=", clients))
	if err != nil {
		return err
	}
	key := filepath.Join(b.dir, "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		return err
	}
	return b.compare(ctx, fmt.Sprintf("parquet, anonymized / not, %s addresses, rows/s", count(float64(clients))), float64(t.rows), 0.91,
		b.imports(t, "parquet", "--anonymize=cryptopan,key-file="+key), b.imports(t, "parquet"))
}

func (b *bench) caseOneFile(ctx context.Context) error {
	t, err := b.generate(ctx, b.rows, 1, 8*time.Hour)
	if err != nil {
		return err
	}
	return b.compare(ctx, "parquet / DuckDB parquet, one file, rows/s", float64(t.rows), 1.6, b.imports(t, "parquet"), b.duckdb(t, "parquet"))
}

// caseCores compares the import of a single file with two CPUs and with one.
func (b *bench) caseCores(ctx context.Context) error {
	t, err := b.generate(ctx, b.rows, 1, 8*time.Hour)
	if err != nil {
		return err
	}
	if len(b.cpus) < 2 {
		b.leftOut = append(b.leftOut, "cores: commands cannot be bound to CPUs")
		return nil
	}
	two := b.imports(t, "parquet")
	one := func(ctx context.Context) (usage, error) {
		both := b.limits
		b.limits.prefix, b.limits.env = bind(b.cpus[0]), []string{"GOMAXPROCS=1"}
		defer func() { b.limits = both }()
		return two(ctx)
	}
	return b.compare(ctx, "parquet, one file, two CPUs / one, rows/s", float64(t.rows), 1.6, two, one)
}

// caseCopy copies 2 GiB. With less data, startup and the final sync would dominate.
func (b *bench) caseCopy(ctx context.Context) error {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	if t, err = b.multiply(t, 4); err != nil {
		return err
	}
	name := fmt.Sprintf("copy / cp -r && sync, %d files of %d MiB, MiB/s", t.files, t.bytes/int64(t.files)/mib)
	return b.compare(ctx, name, float64(t.bytes)/mib, 0.9, b.imports(t, "copy"), b.cp(t))
}

// caseSmall imports many small files. It shows the cost per file, which is mainly the
// cost of syncing the file and its folder.
func (b *bench) caseSmall(ctx context.Context) error {
	t, err := b.generate(ctx, 10*int64(b.files), b.files, time.Minute)
	if err != nil {
		return err
	}
	for _, store := range []string{"parquet", "copy"} {
		name := fmt.Sprintf("%s / cp -r && sync, %s small files, files/s", store, count(float64(t.files)))
		if err := b.compare(ctx, name, float64(t.files), 0, b.imports(t, store), b.cp(t)); err != nil {
			return err
		}
	}
	return nil
}

// caseScale checks that the time grows linearly with the number of rows and that memory
// use does not grow.
func (b *bench) caseScale(ctx context.Context) error {
	base, err := b.load(ctx)
	if err != nil {
		return err
	}
	if b.base != nil { // the case parquet measures the load itself
		t, err := b.multiply(base, 4)
		if err != nil {
			return err
		}
		return b.compare(ctx, count(float64(t.rows))+" rows to parquet, rows/s", float64(t.rows), 0, b.imports(t, "parquet"), nil)
	}
	var one series
	if _, err := b.imports(base, "parquet")(ctx); err != nil { // warm-up
		return err
	}
	for _, n := range []int{1, 2, 4, 10} {
		t := base
		if n > 1 {
			if t, err = b.multiply(base, n); err != nil {
				return err
			}
		}
		if free, need := diskFree(b.dir), t.bytes/2; free < need {
			b.logf("  %d rows: skipped, needs %d MiB of disk", t.rows, need/mib)
			continue
		}
		runs := min(b.pairs, 3)
		if n == 10 {
			runs = 1 // long enough to be steady
		}
		var s series
		for range runs {
			u, err := b.imports(t, "parquet")(ctx)
			if err != nil {
				return err
			}
			s.add(u, float64(t.rows))
			b.logf("  %d rows: %.2f s, %d MiB", t.rows, u.wall.Seconds(), u.rss/mib)
		}
		name := count(float64(t.rows)) + " rows: "
		var list []result
		if n == 1 {
			one = s
		} else {
			// The time per row with n times the rows, relative to the time
			// with the original rows.
			slower := quantile(one.rates, 0.5) / quantile(s.rates, 0.5)
			list = append(list, result{
				name: name + "time, rows/s", ours: s.String(), peer: "-", ratio: fmt.Sprintf("%.2f", 1/slower),
				target: ">= 0.87 of 1x", met: 1/slower >= 0.87, rss: fmt.Sprint(s.rss / mib),
			})
		}
		if n == 1 || n == 10 {
			list = append(list, result{
				name: name + "peak memory", ours: fmt.Sprintf("%d MiB", s.rss/mib), peer: "-", ratio: "-",
				target: fmt.Sprintf("< %d MiB", memoryTarget/mib), met: s.rss < memoryTarget, rss: fmt.Sprint(s.rss / mib),
			})
		}
		b.add(list...)
	}
	return nil
}

// diskFree returns the number of free bytes at path for an unprivileged user.
func diskFree(path string) int64 {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return math.MaxInt64 // the run will report the error
	}
	//lint:ignore unconvert another type on other systems
	return int64(fs.Bavail) * int64(fs.Bsize)
}

// caseAgain imports a tree whose files have all been stored already, as in most runs from
// cron.
func (b *bench) caseAgain(ctx context.Context) error {
	t, err := b.generate(ctx, 10*int64(b.files), b.files, time.Minute)
	if err != nil {
		return err
	}
	for _, store := range []string{"parquet", "copy"} {
		if err := b.fresh(ctx); err != nil {
			return err
		}
		again := func(ctx context.Context) (usage, error) {
			dest := store + ":" + filepath.Join(b.out(), filepath.Base(b.binary)) // each binary has its own store
			if _, err := os.Stat(dest[len(store)+1:]); err != nil {
				if _, _, err := b.importTo(ctx, t, dest); err != nil {
					return usage{}, err
				}
			}
			u, sum, err := b.importTo(ctx, t, dest)
			if err == nil && (sum.Files != 0 || sum.Skipped != int64(t.files)) {
				err = fmt.Errorf("%d files stored again, %d skipped of %d", sum.Files, sum.Skipped, t.files)
			}
			return u, err
		}
		if b.base != nil {
			name := fmt.Sprintf("%s: second run over %s files, files/s", store, count(float64(t.files)))
			if err := b.compare(ctx, name, float64(t.files), 0, again, nil); err != nil {
				return err
			}
			continue
		}
		var s series
		var times []float64
		for i := range b.pairs + 1 {
			u, err := again(ctx)
			if err != nil {
				return err
			}
			if i > 0 {
				s.add(u, float64(t.files))
				times = append(times, u.wall.Seconds())
			}
		}
		median := quantile(times, 0.5)
		b.add(result{
			name: fmt.Sprintf("%s: second run over %s files, s", store, count(float64(t.files))),
			ours: strings.Join([]string{seconds(median), " (", seconds(quantile(times, 0.25)), "-", seconds(quantile(times, 0.75)), ")"}, ""),
			peer: "-", ratio: "-", target: "< 2 s", met: median < 2, rss: fmt.Sprint(s.rss / mib),
		})
	}
	return nil
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 2, 64) }
