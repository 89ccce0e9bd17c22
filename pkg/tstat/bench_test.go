package tstat

import (
	"bytes"
	"io"
	"testing"
)

// BenchmarkReader reads real rows of 130 columns.
func BenchmarkReader(b *testing.B) {
	head, rows, _ := bytes.Cut(sample(b, "v300/2026_11_22_06_39.out/log_tcp_complete"), []byte("\n"))
	data := append(append(head, '\n'), bytes.Repeat(rows, 200)...)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	r := new(Reader)
	var n int64
	for b.Loop() {
		r.Reset(bytes.NewReader(data), TypeByName("log_tcp_complete"), ReaderOptions{})
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
		n += r.Counts().Rows
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}
