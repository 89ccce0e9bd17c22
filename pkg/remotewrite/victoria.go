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
	count int64 // points that it had ignored when last asked
	// pending are points sent since then that it may ignore.
	pending bool
	waited  time.Time // for the count
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

// begin returns how many points the server has ignored of the Send before, and
// remembers the count.
func (v *victoria) begin(ctx context.Context) (n int64) {
	if v.asked && !v.is {
		return 0
	}
	count, is, answered := v.read(ctx)
	if !answered {
		return 0
	}
	v.asked, v.is = true, is
	if v.pending {
		n = max(count-v.count, 0)
	}
	v.count, v.pending = count, false
	return n
}

const (
	// leastRetention is what every VictoriaMetrics keeps.
	leastRetention = 24 * time.Hour
	// countPoll and countWait say when the server's count is read: it follows
	// the acknowledgement by a second, more if the server is busy.
	countPoll = 500 * time.Millisecond
	countWait = 3 * time.Second
)

// end returns how many points the server has ignored since begin, of a Send
// whose oldest point is of the unix time oldest. It waits for the server's
// count every reportEvery only; else begin and settle return the number later.
func (v *victoria) end(ctx context.Context, oldest int64) int64 {
	if !v.is || oldest >= time.Now().Add(-leastRetention).Unix() {
		return 0
	}
	v.pending = true
	if !v.waited.IsZero() && time.Since(v.waited) < reportEvery {
		return 0
	}
	v.waited = time.Now()
	return v.settle(ctx)
}

// settle waits for the count of what was sent, and returns how many points the
// server has ignored since begin.
func (v *victoria) settle(ctx context.Context) int64 {
	if !v.pending {
		return 0
	}
	last := v.count
	for waited := time.Duration(0); waited < countWait; waited += countPoll {
		if retry.Sleep(ctx, countPoll) != nil {
			break
		}
		count, _, answered := v.read(ctx)
		if !answered || count > v.count && count == last {
			break // it has caught up
		}
		last = count
	}
	n := max(last-v.count, 0)
	v.count, v.pending = last, false
	return n
}
