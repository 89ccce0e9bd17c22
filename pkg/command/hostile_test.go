//go:build linux

package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Limits during the attack: the memory of serve and supervisor, as stated in the
// manual, and the additional delay of another probe's data.
const (
	serveMemory      = 600 << 20
	supervisorMemory = 300 << 20
	extraDelay       = 5 * time.Second
)

// attacker is a peer with valid certificates that uses as many resources as it can.
type attacker struct {
	t     *testing.T
	s     *site
	ctx   context.Context
	wg    sync.WaitGroup
	files []peer.TLS // certificates of the attacker
}

// newAttacker issues certificates for n names.
func newAttacker(ctx context.Context, s *site, n int) *attacker {
	a := &attacker{t: s.t, s: s, ctx: ctx}
	for i := range n {
		cert, key, ca := s.issue("Components", fmt.Sprintf("Probe-mallory%d", i))
		a.files = append(a.files, peer.TLS{Cert: cert, Key: key, CA: ca})
	}
	return a
}

// client returns an HTTP client with certificate i.
func (a *attacker) client(i int) *http.Client {
	return &http.Client{Transport: &http.Transport{DialTLSContext: a.files[i].Dial, MaxIdleConnsPerHost: 16}}
}

// repeat calls f until the attack ends, with pauses of 100 ms.
func (a *attacker) repeat(f func()) {
	a.wg.Go(func() {
		for a.ctx.Err() == nil {
			f()
			select {
			case <-a.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// post sends a body and returns the status and the text of the response. Both
// are zero if the request fails.
func (a *attacker) post(c *http.Client, url, contentType string, body io.Reader) (code int, text string) {
	r, err := http.NewRequestWithContext(a.ctx, http.MethodPost, url, body)
	if err != nil {
		a.t.Error(err)
		return 0, ""
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := c.Do(r)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// trickle reads head and then spaces without end, at rate bytes per second.
type trickle struct {
	ctx  context.Context
	head string
	rate int
}

func (r *trickle) Read(p []byte) (int, error) {
	if r.head != "" {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case <-time.After(250 * time.Millisecond):
	}
	n := copy(p, strings.Repeat(" ", max(r.rate/4, 1)))
	return n, nil
}

// slowBodies sends slow bodies, n concurrently.
func (a *attacker) slowBodies(n int) {
	for i := range n {
		target := []string{
			"https://" + a.s.points + "/register/result/indirect_export", "https://" + a.s.points + "/register/result/indirect_export",
			"https://" + a.s.logs + "/DBSImport", "https://" + a.s.components + "/register/capability",
		}[i%4]
		kind := []string{"application/json", "application/json", "application/json", "application/x-mplane+json"}[i%4]
		c := a.client(i % len(a.files))
		a.repeat(func() { a.post(c, target, kind, &trickle{a.ctx, "[", 1500}) })
	}
}

// idle keeps n silent connections open. It replaces connections that the server closes.
func (a *attacker) idle(n int) {
	for i := range n {
		addr := a.s.lines
		switch i % 20 {
		case 0: // MATH accepts 256 connections
			addr = a.s.logs
		case 1, 2, 3, 4, 5, 6, 7:
			addr = a.s.points
		case 8, 9, 10, 11, 12, 13:
			addr = a.s.components
		}
		files := a.files[i%len(a.files)]
		a.repeat(func() {
			var c net.Conn
			var err error
			if i%2 == 0 { // half of them skip the TLS handshake
				c, err = (&net.Dialer{}).DialContext(a.ctx, "tcp", addr)
			} else {
				c, err = files.Dial(a.ctx, "tcp", addr)
			}
			if err != nil {
				time.Sleep(time.Second)
				return
			}
			defer c.Close()
			defer context.AfterFunc(a.ctx, func() { c.Close() })()
			io.Copy(io.Discard, c)
		})
	}
}

// points posts lists of points with total distinct names.
func (a *attacker) points(total int) {
	c := a.client(0)
	for part := range 4 {
		a.repeat(func() {
			r, w := io.Pipe()
			go func() {
				io.WriteString(w, "[")
				for i := range total {
					name := fmt.Sprintf("tcp_x%d_%d.avg.rrd", part, i)
					if i%2 == 0 {
						name = fmt.Sprintf("evil%d_%d", part, i)
					}
					if _, err := fmt.Fprintf(w, "%s[%q, %d, 1]", []string{"", ","}[min(i, 1)], name, 1600000000+300*i%1000000); err != nil {
						return
					}
				}
				io.WriteString(w, "]")
				w.Close()
			}()
			a.post(c, "https://"+a.s.points+"/register/result/indirect_export", "application/json", r)
			r.Close()
		})
	}
}

// streams registers MATH streams. Half of them list many names; the others send their
// files slowly.
func (a *attacker) streams(names int) {
	config, err := a.files[0].Server(slog.New(slog.DiscardHandler))
	if err != nil {
		a.t.Fatal(err)
	}
	var lists [4][]byte
	for i := range lists {
		var b strings.Builder
		for k := range names {
			at := time.Date(2010, 1, 1, k/8, i, 0, 0, time.UTC)
			fmt.Fprintf(&b, "%c%q", "[,"[min(k, 1)], fmt.Sprintf("d%d/%s/log_tcp_complete", k%8, at.Format("2006_01_02_15_04.out")))
		}
		b.WriteByte(']')
		lists[i] = []byte(b.String())
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var i int
		if _, err := fmt.Sscanf(r.URL.Path, "/ListDir/long%d", &i); err == nil {
			w.Write(lists[i])
			return
		}
		if strings.HasPrefix(r.URL.Path, "/ListDir/") {
			json.NewEncoder(w).Encode([]string{"2016_01_01_00_00.out/log_tcp_complete", "2016_01_01_01_00.out/log_tcp_complete", "2016_01_01_02_00.out/log_tcp_complete"})
			return
		}
		w.Header().Set("Last-Modified", "Fri, 01 Jan 2016 00:00:00 GMT")
		if !strings.HasPrefix(r.URL.Path, "/2016") { // a path of the long list
			http.Error(w, "gone", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(1<<30))
		if r.Method == http.MethodGet {
			io.Copy(flushed{w}, &trickle{a.ctx, string(a.s.samples["log_tcp_complete"][:20000]), 4 << 10})
		}
	}))
	server.TLS = config
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	a.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	c := a.client(0)
	for i := range 4 {
		for _, kind := range []string{"long", "slow"} {
			body := fmt.Sprintf(`{"CallBackUrl": %q, "StreamName": "%s%d", "StreamType": "log_tcp_complete_v15", "StartTime": 0}`, server.Listener.Addr(), kind, i)
			if code, text := a.post(c, "https://"+a.s.logs+"/DBSImport", "application/json", strings.NewReader(body)); code != http.StatusOK {
				a.t.Errorf("stream %s%d: %d %s", kind, i, code, text)
			}
		}
	}
}

// flushed is a ResponseWriter that flushes after each write.
type flushed struct{ http.ResponseWriter }

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// capabilities registers n capabilities in rounds. Each round replaces a thousand
// capabilities per certificate.
func (a *attacker) capabilities(n int) {
	for i := range a.files {
		c := a.client(i)
		round := 0
		a.repeat(func() {
			var list []string
			for k := range 1000 {
				list = append(list, fmt.Sprintf(`{"capability": "measure", "label": "tstat-evil", "registry": %q, "when": "now ... future", "parameters": {"System_ID": "%d-%d"}}`,
					mplane.TstatRegistry, i, k+1000*(round%(n/1000/len(a.files)))))
			}
			round++
			a.post(c, "https://"+a.s.components+"/register/capability", "application/x-mplane+json",
				strings.NewReader(`{"envelope": "message", "contents": [`+strings.Join(list, ",")+`]}`))
			time.Sleep(time.Second)
		})
	}
}

// peak returns the peak memory of a process, in bytes.
func (s *site) peak(name string) (bytes int) {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.running[name].cmd.Process.Pid))
	s.must(err)
	_, hwm, _ := strings.Cut(string(status), "VmHWM:")
	_, err = fmt.Sscan(hwm, &bytes)
	s.must(err)
	return bytes << 10
}

// delays makes Tstat write data and returns the time until its logs, lines and points
// arrive.
func (s *site) delays() (logs, lines, points time.Duration) {
	s.t.Helper()
	s.rollOver()
	s.step(1)
	begin := time.Now()
	want := s.finished()
	for end := begin.Add(2 * time.Minute); logs == 0 || lines == 0 || points == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("after 2 minutes: logs %v, lines %v, points %v (0s: not arrived)", logs, lines, points)
		}
		if got, all := s.metrics(); points == 0 && slices.EqualFunc(got, all, maps.Equal[map[int64]float64, map[int64]float64]) {
			points = time.Since(begin)
		}
		if lines == 0 && len(s.streamed()) >= len(s.live) {
			lines = time.Since(begin)
		}
		if logs == 0 {
			if parquet, postgres := s.stored(); maps.Equal(parquet, want) && maps.Equal(postgres, want) {
				logs = time.Since(begin)
			}
		}
	}
	return logs, lines, points
}

// worst measures delays while goOn returns true, and returns the longest ones.
func (s *site) worst(goOn func(round int) bool) (worst [3]time.Duration) {
	s.t.Helper()
	for i := 0; goOn(i); i++ {
		logs, lines, points := s.delays()
		for k, d := range []time.Duration{logs, lines, points} {
			worst[k] = max(worst[k], d)
		}
	}
	return worst
}

// TestHostilePeer attacks all services concurrently for five minutes, with valid
// certificates. The data of another probe must arrive, serve and supervisor must use no
// more memory than the manual states, and the list of capabilities must remain usable.
// Without -soak, the attack has a tenth of the size and lasts 30 s.
func TestHostilePeer(t *testing.T) {
	scale, length := 10, 30*time.Second
	if *soak {
		scale, length = 1, 5*time.Minute
	}
	s := newSite(t, "ack", false)
	s.export()
	s.arrives(true)
	calm := s.worst(func(round int) bool { return round < 3 })
	t.Logf("delays of logs, lines and points without an attack: %v", calm)

	ctx, stop := context.WithCancel(t.Context())
	a := newAttacker(ctx, s, max(30/scale, 2))
	a.slowBodies(16)
	a.idle(1000 / scale)
	a.points(2_000_000 / scale)
	a.capabilities(120_000 / scale)
	a.streams(1_000_000 / scale)
	begin := time.Now()
	attacked := s.worst(func(int) bool { return time.Since(begin) < length })
	t.Logf("under attack: %v", attacked)
	listing := time.Now()
	out, err := s.client("ann", "--list").CombinedOutput()
	evil := strings.Count(string(out), "tstat-evil")
	t.Logf("%d capabilities of the attacker are listed in %v", evil, time.Since(listing))
	if err != nil || !strings.Contains(string(out), "tstat-exporter_log") || evil < 1000 {
		t.Errorf("runcap --list: %v, %.1000s", err, out)
	}
	stop()
	a.wg.Wait()
	serve, sup := s.peak("repository"), s.peak("supervisor")
	t.Logf("most memory of serve %d MiB, of supervisor %d MiB", serve>>20, sup>>20)
	if serve > serveMemory || sup > supervisorMemory {
		t.Errorf("serve used %d MiB of memory, supervisor %d MiB; the manual says %d and %d", serve>>20, sup>>20, serveMemory>>20, supervisorMemory>>20)
	}
	for i, kind := range []string{"logs", "lines", "points"} {
		if *soak && attacked[i] > calm[i]+extraDelay {
			t.Errorf("%s arrive after %v, without an attack after %v", kind, attacked[i], calm[i])
		}
	}
	// All data of the other probe arrived, exactly once for the protocols that
	// guarantee it.
	s.arrives(true)
}
