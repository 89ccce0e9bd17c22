package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

func listen(addr string) []peer.Options { return []peer.Options{{Addr: addr}} }

// testOptions returns options for endpoints that listen at the given addresses
// and write below dir.
func testOptions(t *testing.T, dir, logs, lines, points string) Options {
	t.Helper()
	dest, err := rrdpush.ParseDest("whisper:" + filepath.Join(dir, "whisper"))
	if err != nil {
		t.Fatal(err)
	}
	naming, _ := rrdfile.NamingOf("default", nil)
	state := filepath.Join(dir, "state")
	m := mathproto.RepositoryOptions{Listen: listen(logs), State: filepath.Join(state, "math.json")}
	m.Import.StateDir = state
	return Options{
		Logs: &LogsOptions{Math: m, Stores: StoreOptions{
			To: []string{"copy:" + filepath.Join(dir, "copy")}, Memory: 64 << 20, Jobs: 1,
			Wants: func(string, time.Time) bool { return true },
		}},
		Streaming: &stream.Options{Listen: listen(lines), To: []string{"file:" + filepath.Join(dir, "live")}, StateDir: state},
		RRD: &rrdpush.EndpointOptions{
			Listen: listen(points), Probes: new(peer.Probes),
			Target: rrdpush.Target{Dest: dest, Prefix: "tstat", Naming: naming, StateDir: state},
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// TestCapabilities checks that the capabilities have the tokens of mPlane's
// repository. A token is a digest of label, parameters, metadata, results and
// scope.
func TestCapabilities(t *testing.T) {
	for host, want := range map[string][3]string{
		"":         {"5628ceb366cf23076ab131f701b6dbd0", "39de2de6bf9e6b1423cb42f258a40683", "0ccb3dc4c3290bbbb63caeb1a9f44a6d"},
		"10.1.2.3": {"", "", "e8463d43f1775493febe07a6a86d0faf"},
	} {
		opt := testOptions(t, t.TempDir(), ":3000", ":9001", ":9000")
		opt.Host = host
		r, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		services := r.Services()
		for i, label := range []string{CollectRRD, CollectStreaming, CollectLog} {
			c := services[i].Capability
			if got := c.ID(); c.Label != label || want[i] != "" && got != want[i] {
				t.Errorf("%s: token %s, want that of %s, %s", c.Label, got, label, want[i])
			}
			if _, err := mplane.Marshal(c); err != nil {
				t.Error(err)
			}
		}
	}
	for listen, want := range map[string]string{":1": "127.0.0.1:1", "[::1]:1": "[::1]:1", "repo:1": "repo:1"} {
		if got, err := address("", []peer.Options{{Addr: listen}}); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", listen, got, err, want)
		}
	}
	if _, err := New(Options{RRD: &rrdpush.EndpointOptions{}}); err == nil {
		t.Error("an endpoint that listens nowhere")
	}
}

// start runs a repository until the test ends or stop is called.
func start(t *testing.T, opt Options) (r *Repository, stop func() error) {
	t.Helper()
	r, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	select {
	case <-r.Ready():
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	return r, stop
}

func (r *Repository) addr(t *testing.T, label string) string {
	t.Helper()
	for _, e := range r.Endpoints() {
		if e.Label == label && len(e.Addrs) == 1 {
			return e.Addrs[0]
		}
	}
	return ""
}

// users returns the number of users of an endpoint. Run is a user unless the
// endpoint is scheduled.
func (r *Repository) users(label string) int {
	for _, e := range r.endpoints {
		if e.label == label {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.users
		}
	}
	return 0
}

func post(t *testing.T, addr, points string) {
	t.Helper()
	resp, err := http.Post("http://"+addr+"/register/result/indirect_export", "application/json", strings.NewReader(points))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}

// runService runs a service. end ends its scope and returns the rows.
func runService(t *testing.T, r *Repository, label string) (end func() [][]string) {
	t.Helper()
	for _, s := range r.Services() {
		if s.Capability.Label != label {
			continue
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		type result struct {
			rows [][]string
			err  error
		}
		done := make(chan result, 1)
		go func() {
			rows, err := s.Run(ctx, s.Capability.Specification())
			done <- result{rows, err}
		}()
		return func() [][]string {
			cancel(component.ErrScopeEnd)
			res := <-done
			if res.err != nil {
				t.Error(res.err)
			}
			return res.rows
		}
	}
	t.Fatalf("no service %s", label)
	return nil
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// TestCollectRRDReturnsLastPoints checks that a specification of collect_rrd
// returns the last point of every metric received while it was active, under
// its name in the store.
func TestCollectRRDReturnsLastPoints(t *testing.T) {
	opt := testOptions(t, t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	r, stop := start(t, opt)
	addr := r.addr(t, CollectRRD)
	post(t, addr, `[["ip_len_in.avg.rrd", 1436486100, 1], ["ip_bitrate_out.avg.rrd", 1436486100, 7]]`)
	end, idle := runService(t, r, CollectRRD), runService(t, r, CollectLog)
	await(t, "the job's begin", func() bool { return r.users(CollectRRD) == 2 })
	post(t, addr, `[["ip_len_in.avg.rrd", 1436486700, 13.5], ["ip_len_in.avg.rrd", 1436486400, 3]]`)
	rows := end()
	if len(rows) != 1 || rows[0][0] != "1436486700" || !strings.HasPrefix(rows[0][1], "tstat.127_0_0_1.") || rows[0][2] != "13.5" {
		t.Errorf("rows %v", rows)
	}
	if rows := idle(); rows != nil {
		t.Errorf("rows of logs: %v", rows)
	}
	stored := 0
	series, untracked := r.Series()
	for _, s := range series {
		stored += len(s.Points)
	}
	if st := r.Points().Stats(); st.Points != int64(stored) || stored == 0 || untracked != 0 || st.Down != nil || st.Spooled != 0 {
		t.Errorf("%d points stored: %+v", stored, st)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := r.endpoints[0].acquire(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("after its end: %v", err)
	}
}

// TestStreamToBroker checks that a probe's lines are sent to a broker with the
// probe's name as key.
func TestStreamToBroker(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "tstat"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	broker := cluster.ListenAddrs()[0]
	opt := testOptions(t, t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	opt.Streaming.To = []string{"kafka://" + broker + "/tstat"}
	r, stop := start(t, opt)
	c, err := net.Dial("tcp", r.addr(t, CollectStreaming))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "/logs/2016_03_24_21_37.out/log_tcp_complete %d\n", i)
	}
	if _, err := c.Write([]byte(lines.String())); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics("tstat"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got strings.Builder
	for got.Len() < lines.Len() && ctx.Err() == nil {
		for _, rec := range client.PollFetches(ctx).Records() {
			got.Write(rec.Value)
			if string(rec.Key) != "127_0_0_1" {
				t.Fatalf("key %q", rec.Key)
			}
		}
	}
	if got.String() != lines.String() {
		t.Errorf("%d bytes came, want %d", got.Len(), lines.Len())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestLastPoints checks that an older point does not replace a newer one.
// Points received before begin must not count toward maxMetrics.
func TestLastPoints(t *testing.T) {
	l := lastPoints{points: map[string]lastPoint{}}
	began := time.Now()
	for i := range 2 {
		l.add([]graphite.Metric{{Path: "a.unasked", Points: []graphite.Point{{Time: 10, Value: 1}}}})
		l.begin()
		l.add([]graphite.Metric{{Path: fmt.Sprintf("a.former%d", i), Points: []graphite.Point{{Time: 10, Value: 1}}}})
		if rows := l.rows(began); len(rows) != 1 {
			t.Errorf("%d rows, want only those since begin", len(rows))
		}
		l.end()
	}
	l.begin()
	for i := range maxMetrics + 5 {
		l.add([]graphite.Metric{{Path: fmt.Sprintf("a.m%05d", i), Points: []graphite.Point{{Time: 10, Value: 1}}}})
	}
	l.add([]graphite.Metric{{Path: "a.m00000", Points: []graphite.Point{{Time: 5, Value: 2}}}, {Path: "a.none"}})
	rows := l.rows(began)
	if want := []string{"10", "a.m00000", "1"}; len(rows) != maxMetrics || !reflect.DeepEqual(rows[0], want) {
		t.Errorf("%d rows, the first %v", len(rows), rows[0])
	}
}

// TestScheduledEndpointsOpenOnDemand checks that scheduled endpoints are open
// only while a specification is active.
func TestScheduledEndpointsOpenOnDemand(t *testing.T) {
	opt := testOptions(t, t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	opt.Scheduled = true
	r, stop := start(t, opt)
	for _, label := range []string{CollectRRD, CollectStreaming, CollectLog} {
		if addr := r.addr(t, label); addr != "" {
			t.Errorf("%s is open at %s", label, addr)
		}
		for range 2 { // it must be possible to reopen it
			first := runService(t, r, label)
			await(t, "opening", func() bool { return r.addr(t, label) != "" })
			addr := r.addr(t, label)
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			second := runService(t, r, label)
			await(t, "the second user", func() bool { return r.users(label) == 2 })
			first()
			if r.addr(t, label) == "" {
				t.Errorf("%s is closed before its last user released it", label)
			}
			second()
			await(t, "closing", func() bool { return r.addr(t, label) == "" })
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				t.Errorf("%s still listens", label)
			}
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestEndpointFailures checks that a failure to open an endpoint ends Run or
// the specification with an error. An endpoint that fails later is reopened.
func TestEndpointFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	opt := testOptions(t, t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", l.Addr().String())
	r, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || strings.Count(err.Error(), CollectRRD) != 1 {
		t.Errorf("%v, want that an address is in use, once", err)
	}
	opt.Scheduled = true
	r, stop := start(t, opt)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := r.Services()[0].Run(ctx, nil); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v, want that an address is in use", err)
	}
	if err := stop(); err != nil {
		t.Errorf("the repository reports the failure of a specification at its end: %v", err)
	}

	runs := make(chan int, 10)
	e := &endpoint{label: "x", log: slog.New(slog.DiscardHandler)}
	n := 0
	e.open = func(context.Context) (server, error) {
		n++
		return fakeServer(func(ctx context.Context) error {
			runs <- n
			if n == 1 {
				return errors.New("broken")
			}
			<-ctx.Done()
			return errors.Join(fmt.Errorf("end: %w", ctx.Err()), errors.New("lost"))
		}), nil
	}
	if err := e.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-runs != 1 || <-runs != 2 {
		t.Error("the endpoint is not reopened")
	}
	if err := e.close(); err == nil || err.Error() != "x: lost" {
		t.Errorf("end: %v", err)
	}
}

// fakeServer is a server whose Run is the function itself.
type fakeServer func(context.Context) error

func (f fakeServer) Addrs() []string               { return []string{"here"} }
func (f fakeServer) Run(ctx context.Context) error { return f(ctx) }

// TestReopenAppliesOptions checks that new options are used at once, and that
// the former options remain in use if the new ones fail.
func TestReopenAppliesOptions(t *testing.T) {
	dir := t.TempDir()
	opt := testOptions(t, dir, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	r, stop := start(t, opt)
	post(t, r.addr(t, CollectRRD), `[["ip_len_in.avg.rrd", 1436486100, 1]]`)
	files := func(sub string) (n int) {
		filepath.WalkDir(filepath.Join(dir, sub), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				n++
			}
			return nil
		})
		return n
	}
	to := func(sub string) Options {
		rrd := *opt.RRD
		dest, err := rrdpush.ParseDest("whisper:" + filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		rrd.Dest = dest
		return Options{RRD: &rrd}
	}
	reopened := func(change func()) {
		t.Helper()
		before := r.Endpoints()[0].Since
		change()
		await(t, "opening again", func() bool {
			s := r.Endpoints()[0]
			return len(s.Addrs) > 0 && s.Since.After(before)
		})
	}
	reopened(func() { r.Reopen(CollectRRD, to("other")) })
	post(t, r.addr(t, CollectRRD), `[["ip_len_in.avg.rrd", 1436486400, 1]]`)
	if files("whisper") != 1 || files("other") != 1 {
		t.Error("the points are not where they should be")
	}
	bad := *opt.RRD
	bad.Listen = listen("256.0.0.1:1")
	reopened(func() { r.Reopen(CollectRRD, Options{RRD: &bad}) })
	post(t, r.addr(t, CollectRRD), `[["ip_len_out.avg.rrd", 1436486400, 1]]`)
	if files("other") != 2 {
		t.Error("the former settings are not used")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestFiguresContinueAfterReopen checks that an endpoint keeps its figures when
// it is reopened with other settings or after a failure.
func TestFiguresContinueAfterReopen(t *testing.T) {
	dir := t.TempDir()
	opt := testOptions(t, dir, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	opt.Logs.Math.Import.Location, opt.Logs.Math.Import.Poll = time.UTC, 20*time.Millisecond
	var stored atomic.Int64
	opt.RRD.Stored = func(metrics []graphite.Metric) { stored.Add(int64(graphite.Count(metrics))) }
	r, stop := start(t, opt)

	logs := filepath.Join(dir, "logs")
	folder := filepath.Join(logs, "2016_03_24_21_37.out")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "#c_ip:1 c_port:2 c_first_abs:3 fqdn:4\n10.0.0.1 1 1458855462170.000 a\n10.0.0.1 2 1458855462171.000 a\n"
	old := time.Date(2016, 3, 25, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(folder, "log_udp_complete")
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chtimes(path, old, old), os.Chtimes(folder, old, old)); err != nil {
		t.Fatal(err)
	}
	probe, err := mathproto.NewExporter(mathproto.ExporterOptions{
		Dir: logs, Repository: mathproto.URL{Addr: r.addr(t, CollectLog)}, Listen: listen("127.0.0.1:0"), Stream: "s", Probe: "p", Location: time.UTC,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := probe.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	for i, lines := range []int64{3, 5} {
		post(t, r.addr(t, CollectRRD), `[["ip_len_in.avg.rrd", 1436486100, 1]]`)
		c, err := net.Dial("tcp", r.addr(t, CollectStreaming))
		if err != nil {
			t.Fatal(err)
		}
		for n := range lines {
			fmt.Fprintf(c, "/logs/2016_03_24_21_37.out/log_tcp_complete %d\n", n)
		}
		c.Close()
		all := int64(3 + 5*i)
		await(t, "all of the lines", func() bool {
			s := r.Lines().Stats()
			return s.Lines == all && s.Sinks[0].Lines == all && s.Accepted == int64(i+1) && len(s.Sources) == 1 && s.Sources[0].Lines == all
		})
		await(t, "the log", func() bool {
			s := r.Logs().Stats()
			return len(s) == 1 && s[0].Files == 1
		})
		if i == 1 {
			break
		}
		// Reopening twice must not hide the figures of the first
		// session.
		for range 2 {
			before := r.Endpoints()
			for _, e := range before {
				r.Reopen(e.Label, opt)
			}
			await(t, "opening again", func() bool {
				for i, e := range r.Endpoints() {
					if !e.Open() || !e.Since.After(before[i].Since) {
						return false
					}
				}
				return true
			})
		}
		lines, points, s := r.Lines().Stats(), r.Points().Stats(), r.Logs().Stats()[0]
		if lines.Lines != 3 || sum(lines.Rates) != 3 || lines.Sources[0].Last.IsZero() {
			t.Errorf("lines: %+v", lines)
		}
		if points.Posts != 1 || points.Points != 1 || points.LastSuccess.IsZero() {
			t.Errorf("points: %+v", points)
		}
		if s.Files != 1 || s.Rows != 2 || sum(s.Hourly) != 2 || s.LastSuccess.IsZero() || s.LastFolder.IsZero() {
			t.Errorf("log: %+v", s)
		}
	}
	if s := r.Points().Stats(); s.Posts != 2 || stored.Load() != 2 {
		t.Errorf("%d points reported to the caller: %+v", stored.Load(), s)
	}
	cancel()
	running.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func sum(list []int64) (n int64) {
	for _, v := range list {
		n += v
	}
	return n
}
