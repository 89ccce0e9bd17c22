package dbstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/dbstream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/storetest"
)

func open(t *testing.T, url, stream string) *dbstream.Store {
	t.Helper()
	s, err := dbstream.Open(context.Background(), url, dbstream.Options{Stream: stream})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := pgtest.Start(t)
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		db := server.Database(t)
		conn := server.Connect(t, db)
		return storetest.Harness{
			NoReplace: true,
			Open:      func(t *testing.T) store.Store { return open(t, "dbstream://"+server.Host(db), "") },
			Count: func(t *testing.T, logType, probe string) int {
				n := 0
				if exists := scan[bool](t, conn, "select to_regclass($1) is not null", probe+"_"+logType); exists {
					n = scan[int](t, conn, "select count(*) from "+probe+"_"+logType)
				}
				return n
			},
			Older: func(t *testing.T) store.Store {
				server.Exec(t, db, pgtest.OlderFiles("dbs"))
				s, err := dbstream.Open(context.Background(), "dbstream://"+server.Host(db), dbstream.Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
		}
	})
}

func scan[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
	return v
}

// administer creates a database like DBStream's administrator, and allows
// dbs_test, who is not a superuser, to import into it.
func administer(t *testing.T, server *pgtest.Server, database string) string {
	t.Helper()
	if database == "dbs_test" {
		server.Exec(t, "postgres", "create role dbs_test login")
		server.Exec(t, "postgres", "create tablespace dbs_ts0 location '"+server.Dir(t, "dbs_ts0")+"'; ")
		server.Exec(t, "postgres", "grant create on tablespace dbs_ts0 to dbs_test")
	}
	server.Exec(t, "postgres", "create database "+database)
	schema := golden(t, "expected/schema.sql")
	// The catalog and the template are those of DBStream.
	for _, table := range []string{"dbs.query_stats", "public.dbs_tables", "public.log_tcp_complete_v15"} {
		_, rest, _ := strings.Cut(schema, "CREATE TABLE "+table+" (")
		def, _, ok := strings.Cut(rest, ");")
		if !ok {
			t.Fatal("no table ", table)
		}
		server.Exec(t, database, "create schema if not exists dbs; create table "+table+" ("+def+")")
	}
	server.Exec(t, database, `create schema dbs_ts0;
		grant usage, create on schema public, dbs, dbs_ts0 to dbs_test;
		grant select, insert on dbs_tables to dbs_test;
		grant select on log_tcp_complete_v15 to dbs_test;`)
	return fmt.Sprintf("dbstream://dbs_test@127.0.0.1:%d/%s?sslmode=disable", server.Port, database)
}

