package stream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

// probeNames is the maximum number of probe names that peers may announce.
const probeNames = 4096

// TestManyProbes announces more probe names than are allowed. The connection is
// then closed and its lines reach no sink. Known names continue to work.
func TestManyProbes(t *testing.T) {
	s := startStream(t, Options{Listen: loopback(), Format: JSON})
	send := func(session, text string) (answers string) {
		c := connect(t, s.addr)
		write(t, c, protocol.AckHello+" 1 "+session+"\n"+text)
		c.SetDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection was not closed")
		}
		return string(got)
	}
	const log = "/t/2016_03_24_21_37.out/log_new"
	var text strings.Builder
	for i := range probeNames + 1 {
		fmt.Fprintf(&text, "#probe p%d\n%s x\n", i, log)
	}
	send("a", text.String())
	known := "#probe p7\n" + log + " x\n"
	got := send("b", known+"#probe new\n"+log+" x\n")
	if want := fmt.Sprintf("ack %d\nerror probe new is one too many", len(known)); !strings.Contains(got, want) {
		t.Errorf("answers %q, want %q", got, want)
	}
	sum := s.stop()
	if sum.Refused != 2 || sum.Lines != probeNames+1 || s.err != nil {
		t.Errorf("%+v, %v", sum, s.err)
	}
	out := s.out.String()
	if n := strings.Count(out, `{"probe":"p7",`); n != 2 || strings.Contains(out, `"new"`) || strings.Contains(out, fmt.Sprintf(`"p%d"`, probeNames)) {
		t.Errorf("%d lines of p7 in %.200s", n, out)
	}
	if !strings.Contains(s.log.String(), "too many names of probes") {
		t.Error("no warning")
	}
}
