package main

import (
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// expressions is the number of expressions that TestWhere generates.
const expressions = 200

// TestWhere imports logs with generated --where and --select. It compares the
// stored rows and columns with those that DuckDB selects from a store of all rows.
func TestWhere(t *testing.T) {
	tmp := t.TempDir()
	bin := filepath.Join(tmp, "tstatrepo")
	command(t, "../../../..", "go", "build", "-o", bin, "./cmd/tstatrepo")
	var sources []string
	for _, probe := range []string{"v209", "v240", "v300", "v321", "v330_gz", "v330_lvl15"} {
		if dir := filepath.Join(bundledLogs, probe); isDir(dir) {
			sources = append(sources, dir)
		}
	}
	if len(sources) < 4 {
		t.Fatal("logs are missing: ", sources)
	}
	sources = append(sources, filepath.Join(tmp, "options"))
	optional := map[string][]string{"log_tcp_complete": {"c_mptcp", "s_mptcp", "c_sit1"}, "log_udp_complete": {"c_p2p_pkts", "s_p2p_pkts"}}
	for logType, columns := range optional {
		addColumns(t, filepath.Join(bundledLogs, "v321", "2026_11_22_06_39.out", logType), filepath.Join(tmp, "options", "2026_11_23_06_39.out", logType), columns)
	}
	load := func(to string, args ...string) {
		t.Helper()
		args = append([]string{"import-bulk", "--to", "parquet:" + to, "--probe", "p", "--include-open", "--timezone", "UTC", "--state-dir", filepath.Join(tmp, "state")}, args...)
		msg, err := exec.Command(bin, append(args, sources...)...).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 3 { // rejects
			err = nil
		}
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, msg)
		}
	}
	all := filepath.Join(tmp, "all")
	load(all)
	db, err := open("", "1GB", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	random := rand.New(rand.NewPCG(2026, 11))
	var gens []*generator
	for _, logType := range []string{"log_tcp_complete", "log_udp_complete", "log_http_complete", "log_mm_complete", "log_dns_complete"} {
		g, err := newGenerator(db, random, logType, from(all, logType), optional[logType])
		if err != nil {
			t.Fatal(err)
		}
		gens = append(gens, g)
	}
	selective := 0
	for i := range expressions {
		g := gens[i%len(gens)]
		e := g.expression(3)
		columns := g.someColumns()
		to := filepath.Join(tmp, "some", strconv.Itoa(i))
		load(to, "--type", g.logType, "--where", e.ours, "--select", strings.Join(columns, ","))
		n, err := compareSelection(db, g, from(to, g.logType), to, e, columns)
		if err != nil {
			t.Errorf("--where %s\n--select %s\nin SQL: %s\n%v", e.ours, strings.Join(columns, ","), e.sql, err)
		}
		if n > 0 && n < g.rows {
			selective++
		}
	}
	if selective < expressions/3 {
		t.Errorf("only %d of %d expressions select some rows and not all", selective, expressions)
	}
}

// addColumns copies a log and gives it further columns: their values are small numbers
// and NULL.
func addColumns(t *testing.T, log, to string, columns []string) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		b.WriteString(line)
		for j, name := range columns {
			value := strconv.Itoa((i + j) % 5)
			switch {
			case strings.HasPrefix(line, "#"):
				value = fmt.Sprintf("%s:%d", name, 200+j)
			case (i+j)%3 == 0:
				value = "-"
			}
			b.WriteString(" " + value)
		}
		b.WriteString("\n")
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, []byte(b.String()), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func from(store, logType string) string {
	return "read_parquet(" + quote(filepath.Join(store, "type="+logType, "**", "*.parquet")) + ", union_by_name = true, hive_partitioning = false)"
}

