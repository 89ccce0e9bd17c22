package main

import (
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/duckdb/duckdb-go/v2"
)

// query runs the subcommand query.
func query(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("query", "SQL...", stderr)
	memory := fs.String("memory", "2GB", "memory DuckDB may use")
	threads := fs.Int("threads", 0, "threads; 0: one for each CPU")
	asCSV := fs.Bool("csv", false, "print CSV")
	asJSON := fs.Bool("json", false, "print a JSON object for each row")
	if err := parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		fs.Usage()
		return errUsage
	}
	print := printTable
	switch {
	case *asCSV && *asJSON:
		return fmt.Errorf("-csv and -json exclude each other")
	case *asCSV:
		print = printCSV
	case *asJSON:
		print = printJSON
	}
	db, err := open("", *memory, *threads)
	if err != nil {
		return err
	}
	defer db.Close()
	// Use one connection, so that a SET or a temporary view applies to later
	// statements.
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, q := range fs.Args() {
		if err := runQuery(ctx, conn, q, stdout, print); err != nil {
			return fmt.Errorf("%w\nin: %s", err, q)
		}
	}
	return nil
}

func runQuery(ctx context.Context, conn *sql.Conn, q string, w io.Writer, print func(io.Writer, []*sql.ColumnType, [][]any) error) error {
	rows, err := conn.QueryContext(ctx, q)
	if err != nil {
		return err
	}
	defer rows.Close()
	cols, err := rows.ColumnTypes()
	if err != nil {
		return err
	}
	var data [][]any
	for rows.Next() {
		row := make([]any, len(cols))
		dest := make([]any, len(cols))
		for i := range row {
			dest[i] = &row[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		data = append(data, row)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	// Statements without a result (SET, CREATE VIEW) have no columns, or one of
	// these.
	if len(data) == 0 && (len(cols) == 0 || len(cols) == 1 && (cols[0].Name() == "Count" || cols[0].Name() == "Success")) {
		return nil
	}
	return print(w, cols, data)
}

// text formats a value for a table or CSV. For NULL it returns its second argument.
func text(v any, null string) string {
	switch v := v.(type) {
	case nil:
		return null
	case time.Time:
		s := v.UTC().Format("2006-01-02 15:04:05.999999")
		return strings.TrimSuffix(s, " 00:00:00")
	case []byte:
		return string(v)
	case float64:
		// Print 1500000, not 1.5e+06.
		if v > -1e15 && v < 1e15 {
			return strconv.FormatFloat(v, 'f', -1, 64)
		}
		return strconv.FormatFloat(v, 'g', -1, 64)
	case duckdb.Decimal:
		return v.String()
	case *big.Int:
		return v.String()
	}
	return fmt.Sprint(v)
}

func printTable(w io.Writer, cols []*sql.ColumnType, data [][]any) error {
	width := make([]int, len(cols))
	right := make([]bool, len(cols))
	cells := make([][]string, 1, len(data)+1)
	for i, c := range cols {
		cells[0] = append(cells[0], c.Name())
		width[i] = utf8.RuneCountInString(c.Name())
		right[i] = isNumber(c.DatabaseTypeName())
	}
	for _, row := range data {
		line := make([]string, len(row))
		for i, v := range row {
			// Control characters in logs must not reach the terminal.
			line[i] = strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return '?'
				}
				return r
			}, text(v, "-"))
			width[i] = max(width[i], utf8.RuneCountInString(line[i]))
		}
		cells = append(cells, line)
	}
	var b strings.Builder
	for n, line := range cells {
		for i, s := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(s))
			if i > 0 {
				b.WriteString("  ")
			}
			switch {
			case right[i]:
				b.WriteString(pad + s)
			case i == len(line)-1:
				b.WriteString(s)
			default:
				b.WriteString(s + pad)
			}
		}
		b.WriteByte('\n')
		if n == 0 {
			for i := range line {
				if i > 0 {
					b.WriteString("  ")
				}
				b.WriteString(strings.Repeat("-", width[i]))
			}
			b.WriteByte('\n')
		}
	}
	if len(data) == 0 {
		b.WriteString("(no rows)\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func isNumber(t string) bool {
	t, _, _ = strings.Cut(t, "(")
	switch t {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
		"FLOAT", "DOUBLE", "DECIMAL":
		return true
	}
	return false
}

func printCSV(w io.Writer, cols []*sql.ColumnType, data [][]any) error {
	cw := csv.NewWriter(w)
	line := make([]string, len(cols))
	for i, c := range cols {
		line[i] = c.Name()
	}
	cw.Write(line) // Error returns the error
	for _, row := range data {
		for i, v := range row {
			line[i] = text(v, "")
		}
		cw.Write(line)
	}
	cw.Flush()
	return cw.Error()
}

func printJSON(w io.Writer, cols []*sql.ColumnType, data [][]any) error {
	for _, row := range data {
		var b strings.Builder
		b.WriteByte('{')
		for i, v := range row {
			switch x := v.(type) {
			case duckdb.Decimal:
				v = json.Number(x.String())
			case []byte:
				v = string(x)
			}
			val, err := json.Marshal(v)
			if err != nil { // JSON has no NaN and infinity
				val, _ = json.Marshal(fmt.Sprint(v))
			}
			key, _ := json.Marshal(cols[i].Name())
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(key)
			b.WriteByte(':')
			b.Write(val)
		}
		b.WriteString("}\n")
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}
