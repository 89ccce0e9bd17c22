package main

import (
	"bytes"
	"compress/gzip"
	"database/sql"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// logsEnv is the environment variable that names a tree of sample logs to use
// instead of the bundled one: PROBE/YYYY_MM_DD_HH_MM.out/log_*.
const logsEnv = "TSTATREPO_TESTLOGS"

const bundledLogs = "../../../tstat/testdata/logs"

// TestReadback imports sample logs with the real command, and compares the values
// that DuckDB reads from the Parquet files with the text. It compares the number
// of rows of every file. For files with a header line it also compares the NULLs
// and sums of every column; for texts, the sums of their lengths.
//
// The test has its own simple parser, so that it can find mistakes in pkg/tstat.
func TestReadback(t *testing.T) {
	logs := bundledLogs
	if dir := os.Getenv(logsEnv); dir != "" {
		logs = dir
	}
	compareLogs(t, logs)
}

// TestReadbackLong is like TestReadback, with logs of several row groups, so that
// all encodings occur and row groups are encoded in parallel.
func TestReadbackLong(t *testing.T) {
	logs := t.TempDir()
	command(t, "../../../..", "go", "run", "./cmd/tstatgen", "-out", filepath.Join(logs, "generated"), "-rows", "34000", "-dirs", "1", "-types", "tcp,http")
	compareLogs(t, logs)
}

// compareLogs does the work of TestReadback for a tree of logs.
func compareLogs(t *testing.T, logs string) {
	t.Helper()
	files, err := readLogs(logs)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no log files in %s", logs)
	}
	out := importLogs(t, logs, files)

	db, err := open("", "1GB", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	byType := map[string][]*logFile{}
	for _, f := range files {
		byType[f.logType] = append(byType[f.logType], f)
	}
	for logType, files := range byType {
		t.Run(logType, func(t *testing.T) { compareType(t, db, out, logType, files) })
	}
}

// TestOldAndNewType reads old files, in which a column is a text because it was
// unknown, together with new files, in which the column is a number.
func TestOldAndNewType(t *testing.T) {
	logs := t.TempDir()
	dir := filepath.Join(logs, "p", "2016_03_24_21_37.out")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log := "#c_ip:1 c_port:2 c_msgsize1:3 c_sit1:4\n10.0.0.1 1 7 0.250000\n10.0.0.1 2 - 1.5\n"
	if err := os.WriteFile(filepath.Join(dir, "log_tcp_complete"), []byte(log), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := readLogs(logs)
	if err != nil {
		t.Fatal(err)
	}
	out := importLogs(t, logs, files)
	db, err := open("", "1GB", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i, old := range []string{"type=log_tcp_complete/probe=p/date=2016-03-24/0_old.parquet", "type=log_tcp_complete/probe=p/date=2016-03-24/9_old.parquet"} {
		if _, err := db.Exec(fmt.Sprintf("copy (select '10.0.0.1' as c_ip, %d::bigint as c_port, '12' as c_msgsize1, '2.500000' as c_sit1) to %s (format parquet)", 3+i, quote(filepath.Join(out, old)))); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string][4]float64{
		"*.parquet":                {4, 31, 6.75, 1},
		"[02]*.parquet":            {3, 19, 4.25, 1},
		"2016_03_24_21_37.parquet": {2, 7, 1.75, 1},
	} {
		var got [4]float64
		err := db.QueryRow("select count(*), sum(c_msgsize1::bigint), sum(c_sit1::double), count(*) filter (c_msgsize1 is null) from read_parquet("+
			quote(out+"/type=log_tcp_complete/**/"+file)+", union_by_name = true)").Scan(&got[0], &got[1], &got[2], &got[3])
		if err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", file, got, err, want)
		}
	}
}

// importLogs imports each tree below logs as a probe of the same name.
func importLogs(t *testing.T, logs string, files []*logFile) string {
	t.Helper()
	tmp := t.TempDir()
	bin := filepath.Join(tmp, "tstatrepo")
	build := exec.Command("go", "build", "-o", bin, "./cmd/tstatrepo")
	build.Dir = "../../../.."
	if msg, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, msg)
	}
	out := filepath.Join(tmp, "out")
	done := map[string]bool{}
	for _, f := range files {
		if done[f.probe] {
			continue
		}
		done[f.probe] = true
		imp := exec.Command(bin, "import-bulk", "--to", "parquet:"+out, "--probe", f.probe, "--include-open",
			"--timezone", "UTC", "--state-dir", filepath.Join(tmp, "state"), filepath.Join(logs, f.probe))
		if msg, err := imp.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", imp, err, msg)
		}
	}
	return out
}

