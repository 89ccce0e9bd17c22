package admin

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/postgres"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// The logs of the tests of flow boards, by probe. The displayed time range contains
// only part of the logs of 2016. The logs of 2014 are in separate partitions.
var (
	flowLogs = map[string][]string{
		"turin":  {"../../tstat/testdata/logs/v330_multihour_crashed", "../../tstat/testdata/logs/v330_anonymised"},
		"vienna": {"../store/dbstream/testdata/golden/input"},
	}
	flowsFrom = time.Date(2016, 3, 24, 22, 30, 0, 0, time.UTC)
	flowsTo   = time.Date(2016, 3, 24, 23, 45, 30, 0, time.UTC)
)

// importFlows imports flowLogs into a store.
func importFlows(t *testing.T, s store.Store) {
	t.Helper()
	for probe, trees := range flowLogs {
		summary, err := bulk.Run(context.Background(), bulk.Options{
			Sources: trees, Stores: bulk.Opened(s), Probe: probe, Location: time.UTC,
			Types: []string{"log_tcp_complete", "log_udp_complete"}, IncludeOpen: true, StateDir: t.TempDir(),
		})
		if err != nil {
			t.Fatalf("%s: %v: %+v", probe, err, summary)
		}
	}
}

// flow is a line of a log by Tstat's column names. It is parsed without the code of
// the import.
type flow map[string]string

// number returns the number in a column, or NaN, which compares unequal to
// everything.
func (f flow) number(column string) float64 {
	n, err := strconv.ParseFloat(f[column], 64)
	if err != nil {
		return math.NaN()
	}
	return n
}

func (f flow) bytes() float64 { return f.number("c_bytes_all") + f.number("s_bytes_all") }

// name returns the name by which a client called a TCP server.
func (f flow) name() string {
	for _, column := range []string{"c_tls_SNI", "c_ssl_SNI", "http_hostname", "fqdn"} {
		if text := f[column]; text != "" && text != "-" {
			return text
		}
	}
	return ""
}

// readFlows returns the flows of one log type in the displayed time range.
func readFlows(t *testing.T, logType, timeColumn string, probes ...string) []flow {
	t.Helper()
	var flows []flow
	for _, probe := range probes {
		for _, tree := range flowLogs[probe] {
			logs, err := filepath.Glob(filepath.Join(tree, "*", logType))
			if err != nil {
				t.Fatal(err)
			}
			for _, log := range logs {
				text, err := os.ReadFile(log)
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				lines := bufio.NewScanner(strings.NewReader(string(text)))
				for lines.Scan() {
					fields := strings.Fields(lines.Text())
					if strings.HasPrefix(lines.Text(), "#") {
						names = fields
						continue
					}
					if len(fields) < len(names) { // the crash
						continue
					}
					f := flow{"probe": probe}
					for i, name := range names {
						name, _, _ = strings.Cut(name[strings.LastIndex(name, "#")+1:], ":")
						f[name] = fields[i]
					}
					at := f.number(timeColumn)
					if at >= float64(flowsFrom.UnixMilli()) && at <= float64(flowsTo.UnixMilli()) {
						flows = append(flows, f)
					}
				}
			}
		}
	}
	return flows
}

func sum(flows []flow, of func(flow) float64) float64 {
	var n float64
	for _, f := range flows {
		n += of(f)
	}
	return n
}

// columns returns the sum of some columns over all flows.
func columns(flows []flow, names ...string) float64 {
	return sum(flows, func(f flow) float64 {
		var n float64
		for _, name := range names {
			n += f.number(name)
		}
		return n
	})
}

// rtts returns the sorted mean round-trip times on one side of the probe.
func rtts(flows []flow, side string) []float64 {
	var all []float64
	for _, f := range flows {
		if f.number(side+"_rtt_cnt") > 0 {
			all = append(all, f.number(side+"_rtt_avg"))
		}
	}
	slices.Sort(all)
	return all
}

func groups(flows []flow, key func(flow) string) map[string][]flow {
	by := map[string][]flow{}
	for _, f := range flows {
		by[key(f)] = append(by[key(f)], f)
	}
	return by
}

