package console

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -999: "-999", -1000: "-1,000", 1234567: "1,234,567"} {
		if got := Count(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestConsole(t *testing.T) {
	var b bytes.Buffer
	con := New(&b, false)
	log := con.Logger().With("probe", "turin")
	log.Debug("hidden")
	log.Info("new folder", "folder", "x.out", "took", 2*time.Second)
	log.WithGroup("g").Warn("odd\nname", "file", "a b", "empty", "", slog.Group("h", "n", 1))
	log.Error("bad", "file", "\x1b[2J", "err", errors.New("no space"))
	con.Fail(hint.Add(errors.Join(errors.New("one"), errors.New("two")), "do this"))
	const want = `tstatrepo: new folder probe=turin folder=x.out took=2s
tstatrepo: warning: odd\nname probe=turin g.file="a b" g.empty="" g.h.n=1
tstatrepo: error: bad probe=turin file="\x1b[2J" err="no space"
tstatrepo: one
tstatrepo: two
hint: do this
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}

	b.Reset()
	con.json = true
	con.Fail(hint.Add(errors.New("one"), "do this"))
	if s := b.String(); !strings.Contains(s, `"level":"ERROR","msg":"command failed","err":"one","hint":"do this"`) {
		t.Error(s)
	}
}

// TestBar checks that log lines and the bar do not share a line, and that the bar is
// removed at the end.
func TestBar(t *testing.T) {
	var b bytes.Buffer
	con := New(&b, true)
	p, stop := con.Progress(0, false)
	p.Total(2, 1<<20)
	p.Add(1<<10, 5)
	con.Logger().Warn("odd")
	p.Add(1<<19, 5)
	stop()
	out := b.String()
	if !strings.Contains(out, "1.0 MiB") || !strings.Contains(out, "rows/s") {
		t.Errorf("no bar: %q", out)
	}
	if !strings.Contains(out, "\rtstatrepo: warning: odd\n") {
		t.Errorf("log line within the bar: %q", out)
	}
	if last := out[strings.LastIndex(strings.TrimSuffix(out, "\r"), "\r")+1:]; strings.TrimSpace(last) != "" {
		t.Errorf("left on the screen: %q", last)
	}
	if con.clear != nil {
		t.Error("the console still has a bar")
	}
}

func TestNoBar(t *testing.T) {
	if p, stop := New(io.Discard, false).Progress(0, false); p != nil {
		t.Error("progress without a terminal")
	} else {
		stop()
	}
	var b bytes.Buffer
	con := New(&b, false)
	written := func() string {
		con.mu.Lock()
		defer con.mu.Unlock()
		return b.String()
	}
	p, stop := con.Progress(10*time.Millisecond, false)
	p.Total(1, 100)
	p.Add(50, 7)
	for end := time.Now().Add(time.Minute); !strings.Contains(written(), `tstatrepo: progress read="50 B" total="100 B" rows=7`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(written())
		}
	}
	stop()
}
