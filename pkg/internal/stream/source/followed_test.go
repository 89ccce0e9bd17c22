package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// recorder is an Inlet that records and acks all lines.
type recorder struct{ text []byte }

func (r *recorder) Deliver(_ context.Context, t batch.Text) error {
	r.text = append(r.text, t.Bytes...)
	t.Acked()
	return nil
}

// TestFollowedRetriesCompressedLog makes the disk fail in the middle of a
// compressed log. Reading continues later, without lost or repeated lines.
func TestFollowedRetriesCompressedLog(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string // text before and after the failure
		want          string
		rejects       int64
	}{
		"line":          {"a\nb\nstart of c, ", "end of c\nd\n", "a\nb\nstart of c, end of c\nd\ne\n", 0},
		"overlong line": {"a\n" + strings.Repeat("x", 5*testMaxLine), "end of x\nd\n", "a\nd\ne\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			text, counts := followFailing(t, c.before, c.after)
			if text != c.want || counts.Cuts.Load() != 0 || counts.Rejects.Load() != c.rejects {
				t.Errorf("%.80q, %d cuts, %d rejects", text, counts.Cuts.Load(), counts.Rejects.Load())
			}
		})
	}
}

// TestFollowedCountsRemovedLines checks that lines that cannot be anonymized count as
// rejects.
func TestFollowedCountsRemovedLines(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "2016_03_24_21_00.out")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	const text = "#c_ip:1 s_ip:2 c_isint:3 s_isint:4 c_iscrypto:5 s_iscrypto:6\n10.1.2.3 8.8.8.8 1 0 0 0\nIPv4:0123 8.8.8.8 1 0 0 0\n10.1.2.3\n"
	if err := os.WriteFile(filepath.Join(folder, "log_tcp_complete"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := anonymize.New(anonymize.Options{Mode: "drop", Names: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	out, counts := &recorder{}, stats.NewStream()
	set, err := New(Options{
		NewInlet: func() Inlet { return out }, MaxRead: testMaxLine, MaxLine: testMaxLine, Window: 1 << 20, Anonymize: a, SourceIs: anonymize.Clear,
		Start: StartBegin, Location: time.UTC, Counts: counts, State: filepath.Join(t.TempDir(), "state"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	f := set.Follow(Root{Probe: "p", Dir: dir}).(*follower)
	if f.order, err = loadOrder(set.opt.State, f.key); err != nil {
		t.Fatal(err)
	}
	f.scan()
	l := f.logs["log_tcp_complete"]
	defer l.close()
	for range 3 {
		if _, err := l.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(string(out.text), "10.1.2.3") || bytes.Count(out.text, []byte{'\n'}) != 4 || counts.Rejects.Load() != 2 || l.src.Rejects.Load() != 2 {
		t.Errorf("%d rejects, %q", counts.Rejects.Load(), out.text)
	}
}

const testMaxLine = 4 << 10

// followFailing follows a compressed log with the text before and after, and a next log
// with the line e. The disk fails once after the first text. It returns the delivered
// text and the counts.
func followFailing(t *testing.T, before, after string) (string, *stats.Stream) {
	t.Helper()
	var data bytes.Buffer
	zw := gzip.NewWriter(&data)
	zw.Write([]byte(before))
	zw.Close()
	good := data.Len()
	zw.Reset(&data)
	zw.Write([]byte(after))
	zw.Close()
	dir := t.TempDir()
	for name, text := range map[string][]byte{"2016_03_24_21_00.out/log_tcp_complete.gz": data.Bytes(), "2016_03_24_22_00.out/log_tcp_complete": []byte("e\n")} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := &recorder{}
	set, err := New(Options{
		NewInlet: func() Inlet { return out }, MaxRead: testMaxLine, MaxLine: testMaxLine, Window: 1 << 20,
		Start: StartBegin, Location: time.UTC, Counts: stats.NewStream(), State: filepath.Join(t.TempDir(), "state"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	f := set.Follow(Root{Probe: "p", Dir: dir}).(*follower)
	if f.order, err = loadOrder(set.opt.State, f.key); err != nil {
		t.Fatal(err)
	}
	f.scan()
	l := f.logs["log_tcp_complete"]
	if opened, err := l.open(); !opened || err != nil {
		t.Fatal(opened, err)
	}
	format, _ := compression.Detect(data.Bytes())
	z := new(compression.Reader)
	z.Reset(format, io.MultiReader(bytes.NewReader(data.Bytes()[:good+3]), iotest.ErrReader(&fs.PathError{Op: "read", Path: "log", Err: syscall.EIO})))
	l.text = z
	for range 40 {
		if _, err := l.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	return string(out.text), set.counts
}