// top returns the 20 largest groups of flows with their traffic.
func top(flows []flow, key func(flow) string) (names []string, by map[string][]flow) {
	by = groups(flows, key)
	delete(by, "")
	names = slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		return int(sum(by[b], flow.bytes) - sum(by[a], flow.bytes))
	})
	return names[:min(20, len(names))], by
}

// result is the result of a query: the values, as text, by column, or by series if a
// column names the series. NULL is "".
type result map[string][]string

// rows returns the number of rows.
func (r result) rows() int {
	var n int
	for _, values := range r {
		n = max(n, len(values))
	}
	return n
}

// flowBoard is a board of flows at a server with the flows of flowLogs.
type flowBoard struct {
	*dashboard
	// query runs the SQL of a target or of a variable.
	query func(t *testing.T, sql string, interval time.Duration, probes []string) result
	// quantile returns a quantile of sorted values, as the database computes it.
	quantile func(sorted []float64, p float64) float64
}

// test runs all queries of the board and compares the results with the logs.
func (b *flowBoard) test(t *testing.T) {
	found := b.query(t, b.Templating.List[1].Query, 0, nil)["probe"]
	if slices.Sort(found); !slices.Equal(found, []string{"turin", "vienna"}) {
		t.Errorf("probes: %q", found)
	}
	for _, probes := range [][]string{{"turin", "vienna"}, {"vienna"}} {
		tcp := readFlows(t, "log_tcp_complete", "last", probes...)
		udp := readFlows(t, "log_udp_complete", "c_first_abs", probes...)
		if len(tcp) < 200 || len(probes) == 2 && len(udp) < 10 {
			t.Fatalf("%d TCP flows, %d UDP flows", len(tcp), len(udp))
		}
		for _, p := range b.Panels {
			t.Run(strings.Join(probes, " and ")+"/"+p.Title, func(t *testing.T) {
				switch sql := p.Targets[0].RawSQL + p.Targets[0].Query; p.Type {
				case "timeseries":
					shown := tcp
					if strings.HasPrefix(p.Title, "UDP") {
						shown = udp
					}
					b.testSeries(t, p.Title, sql, shown, probes)
				case "stat":
					b.testSums(t, p.Title, sql, tcp, udp, probes)
				default:
					b.testTop(t, p.Title, sql, tcp, udp, probes)
				}
			})
		}
	}
}

// testSeries checks the points of a graph with the usual interval, and the values with
// an interval that contains all flows.
func (b *flowBoard) testSeries(t *testing.T, title, sql string, flows []flow, probes []string) {
	interval := 5 * time.Minute
	times := groups(flows, func(f flow) string {
		at := f["last"]
		if at == "" {
			at = f["c_first_abs"]
		}
		ms, _ := strconv.ParseFloat(at, 64)
		return fmt.Sprint(math.Floor(ms/float64(interval.Milliseconds())) * interval.Seconds())
	})
	got := b.query(t, sql, interval, probes)
	for _, at := range got["time"] {
		seconds, _ := strconv.ParseFloat(at, 64)
		if _, ok := times[fmt.Sprint(seconds)]; !ok {
			t.Errorf("a point at %s", at)
		}
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(got["time"])))
	// A quantile has no point in intervals without round-trip times.
	if len(distinct) > len(times) || len(distinct) < len(times) && !strings.HasPrefix(title, "RTT") {
		t.Errorf("%d points, expected %d", len(distinct), len(times))
	}
	if len(flows) == 0 {
		return
	}
	got = b.query(t, sql, 24*time.Hour, probes)
	for _, series := range b.series(t, title, flows) {
		if values := got[series.name]; len(values) != 1 || !near(values[0], series.value) {
			t.Errorf("%s: %q, expected %g (%v)", series.name, values, series.value, got)
		}
	}
}

type series struct {
	name  string
	value float64
}

