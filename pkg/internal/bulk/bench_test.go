package bulk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// BenchmarkImport imports real rows of 130 columns, repeated, in four files.
func BenchmarkImport(b *testing.B) {
	sample, err := os.ReadFile("../../tstat/testdata/logs/v300/2026_11_22_06_39.out/log_tcp_complete")
	if err != nil {
		b.Fatal(err)
	}
	head, rows, _ := bytes.Cut(sample, []byte("\n"))
	text := append(append(head, '\n'), bytes.Repeat(rows, 500)...)
	root := b.TempDir()
	for h := range 4 {
		dir := filepath.Join(root, fmt.Sprintf("2026_11_22_%02d_39.out", h))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log_tcp_complete"), text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, scheme := range []string{"parquet", "copy"} {
		b.Run(scheme, func(b *testing.B) {
			var n int64
			for b.Loop() {
				s, err := stores.Open(context.Background(), scheme+":"+b.TempDir(), stores.Options{})
				if err != nil {
					b.Fatal(err)
				}
				sum, err := Run(context.Background(), Options{
					Sources: []string{root}, Stores: Opened(s), Probe: "p1", Location: time.UTC, IncludeOpen: true, StateDir: b.TempDir(),
				})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				n += sum.Total.Rows
			}
			b.SetBytes(int64(4 * len(text)))
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkInstances matches the logs of many Tstat processes, which write
// folders of the same name, with their records.
func BenchmarkInstances(b *testing.B) {
	const n = 1000
	r := &run{scanned: map[store.Key]*sameKey{}}
	var tasks []*task
	var records []store.Record
	for i := range n {
		place := fmt.Sprint("instance", i)
		t := &task{path: "/old/" + place + "/log", place: place, size: 1}
		tasks = append(tasks, t)
		records = append(records, store.Record{Path: "/new/" + place + "/log", Place: place})
		r.addScanned(t)
	}
	for b.Loop() {
		for _, t := range tasks {
			t.records = [][]store.Record{records}
			if own, _, _ := r.recordsFor(t, 0); len(own) != 1 {
				b.Fatal(own)
			}
		}
	}
}
