package tstat

import (
	"bytes"
	"io"
	"testing"
)

// BenchmarkReader reads real rows of 130 columns.
func BenchmarkReader(b *testing.B) { benchmarkReader(b, ReaderOptions{}) }

func benchmarkReader(b *testing.B, opt ReaderOptions) {
	head, rows, _ := bytes.Cut(sample(b, "v300/2026_11_22_06_39.out/log_tcp_complete"), []byte("\n"))
	data := append(append(head, '\n'), bytes.Repeat(rows, 200)...)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	r := new(Reader)
	var n int64
	for b.Loop() {
		r.Reset(bytes.NewReader(data), TypeByName("log_tcp_complete"), opt)
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

// BenchmarkReaderSome reads 15 of the 130 columns.
func BenchmarkReaderSome(b *testing.B) {
	some := map[string]bool{}
	for _, name := range []string{"c_ip", "c_port", "s_ip", "s_port", "c_bytes_all", "s_bytes_all", "first", "last", "durat", "c_pkts_all", "s_pkts_all", "con_t", "c_tls_SNI", "fqdn", "c_rtt_avg"} {
		some[name] = true
	}
	benchmarkReader(b, ReaderOptions{Use: func(c Column) Use {
		if some[c.Name] {
			return Kept
		}
		return Skipped
	}})
}