// series returns the values of a graph with a single point for a day.
func (b *flowBoard) series(t *testing.T, title string, flows []flow) []series {
	const day = 86400
	quantiles := func(side string) (all []series) {
		for _, p := range []int{50, 95, 99} {
			all = append(all, series{fmt.Sprint(p, " %"), b.quantile(rtts(flows, side), float64(p)/100)})
		}
		return all
	}
	byProbe := func(value func([]flow) float64) (all []series) {
		for probe, of := range groups(flows, func(f flow) string { return f["probe"] }) {
			all = append(all, series{probe, value(of)})
		}
		return all
	}
	switch title {
	case "TCP traffic by direction", "UDP traffic by direction":
		return []series{{"from servers", 8 * columns(flows, "s_bytes_all") / day}, {"from clients", 8 * columns(flows, "c_bytes_all") / day}}
	case "TCP traffic by probe":
		return byProbe(func(of []flow) float64 { return 8 * sum(of, flow.bytes) / day })
	case "TCP flows by probe":
		return byProbe(func(of []flow) float64 { return float64(len(of)) / day })
	case "RTT between probe and servers":
		return quantiles("s")
	case "RTT between probe and clients":
		return quantiles("c")
	case "Retransmitted segments":
		return []series{
			{"of servers", 100 * columns(flows, "s_pkts_retx") / columns(flows, "s_pkts_data")},
			{"of clients", 100 * columns(flows, "c_pkts_retx") / columns(flows, "c_pkts_data")},
		}
	case "TCP anomalies by reason":
		var all []series
		for name, column := range map[string]string{"timeout": "rto", "needless timeout": "unrto", "fast": "fs",
			"needless fast": "unfs", "reordered": "reor", "duplicated on the way": "dup"} {
			all = append(all, series{name, 100 * columns(flows, "c_pkts_"+column, "s_pkts_"+column) / columns(flows, "c_pkts_data", "s_pkts_data")})
		}
		return all
	}
	t.Fatalf("no values are known for the panel %s", title)
	return nil
}

// testSums checks a panel of sums.
func (b *flowBoard) testSums(t *testing.T, title, sql string, tcp, udp []flow, probes []string) {
	want := []series{{"Flows", float64(len(udp))}, {"Traffic", sum(udp, flow.bytes)}}
	if title == "TCP flows" {
		want = []series{{"Flows", float64(len(tcp))}, {"Traffic", sum(tcp, flow.bytes)},
			{"Retransmitted", 100 * columns(tcp, "c_pkts_retx", "s_pkts_retx") / columns(tcp, "c_pkts_data", "s_pkts_data")},
			{"Median RTT to servers", b.quantile(rtts(tcp, "s"), .5)}}
	}
	got := b.query(t, sql, time.Minute, probes)
	for _, s := range want {
		if values := got[s.name]; len(values) != 1 || !near(values[0], s.value) && (s.value != 0 || values[0] != "") {
			t.Errorf("%s: %q, expected %g (%v)", s.name, values, s.value, got)
		}
	}
}

// testTop checks a table of the largest groups.
func (b *flowBoard) testTop(t *testing.T, title, sql string, tcp, udp []flow, probes []string) {
	flows, key := tcp, func(f flow) string { return f["s_ip"] }
	switch title {
	case "Top names":
		key = flow.name
	case "Top UDP servers":
		flows, key = udp, func(f flow) string { return f["s_ip"] + " " + f["s_port"] }
	}
	names, by := top(flows, key)
	got := b.query(t, sql, time.Minute, probes)
	if got.rows() != len(names) {
		t.Fatalf("%d rows, expected %d", got.rows(), len(names))
	}
	for i := range names {
		var name string
		switch title {
		case "Top names":
			name = got["Name"][i]
		case "Top UDP servers":
			name = got["Server"][i] + " " + got["Port"][i]
		default:
			name = got["Server"][i]
		}
		of := by[name]
		want := map[string]float64{"Flows": float64(len(of)), "Traffic": sum(of, flow.bytes)}
		switch title {
		case "Top names":
			want["Servers"] = float64(len(groups(of, func(f flow) string { return f["s_ip"] })))
		case "Top TCP servers":
			delete(want, "Traffic")
			want["From server"], want["From clients"] = columns(of, "s_bytes_all"), columns(of, "c_bytes_all")
			if all := rtts(of, "s"); len(all) > 0 {
				want["Median RTT"] = b.quantile(all, .5)
			}
			if data := columns(of, "c_pkts_data", "s_pkts_data"); data > 0 {
				want["Retransmitted"] = 100 * columns(of, "c_pkts_retx", "s_pkts_retx") / data
			}
			if !slices.ContainsFunc(of, func(f flow) bool { return f.name() == got["Name"][i] }) {
				t.Errorf("%s: named %q", name, got["Name"][i])
			}
		}
		for column, value := range want {
			if len(of) == 0 || !near(got[column][i], value) {
				t.Errorf("%s: %s: %q, expected %g", name, column, got[column][i], value)
			}
		}
		// Groups of the same size may be in any order.
		if size := sum(by[names[i]], flow.bytes); sum(of, flow.bytes) != size {
			t.Errorf("%s is number %d, expected %s", name, i+1, names[i])
		}
	}
}

