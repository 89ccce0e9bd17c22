package anonymize

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// BenchmarkRewrite uses one of 1 M client addresses in each row, in pseudo-random order.
func BenchmarkRewrite(b *testing.B) {
	text, err := os.ReadFile("testdata/clear/log_tcp_complete")
	if err != nil {
		b.Fatal(err)
	}
	rows := bytes.SplitAfter(text, []byte{'\n'})
	for _, mode := range []string{"tstat,KEY", "cryptopan,KEY,names=encrypt", "truncate=/24,/48", "drop,names=drop"} {
		name, _, _ := strings.Cut(mode, ",") // the name becomes part of a path
		b.Run(name, func(b *testing.B) {
			a := newAnonymizer(b, mode)
			log := bytes.Clone(rows[0])
			for i := uint32(0); len(log) < 64<<20; i++ {
				row := rows[1+int(i)%(len(rows)-2)]
				if _, rest, ok := bytes.Cut(row, []byte{' '}); ok {
					log = append(append(append4(log, 10<<24|i*0x9e3779b1>>12), ' '), rest...)
				}
			}
			n := bytes.Count(log, []byte{'\n'})
			b.SetBytes(int64(len(log)))
			for b.Loop() {
				w := a.NewRewriter(tstat.TypeByName("log_tcp_complete"), RewriterOptions{Source: knownSource(Clear)})
				if _, err := io.Copy(io.Discard, w.Reader(bytes.NewReader(log))); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
		})
	}
}