func golden(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/golden", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run imports folders with the engine.
func run(t *testing.T, s store.Store, source string, change func(*bulk.Options)) (*bulk.Summary, error) {
	t.Helper()
	opt := bulk.Options{
		Sources: []string{source}, Stores: bulk.Opened(s), Probe: "p1", Location: time.UTC, IncludeOpen: true, Jobs: 1,
		MaxRejects: bulk.DefaultMaxRejects, StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}
	if change != nil {
		change(&opt)
	}
	return bulk.Run(context.Background(), opt)
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func imports(t *testing.T, s store.Store, source string, change func(*bulk.Options)) *bulk.Summary {
	t.Helper()
	sum, err := run(t, s, source, change)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return sum
}

// table returns the rows of a query in COPY's text form, NULL as "-".
func table(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var b strings.Builder
	if _, err := conn.PgConn().CopyTo(context.Background(), &b, "copy ("+sql+") to stdout (null '-')"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// view returns the rows of dbs.view_info of a stream, with the host and port of
// the golden run.
func view(t *testing.T, conn *pgx.Conn, server *pgtest.Server, stream, db string) string {
	v := table(t, conn, "select * from dbs.view_info_"+stream+" order by serial_time")
	return strings.ReplaceAll(v, fmt.Sprintf("\t%d\t%s\t", server.Port, db), "\t55432\tdbs_test\t")
}

func sorted(text string) string {
	lines := strings.SplitAfter(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestGolden compares an import with that of DBStream's own importer from the same
// logs: schema, catalog and every value.
func TestGolden(t *testing.T) {
	server := pgtest.Start(t)
	for _, db := range []string{"dbs_test", "dbs_parallel", "dbs_text"} {
		t.Run(db, func(t *testing.T) {
			url := administer(t, server, db)
			if db == "dbs_text" {
				url += "&copy=text"
			}
			sum := imports(t, open(t, url, "golden_tcp"), "testdata/golden/input", func(o *bulk.Options) {
				if db == "dbs_parallel" {
					o.Jobs = 4
				}
			})
			if sum.Total.Rows != 1200 || sum.Total.Rejects != 0 {
				t.Errorf("summary %+v", sum.Total)
			}
			conn := server.Connect(t, db)
			if got, want := table(t, conn, "select * from dbs_tables"), golden(t, "expected/dbs_tables.tsv"); got != want {
				t.Errorf("dbs_tables: %q, want %q", got, want)
			}
			if got, want := view(t, conn, server, "golden_tcp", db), golden(t, "expected/view_info.tsv"); got != want {
				t.Errorf("view_info:\n%s\nwant\n%s", got, want)
			}
			files, _ := filepath.Glob("testdata/golden/expected/partitions/*.tsv")
			if len(files) != 25 {
				t.Fatal(len(files), " partitions")
			}
			for _, f := range files {
				part := strings.TrimSuffix(filepath.Base(f), ".tsv")
				want, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				got := table(t, conn, "select * from dbs_ts0."+part+" order by ctid")
				if db == "dbs_parallel" { // two files of a window are in any order
					got, want = sorted(got), []byte(sorted(string(want)))
				}
				if got != string(want) {
					t.Errorf("partition %s differs", part)
				}
			}
			if n := scan[int](t, conn, "select count(*) from golden_tcp"); n != 1200 {
				t.Errorf("%d rows", n)
			}
			if n := scan[int](t, conn, "select count(*) from pg_inherits where inhparent = 'golden_tcp'::regclass"); n != 25 {
				t.Errorf("%d partitions", n)
			}
			if got, want := dump(t, server, db), clean(golden(t, "expected/schema.sql")); got != want {
				os.WriteFile(filepath.Join(os.TempDir(), "got.sql"), []byte(got), 0o644)
				t.Errorf("schema differs:\n%s", firstDifference(got, want))
			}
			// A second import changes nothing.
			sum = imports(t, open(t, url, "golden_tcp"), "testdata/golden/input", nil)
			if sum.Total.Skipped != 4 || scan[int](t, conn, "select count(*) from golden_tcp") != 1200 {
				t.Errorf("second run: %+v", sum.Total)
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: %q, want %q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// dump returns the schema without tstatrepo's table of records.
func dump(t *testing.T, server *pgtest.Server, db string) string {
	t.Helper()
	out, err := exec.Command(server.Program("pg_dump"), "--schema-only", "--no-privileges", "-d", "postgresql://"+server.Host(db), "-t", "dbs_tables", "-t", "dbs.query_stats",
		"-t", "log_tcp_complete_v15", "-t", "golden_tcp*", "-t", "dbs.view_info_*", "-t", "dbs_ts0.*").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return clean(string(out))
}

var noise = regexp.MustCompile(`(?m)^(--.*|\\(un)?restrict .*|SET .*_timeout = .*|SELECT pg_catalog.*|ALTER TABLE .* OWNER TO .*|)\n`)

// clean removes everything but the statements from a dump. The owners of tables
// depend on the test.
func clean(dump string) string { return noise.ReplaceAllString(dump, "") }

// TestGoldenClamp checks that serial_time never decreases within a file. In
// DBStream's own importer it never decreases across files either, so one clock
// that runs ahead moves all later rows. golden/README.md lists the rows that
// differ.
func TestGoldenClamp(t *testing.T) {
	server := pgtest.Start(t)
	url := administer(t, server, "dbs_test")
	imports(t, open(t, url, "golden_clamp"), "testdata/golden/clamp/input", nil)
	conn := server.Connect(t, "dbs_test")
	want := map[string][]string{}
	for _, part := range []string{"1458871200", "1458871800", "1458872400", "1458873000"} {
		want[part] = strings.SplitAfter(strings.TrimSuffix(golden(t, "clamp/expected/partitions/golden_clamp_"+part+".tsv"), "\n"), "\n")
	}
	// The nine rows follow the row that moved them.
	moved := want["1458872400"][1:10]
	want["1458872400"] = slices.Delete(slices.Clone(want["1458872400"]), 1, 10)
	n := 0
	for line := range strings.Lines(golden(t, "clamp/clamped.tsv")) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if f[2] != "across" {
			continue
		}
		_, row, _ := strings.Cut(moved[n], "\t")
		want[f[8]] = append(want[f[8]], f[7]+"\t"+row)
		n++
	}
	if n != 9 {
		t.Fatal(n, " rows")
	}
	for part, rows := range want {
		for i := range rows {
			rows[i] = strings.TrimSuffix(rows[i], "\n") + "\n"
		}
		got := sorted(table(t, conn, "select * from dbs_ts0.golden_clamp_"+part))
		if want := sorted(strings.Join(rows, "")); got != want {
			t.Errorf("partition %s: %s", part, firstDifference(got, want))
		}
	}
	if got, want := view(t, conn, server, "golden_clamp", "dbs_test"), golden(t, "clamp/expected/view_info.tsv"); got != want {
		t.Errorf("view_info:\n%s\nwant\n%s", got, want)
	}
}

func TestStreamName(t *testing.T) {
	for _, c := range []struct{ pattern, probe, want, problem string }{
		{"", "Turin-1", "turin_1_log_tcp_complete", ""},
		{"polito_tcp", "p", "polito_tcp", ""},
		{"{type}_{probe}", "p", "log_tcp_complete_p", ""},
		{"x{probe}", "A-b_c", "xa_b_c", ""},
		{"a b", "p", "", "`stream` a_b"},
		{"{Probe}", "p", "", "`stream` _probe_"},
		{"x;drop table y", "p", "", "`stream` x_drop_table_y"},
		{"{probe}", "1p", "", "`stream` s_1p"},
		{"é", "p", "", "`stream` _"},
		{strings.Repeat("x", 53), "p", "", "`stream` " + strings.Repeat("x", 52)},
		{"dbs_tables", "p", "", "_1"},
		{"{type}_v15", "p", "", "_1"},
		{"{type}_all", "p", "", "_1"},
	} {
		got, err := dbstream.StreamName(c.pattern, c.probe, "log_tcp_complete")
		if got != c.want || (err != nil) != (c.problem != "") {
			t.Errorf("%q: %q, %v", c.pattern, got, err)
		}
		if err != nil && (!hint.IsUsage(err) || !strings.Contains(hint.Of(err), c.problem)) {
			t.Errorf("%q: %v (%s), want hint %q", c.pattern, err, hint.Of(err), c.problem)
		}
	}
}

// logs creates a source folder with the given files.
func logs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestShared checks that a stream refuses rows of a second probe or log type, and
// windows of another length.
func TestShared(t *testing.T) {
	server := pgtest.Start(t)
	url := "dbstream://" + server.Host(server.Database(t))
	udp := "#c_ip:1 c_first_abs:2\n::1 1458855462170.0\n"
	src := logs(t, map[string]string{"2016_03_24_21_37.out/log_udp_complete": udp})
	s := open(t, url, "x_{probe}")
	imports(t, s, src, func(o *bulk.Options) { o.Probe = "a-b" })
	for name, c := range map[string]struct {
		url, stream, probe string
		file               string
		want               string
	}{
		"probe":  {url, "x_{probe}", "a_b", "log_udp_complete", "has the rows of probe a-b"},
		"type":   {url, "x_{probe}", "a-b", "log_l3_bitrate", "has the rows of log_udp_complete"},
		"window": {url + "?window=1h", "x_{probe}", "a-b", "log_udp_complete", "has a window of 600 s"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, c.url, c.stream)
			defer s.Close()
			text := udp + "::2 1458855463170.0\n"
			if name == "type" {
				text = "#time:1 ip4_in:2\n1458855463 1\n"
			}
			_, err := run(t, s, logs(t, map[string]string{"2016_03_24_22_37.out/" + c.file: text}), func(o *bulk.Options) { o.Probe = c.probe })
			if !hint.IsUsage(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	s = open(t, url, "")
	defer s.Close()
	if _, err := run(t, s, src, func(o *bulk.Options) { o.Replace = true }); !hint.IsUsage(err) {
		t.Errorf("replace: %v", err)
	}
}

// TestGrown checks that only the new rows of a log that has grown are stored, in
// order after the old ones.
func TestGrown(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "dbstream://" + server.Host(db)
	const name = "2016_03_24_21_37.out/log_udp_complete"
	text := "#c_ip:1 c_first_abs:2\n::1 1458855462170.0\n::2 1458856462170.0\n"
	src := logs(t, map[string]string{name: text})
	imports(t, open(t, url, "s"), src, nil)
	text += "::3 1458850000000.0\n#c_ip:1 c_first_abs:2\n::9 x\n10.0.0 1458857462170.0\n::4 1458857462170.0\n"
	write := func() {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	sum := imports(t, open(t, url, "s"), src, nil)
	if sum.Total.Replaced != 1 {
		t.Errorf("%+v", sum.Total)
	}
	conn := server.Connect(t, db)
	got := table(t, conn, "select serial_time, host(c_ip) from s order by serial_time, c_ip")
	if want := "1458855462\t::1\n1458856462\t::2\n1458856462\t::3\n1458857462\t::4\n"; got != want {
		t.Errorf("rows\n%s", got)
	}
	if got := table(t, conn, "select rows, rejects, length from dbs.tstatrepo_files"); got != fmt.Sprintf("4\t2\t%d\n", len(text)) {
		t.Errorf("records %q", got)
	}
}

// TestChanged checks that a log that has changed other than by growing is
// refused, because its rows cannot be removed. An older state of the log is
// skipped, and each instance of Tstat has its own logs.
func TestChanged(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "dbstream://" + server.Host(db)
	const name = "2016_03_24_21_37.out/log_udp_complete"
	const head, row1, row2, row3 = "#c_ip:1 c_first_abs:2\n", "::1 1458855462170.0\n", "::2 1458856462170.0\n", "::3 1458857462170.0\n"
	src := logs(t, map[string]string{"a/" + name: head + row1 + row2, "b/" + name: head, "c/" + name: head + row3})
	if sum := imports(t, open(t, url, "s"), src, nil); sum.Total.Files != 3 || sum.Total.Rows != 3 {
		t.Errorf("%+v", sum.Total)
	}
	write := func(dir, text string) string {
		p := filepath.Join(src, dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("b", head+row2+row3)
	if sum := imports(t, open(t, url, "s"), src, nil); sum.Total.Replaced != 1 || sum.Total.Skipped != 2 {
		t.Errorf("a log without rows has grown: %+v", sum.Total)
	}
	path := write("a", head+row1)
	if sum := imports(t, open(t, url, "s"), src, nil); sum.Total.Skipped != 3 {
		t.Errorf("an older state: %+v", sum.Total)
	}
	write("a", head+row1+row3)
	for range 2 {
		var log strings.Builder
		s := open(t, url, "s")
		sum, err := run(t, s, src, func(o *bulk.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		s.Close()
		if !errors.Is(err, bulk.ErrFailed) || sum.Total.Failed != 1 || sum.Total.Skipped != 2 {
			t.Fatalf("%+v, %v", sum, err)
		}
		for _, want := range []string{path, "cannot be removed: 2 of 20", "read from " + path, "hint="} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q: %s", want, log.String())
			}
		}
	}
	got := table(t, server.Connect(t, db), "select host(c_ip) from s order by 1")
	if want := "::1\n::2\n::2\n::3\n::3\n"; got != want {
		t.Errorf("rows\n%s", got)
	}
}

// TestLate checks that a row with an impossible time is rejected and does not move
// the following rows.
func TestLate(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	src := logs(t, map[string]string{
		"2016_03_24_21_37.out/log_udp_complete": "#c_ip:1 c_first_abs:2\n::1 1458855462170.0\n::2 253402300799999.0\n::3 1468855462170.0\n::4 1458855463170.0\n::5 -\n",
		"2016_03_24_22_37.out/log_udp_complete": "#c_ip:1 c_first_abs:2\n::6 -\n::7 1468855462170.0\n",
	})
	sum := imports(t, open(t, "dbstream://"+server.Host(db), "s"), src, nil)
	if sum.Total.Rows != 5 || sum.Total.Rejects != 2 {
		t.Errorf("%+v", sum.Total)
	}
	got := table(t, server.Connect(t, db), "select serial_time, host(c_ip) from s order by c_ip")
	// ::5 gets the time of its folder, but not less than that of the row before.
	if want := "1458855462\t::1\n1458855463\t::4\n1458855463\t::5\n1458859020\t::6\n1468855462\t::7\n"; got != want {
		t.Errorf("rows\n%s", got)
	}
	rejects, err := os.ReadFile(sum.RejectFile)
	if err != nil || !strings.Contains(string(rejects), "log_udp_complete:3: its time, 9999-12-31T23:59:59Z, is in the future") || !strings.Contains(string(rejects), "log_udp_complete:4: ") {
		t.Errorf("%s, %v", rejects, err)
	}
}

// TestVersions stores logs of all Tstat versions in DBStream's own tables and in
// tables with all columns.
func TestVersions(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "dbstream://" + server.Host(db)
	conn := server.Connect(t, db)
	dirs, err := filepath.Glob("../../../tstat/testdata/logs/v*")
	if err != nil || len(dirs) < 5 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		probe := filepath.Base(dir)
		t.Run(probe, func(t *testing.T) {
			sum := imports(t, open(t, url+"?analyze=none", ""), dir, func(o *bulk.Options) { o.Probe = probe; o.MaxRejects = 1 << 20 })
			if sum.Total.Rejects != 0 {
				rejects, _ := os.ReadFile(sum.RejectFile)
				t.Errorf("%d rejects: %.3000s", sum.Total.Rejects, rejects)
			}
			for _, typ := range sum.Types {
				if typ.Rows == 0 {
					continue
				}
				if n := scan[int64](t, conn, "select count(*) from "+probe+"_"+typ.Name); n != typ.Rows {
					t.Errorf("%s: %d rows, want %d", typ.Name, n, typ.Rows)
				}
			}
		})
	}
	// Tstat 3.0 has 130 columns, and DBStream's table 130 others.
	if n := scan[int](t, conn, "select count(*) from v300_log_tcp_complete where c_appdatab > 0 and s_ssl_scn is null and tls_session_stat is not null and dropbox_id is null"); n == 0 {
		t.Error("v300: no row as it should be")
	}
}

// TestRefused checks that a row that only the server refuses counts as a reject,
// and that the rest of its file is stored.
func TestRefused(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	url := "dbstream://" + server.Host(db)
	row := func(port, second int) string { return fmt.Sprintf("::1 %d %d.0\n", port, 1458855462000+second*1000) }
	imports(t, open(t, url, "s"), logs(t, map[string]string{"2016_03_24_21_37.out/log_tcp_complete": "#c_ip:1 c_port:2 last:3\n" + row(1, 0)}), nil)
	server.Exec(t, db, "alter table s add check (c_port <> 13)")
	// The first row is refused in the middle of a file, the others in its last
	// window.
	text := "#c_ip:1 c_port:2 last:3\n" + row(2, 1) + row(13, 2) + row(3, 3) + row(4, 700) + row(13, 701) + row(99999999999, 702) + row(5, 703)
	sum := imports(t, open(t, url, "s"), logs(t, map[string]string{"2016_03_24_22_37.out/log_tcp_complete": text}), nil)
	if sum.Total.Rows != 4 || sum.Total.Rejects != 3 || sum.Total.Lines != 7 {
		t.Errorf("%+v", sum.Total)
	}
	rejects, err := os.ReadFile(sum.RejectFile)
	if err != nil || strings.Count(string(rejects), "\n") != 3 || !strings.Contains(string(rejects), `log_tcp_complete:3: new row for relation`) ||
		!strings.Contains(string(rejects), `log_tcp_complete:7: column c_port: not a whole number from -2147483648 to 2147483647`) {
		t.Errorf("%s, %v", rejects, err)
	}
	conn := server.Connect(t, db)
	if got := table(t, conn, "select string_agg(c_port::text, ' ' order by c_port) from s"); got != "1 2 3 4 5\n" {
		t.Errorf("rows %q", got)
	}
	if got := table(t, conn, "select rows, rejects from dbs.tstatrepo_files order by folder"); got != "1\t0\n4\t3\n" {
		t.Errorf("records %q", got)
	}
}

// TestAnalyze checks which statistics each mode updates.
func TestAnalyze(t *testing.T) {
	server := pgtest.Start(t)
	for mode, want := range map[string][3]bool{ // serial_time of the window, another column of it, all of the parent
		"light": {true, false, true}, "window": {true, true, false}, "end": {false, false, true},
	} {
		db := server.Database(t)
		server.Exec(t, db, "alter database "+db+" set default_statistics_target = 10")
		dest := open(t, "dbstream://"+server.Host(db)+"?analyze="+mode, "s")
		if _, err := run(t, dest, "testdata/golden/input", nil); err != nil {
			t.Fatal(err)
		}
		// A later log is not stored, because its addresses are anonymized.
		if _, err := run(t, dest, logs(t, map[string]string{"2016_03_25_03_37.out/log_tcp_complete": "#c_ip:1 last:2\nabc.XXX 1458877020000.0\n"}), nil); err == nil {
			t.Error("stored")
		}
		if err := dest.Close(); err != nil {
			t.Fatal(err)
		}
		conn := server.Connect(t, db)
		stat := func(table, column string, inherited bool) bool {
			return scan[bool](t, conn, "select exists (select from pg_stats where tablename = $1 and attname = $2 and inherited = $3)", table, column, inherited)
		}
		got := [3]bool{stat("s_1458855600", "serial_time", false), stat("s_1458855600", "c_port", false), stat("s", "c_port", true)}
		if got != want {
			t.Errorf("%s: %v, want %v", mode, got, want)
		}
	}
}

// TestClaimStreams checks that two importers can claim the same file for two
// streams, but not for the same stream.
func TestClaimStreams(t *testing.T) {
	server := pgtest.Start(t)
	url := "dbstream://" + server.Host(server.Database(t))
	key := store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: "log_udp_complete"}
	for i, c := range []struct {
		stream string
		want   int
	}{{"x", 1}, {"y", 1}, {"x", 0}, {"Y", 0}} {
		s := open(t, url, c.stream)
		defer s.Close()
		got, err := s.Claim(context.Background(), fmt.Sprint("owner ", i), []store.Key{key}, time.Hour)
		if err != nil || len(got) != c.want {
			t.Errorf("%d: stream %s: got %v, %v", i, c.stream, got, err)
		}
	}
}