// compareSelection compares the store in dir with the rows that e selects, and
// returns the number of these rows.
func compareSelection(db *sql.DB, g *generator, from, dir string, e expression, columns []string) (n int, err error) {
	where := g.from + " where " + e.sql
	if err := db.QueryRow("select count(*) from " + where).Scan(&n); err != nil {
		return 0, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "type="+g.logType, "*", "*", "*.parquet"))
	if err != nil || len(files) == 0 {
		if n > 0 || err != nil {
			err = fmt.Errorf("no file, want %d rows, %v", n, err)
		}
		return n, err
	}
	rows, err := db.Query("select * from " + from + " limit 0")
	if err != nil {
		return n, err
	}
	defer rows.Close()
	got, err := rows.Columns()
	if err != nil || slices.ContainsFunc(got, func(c string) bool { return !slices.Contains(columns, c) }) {
		return n, fmt.Errorf("columns %q, %v", got, err)
	}
	var names, stored []string
	for _, c := range columns {
		id := `"` + c + `"`
		names = append(names, id)
		switch {
		case slices.Contains(got, c):
		case slices.Contains(g.optional, c): // in no log with a selected row
			id = "null"
		default:
			return n, fmt.Errorf("columns %q, want %q", got, columns)
		}
		stored = append(stored, id)
	}
	wanted, have := "select "+strings.Join(names, ", ")+" from "+where, "select "+strings.Join(stored, ", ")+" from "+from
	for _, diff := range [][2]string{{wanted, have}, {have, wanted}} {
		var missing int
		if err := db.QueryRow("select count(*) from ((" + diff[0] + ") except all (" + diff[1] + "))").Scan(&missing); err != nil {
			return n, err
		}
		if missing > 0 {
			return n, fmt.Errorf("%d rows of %s are missing in the other", missing, diff[0])
		}
	}
	return n, nil
}

// expression is an expression in the language of --where and in SQL.
type expression struct{ ours, sql string }

// generator generates expressions with the columns and values of a log type.
type generator struct {
	random  *rand.Rand
	logType string
	from    string
	rows    int
	columns []field
	// optional are columns that few logs have.
	optional []string
}

type field struct {
	name, kind string
	values     []any // some of its values
}

