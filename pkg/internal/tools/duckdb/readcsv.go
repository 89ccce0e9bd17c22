package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// The type and the layout of the logs that readcsv reads. `make bench` generates such
// logs.
const (
	csvType   = "log_tcp_complete"
	csvLayout = "3.0.0"
)

// readCSV imports logs as DuckDB users would without tstatrepo, for comparison in the
// benchmark. DuckDB gets every advantage: readCSV tells it the types, and rows in a
// Parquet file may be in any order.
func readCSV(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("readcsv", "TREE", stderr)
	to := fs.String("to", "", "table:FILE (a DuckDB database) or parquet:FILE; neither may exist")
	layouts := fs.String("layouts", "../../../tstat/layouts.tsv", "tstatrepo's table of columns")
	memory := fs.String("memory", "4GB", "memory DuckDB may use")
	threads := fs.Int("threads", 2, "threads")
	only := fs.String("select", "", "columns to keep, separated by commas; empty: all")
	times := fs.String("times", "double", "absolute times: double (as they are; a little faster) or timestamp (as tstatrepo has them)")
	if err := parse(fs, args); err != nil {
		return err
	}
	kind, target, ok := strings.Cut(*to, ":")
	if fs.NArg() != 1 || !ok || kind != "table" && kind != "parquet" || *times != "timestamp" && *times != "double" {
		fs.Usage()
		return errUsage
	}
	if _, err := os.Lstat(target); err == nil {
		return fmt.Errorf("%s exists", target)
	}
	cols, err := readLayout(*layouts, csvType, csvLayout)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(fs.Arg(0), "*.out", csvType))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no %s in %s", csvType, fs.Arg(0))
	}
	for _, f := range files {
		if err := checkHeader(f, len(cols)); err != nil {
			return err
		}
	}
	sel := selectCSV(files, cols, *only, *times == "timestamp")
	path, stmt := target, "CREATE TABLE "+csvType+" AS "+sel
	if kind == "parquet" {
		path = ""
		stmt = "COPY (" + sel + ") TO " + quote(target) + " (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
	}
	db, err := open(path, *memory, *threads)
	if err != nil {
		return err
	}
	defer db.Close()
	// If DuckDB need not preserve the order, it is faster for Parquet (by a
	// quarter), but not for a table.
	if kind == "parquet" {
		if _, err := db.ExecContext(ctx, "SET preserve_insertion_order = false"); err != nil {
			return err
		}
	}
	res, err := db.ExecContext(ctx, stmt)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if kind == "table" { // CREATE TABLE does not return the number of rows
		err = db.QueryRowContext(ctx, "SELECT count(*) FROM "+csvType).Scan(&n)
	}
	if err != nil {
		return err
	}
	// Close writes the last rows from DuckDB's write-ahead log into the database.
	if err := db.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, n, "rows")
	return err
}

type column struct{ name, kind string }

// readLayout reads the columns of a log type from the layouts.tsv at path. It returns
// them in the order in which the given Tstat version writes them.
func readLayout(path, logType, version string) ([]column, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	kinds := map[string]string{}
	in := false
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		w := strings.Split(sc.Text(), "\t")
		switch {
		case w[0] == "type" && len(w) > 1:
			in = w[1] == logType
		case in && w[0] == "column" && len(w) > 2:
			kinds[w[1]] = w[2]
		case in && w[0] == "layout" && len(w) > 5 && w[1] == version:
			var cols []column
			for _, name := range strings.Fields(w[5]) {
				if kinds[name] == "" {
					return nil, fmt.Errorf("%s: layout %s of %s has the unknown column %s", path, version, logType, name)
				}
				cols = append(cols, column{name, kinds[name]})
			}
			return cols, nil
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%s: no layout %s of %s", path, version, logType)
}

// checkHeader returns an error unless the file starts with a header line that has the
// given number of columns. DuckDB skips the first line without checking it.
func checkHeader(path string, columns int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !strings.HasPrefix(line, "#15#c_ip:1 ") {
		return fmt.Errorf("%s: not the #15# header of Tstat %s", path, csvLayout)
	}
	if n := len(strings.Fields(line)); n != columns {
		return fmt.Errorf("%s: %d columns, want %d", path, n, columns)
	}
	return nil
}

// selectCSV returns a SELECT from read_csv for files with the given columns. A
// comma-separated list limits the columns to select; "" selects all. The types are those
// of tstatrepo's tables, except that absolute times remain numbers unless timestamps is
// set.
func selectCSV(files []string, cols []column, only string, timestamps bool) string {
	types := map[string]string{
		"int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN", "text": "VARCHAR",
		"time_ms": "DOUBLE", "time_s": "DOUBLE",
	}
	var decl, list []string
	for _, c := range cols {
		name := `"` + c.name + `"`
		kept := only == "" || slices.Contains(strings.Split(only, ","), c.name)
		decl = append(decl, quote(c.name)+": "+quote(types[c.kind]))
		if timestamps && c.kind == "time_ms" {
			name = fmt.Sprintf("make_timestamp((%s * 1000)::BIGINT) AS %s", name, name)
		}
		if kept {
			list = append(list, name)
		}
	}
	sort.Strings(files)
	for i := range files {
		files[i] = quote(files[i])
	}
	return fmt.Sprintf("SELECT %s FROM read_csv([%s], columns = {%s}, auto_detect = false, header = false, skip = 1, "+
		"delim = ' ', quote = '', escape = '', nullstr = ['-', '---'])",
		strings.Join(list, ", "), strings.Join(files, ", "), strings.Join(decl, ", "))
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
