package parquet

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/parquetfile"
)

// TestDamagedFiles checks that reading and merging damaged files does not panic.
func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	putText(t, s, "2016_03_01_01_00.out", text(7, "b"))
	path := filepath.Join(dir, march1, "2016_03_01_01_00.parquet")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += 5 { // at each byte it would take too long
		damaged := bytes.Clone(data)
		damaged[i] ^= 0xff
		if err := os.WriteFile(path, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		readFooter(path)
		in, err := openStored(path)
		if err != nil {
			continue
		}
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		keep := []span{{0, 6}} // a part of a row group is decoded
		s.concat(ctx, out, in.columns, in.Records, nil, part{in, keep})
		out.Close()
	}
}

// TestVerifyRewrittenFile checks that Verify with Deep reports a file that another program
// has rewritten with other columns and the same metadata.
func TestVerifyRewrittenFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	putText(t, s, "2016_03_01_01_00.out", text(7, "b"))
	s.Close()
	path := filepath.Join(dir, march1, "2016_03_01_01_00.parquet")
	f, err := readFooter(path)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := footerMetadata(f.Records, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := parquetfile.NewWriter(out, parquetfile.Schema{Name: "schema", Columns: []parquetfile.Column{{Name: "c_ip", Type: parquetfile.Int64}}})
	g := &parquetfile.RowGroup{Rows: 7, Values: []parquetfile.Values{{Ints: make([]int64, 7)}}}
	w.Add(g, false)
	_, err = w.Finish()
	if err = errors.Join(err, w.Close(meta), out.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := faults(t, dir, true), []string{"damaged 2016_03_01_01_00.parquet"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
