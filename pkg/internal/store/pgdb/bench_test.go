package pgdb

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// BenchmarkConvert reads a log of 130 columns and encodes its rows for COPY.
func BenchmarkConvert(b *testing.B) {
	b.Run("text", func(b *testing.B) { convert(b, false, false) })
	b.Run("binary", func(b *testing.B) { convert(b, true, false) })
	b.Run("binary as written", func(b *testing.B) { convert(b, true, true) })
}

func convert(b *testing.B, binary, asWritten bool) {
	sample, err := os.ReadFile("../../../tstat/testdata/logs/v300/2026_11_22_06_39.out/log_tcp_complete")
	if err != nil {
		b.Fatal(err)
	}
	head, rows, _ := bytes.Cut(sample, []byte("\n"))
	text := append(append(bytes.Clone(head), '\n'), bytes.Repeat(rows, 200)...)
	typ := tstat.TypeByName("log_tcp_complete")
	var targets []sqlstore.Target
	for i, c := range typ.Columns {
		t := SQLType(c)
		types := map[string]string{"bigint": "int8", "double precision": "float8", "boolean": "bool"}
		if asWritten { // as in DBStream's tables
			types = map[string]string{"bigint": "int4", "double precision": "float8", "boolean": "int4", "timestamptz": "float8"}
		}
		if types[t] != "" {
			t = types[t]
		}
		targets = append(targets, sqlstore.Target{Name: c.Name, Type: t, Source: i})
	}
	r := new(tstat.Reader)
	var buf Batch
	n := 0
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		r.Reset(bytes.NewReader(text), typ, tstat.ReaderOptions{})
		rows := newRows(store.FileInfo{Type: typ, Columns: typ.Columns}, RowOptions{Targets: targets, Columns: sqlstore.Widen, AsWritten: asWritten, binary: binary})
		for {
			batch, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if _, err := rows.Start(batch); err != nil {
				b.Fatal(err)
			}
			buf = Batch{data: buf.data[:0], lines: buf.lines[:0], rows: buf.rows[:0]}
			begin := rows.Begin(nil)
			for i := range batch.Len() {
				rows.Append(&buf, begin, batch, i, "")
			}
			n += batch.Len()
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}
