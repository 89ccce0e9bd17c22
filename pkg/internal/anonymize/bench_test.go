package anonymize

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// largeLog returns a log of TCP flows of 64 MiB. Its rows have 1 M client addresses, in
// pseudo-random order.
func largeLog(b *testing.B) (log []byte, rows int) {
	text, err := os.ReadFile("testdata/clear/log_tcp_complete")
	if err != nil {
		b.Fatal(err)
	}
	from := bytes.SplitAfter(text, []byte{'\n'})
	log = bytes.Clone(from[0])
	for i := uint32(0); len(log) < 64<<20; i++ {
		row := from[1+int(i)%(len(from)-2)]
		if _, rest, ok := bytes.Cut(row, []byte{' '}); ok {
			log = append(append(append4(log, 10<<24|i*0x9e3779b1>>12), ' '), rest...)
			rows++
		}
	}
	return log, rows
}

// BenchmarkRead measures how long it takes to parse the rows of a log, and to rewrite them.
func BenchmarkRead(b *testing.B) {
	log, rows := largeLog(b)
	typ := tstat.TypeByName("log_tcp_complete")
	for _, mode := range []string{"", "cryptopan,KEY", "truncate=/24,/48"} {
		name, _, _ := strings.Cut(mode, ",") // the name becomes part of a path
		b.Run(cmp.Or(name, "clear"), func(b *testing.B) {
			var a *Anonymizer
			if mode != "" {
				a = newAnonymizer(b, mode)
			}
			for b.Loop() {
				opt := tstat.ReaderOptions{Reject: func(_ int64, reason string, _ []byte) { b.Error(reason) }}
				if a != nil {
					w := a.NewRewriter(typ, RewriterOptions{})
					opt.Rewrite, opt.Rows = w.Reader, w
				}
				rd := tstat.NewReader(bytes.NewReader(log), typ, opt)
				var err error
				for err == nil {
					_, err = rd.Next()
				}
				if n := rd.Counts().Rows; err != io.EOF || n != int64(rows) {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows), "ns/row")
		})
	}
}

// BenchmarkRewrite measures how long it takes to rewrite the text of a log.
func BenchmarkRewrite(b *testing.B) {
	log, rows := largeLog(b)
	for _, mode := range []string{"tstat,KEY", "cryptopan,KEY,names=encrypt", "truncate=/24,/48", "drop,names=drop"} {
		name, _, _ := strings.Cut(mode, ",") // the name becomes part of a path
		b.Run(name, func(b *testing.B) {
			a := newAnonymizer(b, mode)
			b.SetBytes(int64(len(log)))
			for b.Loop() {
				w := a.NewRewriter(tstat.TypeByName("log_tcp_complete"), RewriterOptions{Source: knownSource(Clear)})
				if _, err := io.Copy(io.Discard, w.Reader(bytes.NewReader(log))); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(rows), "ns/row")
		})
	}
}
