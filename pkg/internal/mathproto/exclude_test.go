package mathproto

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
)

// TestExporterExcludes checks that a probe neither lists nor serves logs that match
// bulk.Options.Exclude.
func TestExporterExcludes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"2016_03_24_21_00.out/log_tcp_complete", "2016_03_24_21_00.out/log_http_complete", "old/2016_03_24_22_00.out/log_tcp_complete"} {
		path := filepath.Join(dir, name)
		past := time.Now().Add(-time.Hour)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644), os.Chtimes(path, past, past), os.Chtimes(filepath.Dir(path), past, past)); err != nil {
			t.Fatal(err)
		}
	}
	opt := bulk.Options{Exclude: []string{"log_http_*", "old/*"}}
	p, err := NewExporter(ExporterOptions{Dir: dir, Stream: "{type}", Settle: time.Second, Location: time.UTC, Excludes: opt.Excludes})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.scanFolder(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files, streams := slices.Sorted(maps.Keys(s.files)), slices.Sorted(maps.Keys(s.streams))
	if !slices.Equal(files, []string{"2016_03_24_21_00.out/log_tcp_complete"}) || !slices.Equal(streams, []string{"log_tcp_complete"}) {
		t.Errorf("files %q of streams %q", files, streams)
	}
}