// interpolated computes PostgreSQL's percentile_cont, which equals ClickHouse's
// quantile up to the number of values that it samples.
func interpolated(sorted []float64, p float64) float64 {
	at, part := math.Modf(p * float64(len(sorted)-1))
	i := int(at)
	return sorted[i] + part*(sorted[min(i+1, len(sorted)-1)]-sorted[i])
}

// near reports whether text equals want up to rounding errors of a sum.
func near(text string, want float64) bool {
	got, err := strconv.ParseFloat(text, 64)
	return err == nil && math.Abs(got-want) <= 1e-9*math.Abs(want)
}

// postgresSQL expands a query for PostgreSQL like Grafana, according to its manual:
// global variables, macros, and the variables of a board. A variable with several
// values becomes a list of quoted values.
func postgresSQL(t *testing.T, sql string, interval time.Duration, probes []string) string {
	t.Helper()
	sql = strings.NewReplacer(
		"$probe", "'"+strings.Join(probes, "','")+"'",
		"$__interval_ms", fmt.Sprint(interval.Milliseconds()),
		"$__interval", interval.String(),
	).Replace(sql)
	from, to := "'"+flowsFrom.Format(time.RFC3339)+"'", "'"+flowsTo.Format(time.RFC3339)+"'"
	// Arguments contain no parentheses: Grafana ends an argument at the first.
	sql = regexp.MustCompile(`\$(__\w+)\(([^)]*)\)`).ReplaceAllStringFunc(sql, func(call string) string {
		name, list, _ := strings.Cut(strings.Trim(call, "$)"), "(")
		arg := strings.Split(list, ", ")
		switch name {
		case "__timeFrom":
			return from
		case "__timeTo":
			return to
		case "__timeFilter":
			return fmt.Sprintf("%s BETWEEN %s AND %s", arg[0], from, to)
		case "__timeGroupAlias": // Grafana applies the third argument, a fill value, later
			return fmt.Sprintf(`floor(extract(epoch from %s)/%g)*%g AS "time"`, arg[0], interval.Seconds(), interval.Seconds())
		}
		return call
	})
	if strings.Contains(sql, "$") {
		t.Fatalf("not known to Grafana: %s", sql)
	}
	return sql
}

// TestFlowsPostgres runs the queries of the board on a real server.
func TestFlowsPostgres(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	s, err := postgres.Open(t.Context(), "postgres://"+server.Host(db)+"?sslmode=disable", postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	importFlows(t, s)
	conn := server.Connect(t, db)
	exec := func(t *testing.T, sql string) result {
		t.Helper()
		results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		a, metric := result{}, -1
		for i, f := range results[0].FieldDescriptions {
			a[f.Name] = nil
			if f.Name == "metric" {
				metric = i
			}
		}
		for _, row := range results[0].Rows {
			for i, f := range results[0].FieldDescriptions {
				name := f.Name
				if metric >= 0 && name != "time" { // the value belongs to a series
					name = string(row[metric])
				}
				if i != metric {
					a[name] = append(a[name], string(row[i]))
				}
			}
		}
		return a
	}
	board := &flowBoard{dashboard: readDashboard(t, "tstat-flows-postgres.json", "postgres"),
		query: func(t *testing.T, sql string, interval time.Duration, probes []string) result {
			t.Helper()
			return exec(t, postgresSQL(t, sql, interval, probes))
		},
		quantile: interpolated}
	board.test(t)
	for _, p := range board.Panels {
		plan := strings.Join(exec(t, "EXPLAIN "+postgresSQL(t, p.Targets[0].RawSQL, time.Minute, []string{"turin"}))["QUERY PLAN"], "\n")
		if !strings.Contains(plan, "complete_20160324") || strings.Contains(plan, "complete_2014") {
			t.Errorf("%s reads other partitions than those of the time shown:\n%s", p.Title, plan)
		}
	}
}