// compareType compares all files of a log type.
func compareType(t *testing.T, db *sql.DB, out, logType string, files []*logFile) {
	table := fmt.Sprintf("read_parquet(%s, filename = true, union_by_name = true, hive_partitioning = true)",
		quote(out+"/type="+logType+"/**/*.parquet"))
	stored := map[string]map[string]any{} // file -> alias -> aggregate
	var types map[string]string
	rows := 0
	for _, f := range files {
		rows += f.rows
	}
	if rows > 0 { // otherwise there may be no Parquet file
		var err error
		if types, err = describe(db, table); err != nil {
			t.Fatal(err)
		}
		if stored, err = aggregate(db, table, types); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		got, ok := stored[f.key()]
		delete(stored, f.key())
		if !ok && f.rows == 0 {
			continue
		}
		if !ok {
			t.Errorf("%s: no Parquet file", f.path)
			continue
		}
		if n := got["rows"]; n != int64(f.rows) {
			t.Errorf("%s: %v rows, the text has %d", f.path, n, f.rows)
			continue
		}
		switch {
		case !f.header:
			t.Logf("%s: %d rows; no header, so no sums", f.path, f.rows)
		case f.odd > 0:
			t.Logf("%s: %d rows; %d of them do not fit the header, so no sums", f.path, f.rows, f.odd)
		default:
			compareColumns(t, f, types, got)
		}
	}
	for key := range stored {
		t.Errorf("%s: rows of a file that does not exist", key)
	}
}

// compareColumns compares the columns of a file.
func compareColumns(t *testing.T, f *logFile, types map[string]string, got map[string]any) {
	for name := range f.cols {
		if types[name] == "" {
			t.Errorf("%s: column %s is not stored", f.path, name)
		}
	}
	names := make([]string, 0, len(types))
	for name := range types {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		vals, ok := f.cols[name]
		if !ok {
			if n := got["n_"+name].(int64); n != 0 && !derived[name] {
				t.Errorf("%s: column %s is not in the text but has %d values", f.path, name, n)
			}
			continue
		}
		want, err := aggregateText(name, vals, types[name])
		if err != nil {
			t.Errorf("%s: column %s: %v", f.path, name, err)
			continue
		}
		if n := got["n_"+name].(int64); n != want.n {
			t.Errorf("%s: column %s: %d values that are not NULL, the text has %d", f.path, name, n, want.n)
			continue
		}
		sum, err := parseBig(got["s_"+name])
		if err != nil {
			t.Errorf("%s: column %s: sum %v: %v", f.path, name, got["s_"+name], err)
			continue
		}
		diff := new(big.Float).Sub(sum, want.sum)
		if d, _ := diff.Abs(diff).Float64(); d > want.tolerance {
			t.Errorf("%s: column %s: sum %s, the text has %s", f.path, name, sum.Text('f', 6), want.sum.Text('f', 6))
		}
	}
	t.Logf("%s: compared %d rows, %d columns", f.path, f.rows, len(f.cols))
}

// ---- the stored side

// hive are the columns that DuckDB adds: those of the folder names, and filename.
var hive = map[string]bool{"type": true, "probe": true, "date": true, "filename": true}

// derived are columns whose values are not in a column of the text.
var derived = map[string]bool{
	"kind": true, // log_http_complete: request or response
}

func describe(db *sql.DB, table string) (map[string]string, error) {
	rows, err := db.Query("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM " + table + ")")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types := map[string]string{}
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			return nil, err
		}
		if !hive[name] {
			types[name] = typ
		}
	}
	return types, rows.Err()
}