func newGenerator(db *sql.DB, random *rand.Rand, logType, from string, optional []string) (*generator, error) {
	g := &generator{random: random, logType: logType, from: from, optional: optional}
	if err := db.QueryRow("select count(*) from " + from).Scan(&g.rows); err != nil {
		return nil, err
	}
	rows, err := db.Query("select column_name, column_type from (describe select * from " + from + ")")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c field
		if err := rows.Scan(&c.name, &c.kind); err != nil {
			return nil, err
		}
		g.columns = append(g.columns, c)
	}
	for i := range g.columns {
		c := &g.columns[i]
		values, err := db.Query(`select distinct "` + c.name + `" from ` + from + ` where "` + c.name + `" is not null order by 1 limit 40`)
		if err != nil {
			return nil, err
		}
		for values.Next() {
			var v any
			if err := values.Scan(&v); err != nil {
				return nil, err
			}
			if f, is := v.(float64); is && (math.IsNaN(f) || math.IsInf(f, 0)) {
				continue // expressions cannot express these values
			}
			c.values = append(c.values, v)
		}
		values.Close()
	}
	return g, rows.Err()
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func (g *generator) someColumns() []string {
	var names []string
	if len(g.optional) > 0 && g.random.IntN(2) == 0 {
		names = append(names, pick(g.random, g.optional))
	}
	for _, i := range g.random.Perm(len(g.columns))[:1+g.random.IntN(min(15, len(g.columns)))] {
		if name := g.columns[i].name; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (g *generator) expression(depth int) expression {
	if depth == 0 || g.random.IntN(4) == 0 {
		return g.test()
	}
	x := g.expression(depth - 1)
	switch g.random.IntN(5) {
	case 0:
		return expression{"not (" + x.ours + ")", "not (" + x.sql + ")"}
	case 1, 2:
		y := g.expression(depth - 1)
		return expression{"(" + x.ours + ") and (" + y.ours + ")", "(" + x.sql + ") and (" + y.sql + ")"}
	default:
		y := g.expression(depth - 1)
		return expression{"(" + x.ours + ") or (" + y.ours + ")", "(" + x.sql + ") or (" + y.sql + ")"}
	}
}

func (g *generator) test() expression {
	c := pick(g.random, g.columns)
	if len(g.optional) > 0 && g.random.IntN(3) == 0 {
		name := pick(g.random, g.optional)
		c = g.columns[slices.IndexFunc(g.columns, func(c field) bool { return c.name == name })]
	}
	for len(c.values) == 0 && g.random.IntN(10) > 0 {
		c = pick(g.random, g.columns)
	}
	id := `"` + c.name + `"`
	if len(c.values) == 0 || g.random.IntN(10) == 0 {
		null := pick(g.random, []string{" is null", " is not null"})
		return expression{c.name + null, id + null}
	}
	op := pick(g.random, []string{"=", "!=", "<", "<=", ">", ">="})
	switch v := pick(g.random, c.values).(type) {
	case bool:
		if g.random.IntN(2) == 0 {
			return expression{c.name, id}
		}
		op = pick(g.random, []string{"=", "!="})
		return expression{fmt.Sprint(c.name, " ", op, " ", v), fmt.Sprint(id, " ", op, " ", v)}
	case time.Time:
		text := v.UTC().Format(time.RFC3339Nano)
		return expression{c.name + " " + op + ` "` + text + `"`, id + " " + op + " timestamptz " + quote(text)}
	case int64:
		switch g.random.IntN(5) {
		case 0:
			return g.list(c, func(v any) expression { return expression{fmt.Sprint(v), fmt.Sprint(v)} })
		case 1:
			return expression{fmt.Sprintf("%s %s %d.5", c.name, op, v), fmt.Sprintf("%s::double %s %d.5::double", id, op, v)}
		case 2:
			if o := g.other(c, "BIGINT", "DOUBLE"); o != nil {
				return expression{c.name + " " + op + " " + o.name, id + "::double " + op + ` "` + o.name + `"::double`}
			}
		}
		return expression{fmt.Sprint(c.name, " ", op, " ", v), fmt.Sprint(id, " ", op, " ", v)}
	case float64:
		number := func(v any) expression {
			text := strconv.FormatFloat(v.(float64), 'g', -1, 64)
			return expression{text, text + "::double"}
		}
		switch g.random.IntN(5) {
		case 0:
			return g.list(c, number)
		case 1:
			if o := g.other(c, "DOUBLE"); o != nil {
				return expression{c.name + " " + op + " " + o.name, id + " " + op + ` "` + o.name + `"`}
			}
		}
		return expression{c.name + " " + op + " " + number(v).ours, id + " " + op + " " + number(v).sql}
	case string:
		text := func(v any) expression {
			return expression{`"` + strings.ReplaceAll(v.(string), `"`, `""`) + `"`, quote(v.(string))}
		}
		octets := strings.Split(v, ".")
		switch k := g.random.IntN(6); {
		case k == 0:
			return g.list(c, text)
		case k < 3:
			pattern := regexp.QuoteMeta(v)
			if n := len([]rune(v)); n > 3 {
				from := g.random.IntN(n - 2)
				pattern = regexp.QuoteMeta(string([]rune(v)[from : from+1+g.random.IntN(n-from-1)]))
			}
			pattern = pick(g.random, []string{"", "^", "(?i)"}) + pattern + pick(g.random, []string{"", "$", ".*"})
			if g.random.IntN(3) == 0 {
				return expression{c.name + " !~ " + text(pattern).ours, "not regexp_matches(" + id + ", " + quote(pattern) + ")"}
			}
			return expression{c.name + " ~ " + text(pattern).ours, "regexp_matches(" + id + ", " + quote(pattern) + ")"}
		case k < 5 && len(octets) == 4 && strings.HasSuffix(c.name, "_ip"):
			n := 1 + g.random.IntN(4)
			net := strings.Join(append(slices.Clone(octets[:n]), []string{"0", "0", "0", "0"}[n:]...), ".")
			in := pick(g.random, []string{"in", "not in"})
			not := strings.TrimSuffix(in, "in")
			end := "$"
			if n < 4 {
				end = `\.`
			}
			return expression{fmt.Sprintf("%s %s %s/%d", c.name, in, net, 8*n), not + "regexp_matches(" + id + ", " + quote(`^`+strings.Join(octets[:n], `\.`)+end) + ")"}
		}
		return expression{c.name + " " + op + " " + text(v).ours, id + " " + op + " " + text(v).sql}
	default:
		panic(fmt.Sprintf("column %s has a %T", c.name, v))
	}
}

func (g *generator) list(c field, write func(any) expression) expression {
	var ours, sqls []string
	for range 1 + g.random.IntN(4) {
		e := write(pick(g.random, c.values))
		ours, sqls = append(ours, e.ours), append(sqls, e.sql)
	}
	in := pick(g.random, []string{" in (", " not in ("})
	return expression{c.name + in + strings.Join(ours, ", ") + ")", `"` + c.name + `"` + in + strings.Join(sqls, ", ") + ")"}
}

// other returns another column of one of the kinds.
func (g *generator) other(c field, kinds ...string) *field {
	for range 20 {
		if o := pick(g.random, g.columns); o.name != c.name && slices.Contains(kinds, o.kind) {
			return &o
		}
	}
	return nil
}
