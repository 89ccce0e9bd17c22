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

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// victoria determines how many points VictoriaMetrics drops. VictoriaMetrics acknowledges
// points that are older than its retention, drops them, and only counts them in its
// metrics.
type victoria struct {
	*Sink
	url        string
	known      bool  // the server has answered, so that isVictoria is valid
	isVictoria bool  // the server is VictoriaMetrics
	count      int64 // count of dropped points when last read
	// pending is set if old points were sent since count was read.
	pending bool
	waited  time.Time // when the method end last waited for the count
	silent  time.Time // when the server last gave no usable answer to begin
}

func newVictoria(s *Sink) *victoria {
	v := &victoria{Sink: s}
	if u, err := url.Parse(s.opt.URL); err == nil {
		u.Path, u.RawPath, u.RawQuery = "/metrics", "", ""
		v.url = u.String()
	}
	return v
}

// maxMetrics is the maximum number of bytes read from the server's metrics page.
// VictoriaMetrics sends about 100 kB.
const maxMetrics = 16 << 20

// read returns the number of dropped points from the server's metrics page. ok is true if
// the server is VictoriaMetrics. answered is false if the server gave no usable answer;
// the other results must then be ignored.
func (v *victoria) read(ctx context.Context) (count int64, ok, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
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

// begin reads the server's count of dropped points at the start of a Send. It returns the
// number of points that were dropped in earlier Sends but not reported yet.
func (v *victoria) begin(ctx context.Context) (n int64) {
	if v.known && !v.isVictoria || time.Since(v.silent) < silentFor {
		return 0
	}
	count, is, answered := v.read(ctx)
	if !answered {
		v.silent = time.Now()
		return 0
	}
	v.known, v.isVictoria = true, is
	if v.pending {
		n = max(count-v.count, 0)
	}
	v.count, v.pending = count, false
	return n
}

const (
	// answerWait limits the time to read the metrics page. After a request without a
	// usable answer, begin sends no other for silentFor, so that a server or proxy that
	// does not answer it cannot delay each Send.
	answerWait = 5 * time.Second
	silentFor  = time.Minute
	// leastRetention is the minimum retention that VictoriaMetrics allows.
	leastRetention = 24 * time.Hour
	// VictoriaMetrics updates the count a second after the acknowledgement, or
	// later if it is busy. The count is polled every countPoll for countWait.
	countPoll = 500 * time.Millisecond
	countWait = 3 * time.Second
)

// end returns how many points the server has dropped in this Send, whose oldest point has
// the given Unix time. The server updates its count late, so end waits for the update,
// but at most once per reportEvery. If it does not wait, it returns 0, and a later call
// to begin, end or awaitCount reports the points.
func (v *victoria) end(ctx context.Context, oldest int64) int64 {
	if !v.isVictoria || oldest >= time.Now().Add(-leastRetention).Unix() {
		return 0
	}
	v.pending = true
	if !v.waited.IsZero() && time.Since(v.waited) < reportEvery {
		return 0
	}
	v.waited = time.Now()
	return v.awaitCount(ctx)
}

// awaitCount waits up to countWait for the server to update its count of dropped points.
// It returns the increase since the count was last read.
func (v *victoria) awaitCount(ctx context.Context) int64 {
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
			break // the count has settled, or the server is down
		}
		last = count
	}
	n := max(last-v.count, 0)
	v.count, v.pending = last, false
	return n
}