// aggregate returns the count and sum of each column, by source file and alias.
// Counts are int64, sums are texts.
func aggregate(db *sql.DB, table string, types map[string]string) (map[string]map[string]any, error) {
	list := []string{`filename`, `count(*) AS "rows"`}
	for name, typ := range types {
		c := `"` + name + `"`
		var sum string
		switch {
		case typ == "BOOLEAN":
			sum = "count_if(" + c + ")"
		case strings.HasPrefix(typ, "TIMESTAMP"):
			sum = "sum(epoch_us(" + c + ")::HUGEINT)"
		case typ == "DOUBLE" || typ == "FLOAT":
			sum = "fsum(" + c + ") FILTER (isfinite(" + c + "))"
		case typ == "VARCHAR":
			sum = "sum(strlen(" + c + "))"
		default:
			sum = "sum(" + c + ")"
		}
		list = append(list, fmt.Sprintf(`count(%s) AS "n_%s"`, c, name))
		list = append(list, fmt.Sprintf(`coalesce(%s, 0)::VARCHAR AS "s_%s"`, sum, name))
	}
	rows, err := db.Query("SELECT " + strings.Join(list, ", ") + " FROM " + table + " GROUP BY filename")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]any{}
	for rows.Next() {
		vals, dest := make([]any, len(cols)), make([]any, len(cols))
		for i := range vals {
			dest[i] = &vals[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		m := map[string]any{}
		for i, c := range cols {
			m[c] = vals[i]
		}
		key := parquetKey(m["filename"].(string))
		if all[key] != nil {
			return nil, fmt.Errorf("two Parquet files of %s", key)
		}
		all[key] = m
	}
	return all, rows.Err()
}

var parquetPath = regexp.MustCompile(`/type=([^/]*)/probe=([^/]*)/date=\d{4}-\d\d-\d\d/([^/]*?)(?:\.out)?\.parquet$`)

// parquetKey converts the path of a Parquet file to logFile.key.
func parquetKey(path string) string {
	m := parquetPath.FindStringSubmatch(path)
	if m == nil {
		return path
	}
	return m[2] + "/" + m[3] + "/" + m[1]
}

func parseBig(v any) (*big.Float, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("%T is not text", v)
	}
	f, _, err := big.ParseFloat(s, 10, 200, big.ToNearestEven)
	return f, err
}

// ---- the text

// logFile is a log, parsed from its text.
type logFile struct {
	path, probe, folder, logType string

	header bool
	rows   int
	odd    int                 // rows with another number of columns than the header
	cols   map[string][]string // name in the store -> the values
}

func (f *logFile) key() string { return f.probe + "/" + f.folder + "/" + f.logType }

// readLogs reads PROBE/FOLDER.out/log_* below dir.
func readLogs(dir string) ([]*logFile, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*.out", "log_*"))
	if err != nil {
		return nil, err
	}
	var files []*logFile
	for _, p := range paths {
		folder := filepath.Dir(p)
		f := &logFile{
			path:    p,
			probe:   filepath.Base(filepath.Dir(folder)),
			folder:  strings.TrimSuffix(filepath.Base(folder), ".out"),
			logType: strings.TrimSuffix(filepath.Base(p), ".gz"),
			cols:    map[string][]string{},
		}
		text, err := readText(p)
		if err != nil {
			return nil, err
		}
		f.parse(text)
		files = append(files, f)
	}
	return files, nil
}

// readText returns the text up to the last newline. A killed Tstat leaves the last
// line, or the end of the gzip stream, unfinished.
func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(path, ".gz") && len(b) > 0 {
		zr, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if b, err = io.ReadAll(zr); err != nil && err != io.ErrUnexpectedEOF {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	return string(b[:bytes.LastIndexByte(b, '\n')+1]), nil
}

var headerMark = regexp.MustCompile(`^#(\d\d#|[CS]#)?`)

func (f *logFile) parse(text string) {
	sep := " "
	if f.logType == "log_http_complete" {
		sep = "\t"
	}
	var names, response []string
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "#") {
			var h []string
			for _, w := range strings.Split(headerMark.ReplaceAllString(line, ""), sep) {
				name, _, _ := strings.Cut(w, ":")
				h = append(h, name)
			}
			f.header = true
			if strings.HasPrefix(line, "#S#") {
				response = h
			} else {
				names = h
			}
			continue
		}
		f.rows++
		vals, h := strings.Split(line, sep), names
		if response != nil && len(vals) > 5 && vals[5] == "HTTP" {
			h = response
		}
		if len(vals) != len(h) {
			f.odd++
			continue
		}
		f.add(h, vals)
	}
}

