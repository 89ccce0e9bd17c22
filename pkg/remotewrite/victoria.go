package remotewrite

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/retry"
)

// victoria watches what a VictoriaMetrics ignores: it acknowledges points
// beyond its retention, and only its own metrics count them.
type victoria struct {
	*Sink
	url   string
	asked bool  // whether the server is one
	is    bool  // the server is one
	count int64 // that it had ignored when last asked
	kept  int64 // it keeps points of this unix time and later; 0: not known
}

func newVictoria(s *Sink) *victoria {
	v := &victoria{Sink: s}
	if u, err := url.Parse(s.opt.URL); err == nil {
		u.Path, u.RawPath, u.RawQuery = "/metrics", "", ""
		v.url = u.String()
	}
	return v
}

// maxMetrics bounds what is read of a server's metrics, in bytes. Those of a
// VictoriaMetrics are some 100 kB.
const maxMetrics = 16 << 20

// read asks for the count. ok tells whether the answer is that of a
// VictoriaMetrics; answered whether there was one.
func (v *victoria) read(ctx context.Context) (count int64, ok, answered bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, nil)
	if err != nil || v.opt.authorize(r) != nil {
		return 0, false, false
	}
	resp, err := v.client.Do(r)
	if err != nil {
		return 0, false, false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, false, resp.StatusCode < 500
	}
	scan := bufio.NewScanner(io.LimitReader(resp.Body, maxMetrics))
	for scan.Scan() {
		// vm_rows_ignored_total{reason="small_timestamp"} 12
		line, isCount := strings.CutPrefix(scan.Text(), "vm_rows_ignored_total{")
		if !isCount {
			ok = ok || strings.HasPrefix(scan.Text(), "vm_app_version")
			continue
		}
		ok = true
		labels, value, _ := strings.Cut(line, "} ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err == nil && n > 0 && strings.Contains(labels, "_timestamp") {
			count += n
		}
	}
	return count, ok, scan.Err() == nil
}

// begin remembers what the server has ignored before a Send.
func (v *victoria) begin(ctx context.Context) {
	if v.asked && !v.is {
		return
	}
	count, is, answered := v.read(ctx)
	if answered {
		v.asked, v.is = true, is
	}
	v.count = count
}

const (
	// leastRetention is what every VictoriaMetrics keeps.
	leastRetention = 24 * time.Hour
	// countPoll and countWait say when the server's count is read: it follows
	// the acknowledgement by a second, more if the server is busy.
	countPoll = 500 * time.Millisecond
	countWait = 3 * time.Second
)

// ignored returns how many points the server has ignored since begin. oldest
// is the time of the oldest point that was sent. The server is asked only about
// points that are older than those it is known to keep.
func (v *victoria) ignored(ctx context.Context, oldest int64) int64 {
	if v.kept == 0 {
		v.kept = time.Now().Add(-leastRetention).Unix()
	}
	if !v.is || oldest >= v.kept {
		return 0
	}
	var last int64
	for waited := time.Duration(0); waited < countWait; waited += countPoll {
		if retry.Sleep(ctx, countPoll) != nil {
			break
		}
		count, is, answered := v.read(ctx)
		if !is || !answered {
			return last
		}
		n := max(count-v.count, 0)
		if n > 0 && n == last {
			return n
		}
		last = n
	}
	if last == 0 && ctx.Err() == nil {
		v.kept = oldest
	}
	return last
}