// typeColumns are the stored names of the column that headers call type. The store
// uses type as a folder's key.
var typeColumns = map[string]string{
	"log_dns_complete": "dns_type", "log_chat_complete": "chat_type", "log_chat_messages": "msg_type",
}

// synonyms maps old names of columns to the names in newer Tstat versions.
var synonyms = map[string]string{
	"c_ssl": "c_tls_SNI", "c_ssl_SNI": "c_tls_SNI", "s_ssl": "s_tls_SCN", "s_ssl_SCN": "s_tls_SCN",
	"c_tls_sesid": "tls_session_stat",
}

// add adds a row to the columns.
func (f *logFile) add(names, vals []string) {
	row := map[string]string{}
	for i, name := range names {
		if s := synonyms[name]; s != "" {
			name = s
		}
		if name == "type" {
			name = typeColumns[f.logType]
		}
		if name != "HTTP" { // log_http_complete's mark of a response
			row[name] = vals[i]
		}
	}
	// In Tstat 2.x, first and last are relative to the start of the run; only
	// first_abs is absolute.
	if abs, ok := row["first_abs"]; ok {
		row["first_rel_ms"], row["last_rel_ms"] = row["first"], row["last"]
		row["first"], row["last"] = abs, addDecimals(abs, row["durat"])
	}
	for name, v := range row {
		f.cols[name] = append(f.cols[name], v)
	}
}

// addDecimals returns a + b, or a if one of them is not a number.
func addDecimals(a, b string) string {
	var x, y big.Rat
	if _, ok := x.SetString(a); !ok {
		return a
	}
	if _, ok := y.SetString(b); !ok {
		return a
	}
	return x.Add(&x, &y).FloatString(6)
}

// textAggregate has the expected count and sum of a column.
type textAggregate struct {
	n         int64      // values that are not NULL
	sum       *big.Float // of the values; of the lengths in bytes for text
	tolerance float64    // maximum difference of the stored sum from sum
}

// aggregateText computes the count and sum that aggregate computes in SQL. typ is
// the SQL type of the column.
func aggregateText(name string, vals []string, typ string) (textAggregate, error) {
	a := textAggregate{sum: new(big.Float).SetPrec(200)}
	var size float64 // sum of the absolute values
	for _, s := range vals {
		if typ == "VARCHAR" {
			// An empty text is a value. YouTube's columns have -- for NULL.
			if s != "-" && !(s == "--" && strings.HasPrefix(name, "yt_")) {
				a.n++
				a.sum.Add(a.sum, big.NewFloat(float64(storedLen(s))))
			}
			continue
		}
		switch s {
		case "", "-", "--", "---", "?":
			continue
		}
		if strings.TrimLeft(s, "+-") == "nan" {
			s = "nan"
		}
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return a, err
		}
		isTime := strings.HasPrefix(typ, "TIMESTAMP")
		if isTime && x == 0 {
			continue // 0 means that the event did not occur
		}
		a.n++
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		d, _, err := big.ParseFloat(s, 10, 200, big.ToNearestEven)
		if err != nil {
			return a, err
		}
		if isTime {
			// The store has µs; times are logged in ms or in seconds.
			f := 1e6
			if x > 1e11 {
				f = 1e3
			}
			d.Mul(d, big.NewFloat(f))
			a.tolerance++ // rounding
		}
		a.sum.Add(a.sum, d)
		size += math.Abs(x)
	}
	if typ == "DOUBLE" || typ == "FLOAT" {
		a.tolerance = size * 1e-12 // of binary fractions
	}
	return a, nil
}

// storedLen returns the length in bytes of a text in the store, in which NUL and
// invalid UTF-8 are escaped as \xHH.
func storedLen(s string) (n int) {
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == 0 || r == utf8.RuneError && size == 1 {
			n += 4
		} else {
			n += size
		}
		s = s[size:]
	}
	return n
}
