package dbstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/peertest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// The messages as DBStream declares them.
type (
	IOWindow struct {
		Name          string
		PartTablename string
		Size          int
		Delay         int
		Primary       bool
	}
	RegRequest struct {
		JobSeriesName string
		Description   string
		Inputs        []IOWindow
		Outputs       []IOWindow
		InputTime     int64
		OutputOffset  int
	}
	RegReply struct {
		JobSeriesName string
		Success       bool
		RegToken      string
	}
	Job struct {
		Name        string
		Description string
		InputTime   int64
	}
	ExecRequest struct {
		JobSeriesName string
		RegToken      string
		Job
	}
	ExecReply struct {
		JobToken string
		Execute  bool
		Job
	}
	ExecStats struct {
		JobSeriesName string
		JobToken      string
		ExecTime      time.Duration
		AffectedRows  int64
		Additional    map[string]string
	}
)

// testScheduler is a scheduler that implements DBStream's protocol, enforces its
// rules, and logs the calls.
type testScheduler struct {
	t    *testing.T
	addr string
	// reply may change or delay a response; may be nil.
	reply func(method string, answer any)

	mu     sync.Mutex
	l      net.Listener
	conns  map[net.Conn]bool
	series map[string]bool
	log    []string
	rows   int64
	token  int
	jobs   map[string]Job // running
}

// SchedRemote is the RPC service for one connection.
type SchedRemote struct {
	s     *testScheduler
	names map[string]string // registered over it, with tokens
}

func (r *SchedRemote) RegisterJobSeries(req RegRequest, reply *RegReply) error {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.series[req.JobSeriesName] {
		return errors.New("Job Series was already registered, rejecting.")
	}
	if out := (IOWindow{Name: req.JobSeriesName, PartTablename: "dbs.view_info_" + req.JobSeriesName, Primary: true}); len(req.Inputs) != 0 || !slices.Equal(req.Outputs, []IOWindow{out}) || req.OutputOffset != 0 {
		s.t.Errorf("registration %+v", req)
	}
	s.series[req.JobSeriesName] = true
	s.note("register", req.JobSeriesName, req.InputTime)
	s.token++
	r.names[req.JobSeriesName] = fmt.Sprintf("%032x", s.token)
	*reply = RegReply{req.JobSeriesName, true, r.names[req.JobSeriesName]}
	s.answer("RegisterJobSeries", reply)
	return nil
}

func (r *SchedRemote) WaitForJobExec(req ExecRequest, reply *ExecReply) error {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := r.names[req.JobSeriesName]; t == "" || t != req.RegToken || s.jobs[req.JobSeriesName] != (Job{}) {
		return errors.New("Invalid Token")
	}
	if req.Name != fmt.Sprintf("%s_%d", req.JobSeriesName, req.InputTime) {
		s.t.Errorf("job %+v", req)
	}
	s.note("ask", req.JobSeriesName, req.InputTime)
	s.jobs[req.JobSeriesName] = req.Job
	*reply = ExecReply{"job" + req.Name, true, req.Job}
	s.answer("WaitForJobExec", reply)
	return nil
}

func (r *SchedRemote) JobDone(stats *ExecStats, reply *bool) error {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	job := s.jobs[stats.JobSeriesName]
	if stats.JobToken != "job"+job.Name || stats.ExecTime < 0 {
		s.t.Errorf("done %+v, running %+v", stats, job)
	}
	delete(s.jobs, stats.JobSeriesName)
	s.rows += stats.AffectedRows
	s.note("done", stats.JobSeriesName, job.InputTime)
	*reply = true
	s.answer("JobDone", reply)
	return nil
}

func (s *testScheduler) note(what, series string, input int64) {
	s.log = append(s.log, fmt.Sprintf("%s %s %d", what, series, input))
}

func (s *testScheduler) answer(method string, answer any) {
	if s.reply != nil {
		s.mu.Unlock()
		s.reply(method, answer)
		s.mu.Lock()
	}
}

func startScheduler(t *testing.T) *testScheduler {
	s := &testScheduler{t: t, addr: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *testScheduler) start() {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.l, s.addr, s.conns, s.series, s.jobs = l, l.Addr().String(), map[net.Conn]bool{}, map[string]bool{}, map[string]Job{}
	s.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.l != l {
				c.Close()
			}
			s.conns[c] = true
			s.mu.Unlock()
			go func() {
				r, server := &SchedRemote{s, map[string]string{}}, rpc.NewServer()
				server.RegisterName("SchedRemote", r)
				server.ServeConn(c)
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.l == l {
					for name := range r.names {
						delete(s.series, name)
						delete(s.jobs, name)
					}
				}
			}()
		}
	}()
}

func (s *testScheduler) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.l != nil {
		s.l.Close()
		s.l = nil
	}
	for c := range s.conns {
		c.Close()
	}
}

func (s *testScheduler) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// wait waits for a line of the log.
func (s *testScheduler) wait(line string) {
	s.t.Helper()
	for range 500 {
		if slices.Contains(s.told(), line) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("no %q in %q", line, s.told())
}

var fast = timing{dial: time.Second, call: 5 * time.Second, ask: 5 * time.Second, minWait: 10 * time.Millisecond, maxWait: 50 * time.Millisecond, close: 2 * time.Second}

// warnings collects log messages.
type warnings struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *warnings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *warnings) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.buf.String(), text)
}

func newTestSeries(t *testing.T, addr string, tm timing) (*scheduler, *series, *warnings) {
	w := &warnings{}
	c := newScheduler(addr, 600, slog.New(slog.NewTextHandler(w, nil)), tm)
	s := c.lookup("s")
	s.start("dbs.view_info_s", -1, nil)
	t.Cleanup(c.cancel)
	return c, s, w
}

func key(folder int) store.Key {
	return store.Key{Probe: "p", Folder: fmt.Sprint(folder), File: "log_udp_complete"}
}

func at(folder int) time.Time { return time.Unix(int64(folder), 0) }

// storeFile stores a file whose rows begin in the first of the windows.
func storeFile(s *series, folder int, windows ...int64) {
	s.begin(key(folder), at(folder))
	commit(s, folder, windows...)
}

func commit(s *series, folder int, windows ...int64) {
	f := storedFile{time: at(folder), windows: map[int64]work{}, low: math.MaxInt64}
	for _, w := range windows {
		f.windows[w] = work{rows: 1}
		f.low = min(f.low, w+17)
	}
	s.commit(key(folder), f)
}

// coming returns files for series.expect.
func coming(folders ...int) (files []store.FileInfo) {
	for _, f := range folders {
		files = append(files, store.FileInfo{Key: key(f), Time: at(f)})
	}
	return files
}

// lines returns the expected log lines of calls for windows.
func lines(register int64, windows ...int64) []string {
	l := []string{fmt.Sprint("register s ", register)}
	for _, w := range windows {
		l = append(l, fmt.Sprint("ask s ", w), fmt.Sprint("done s ", w))
	}
	return l
}

// TestOrder checks when and in which order windows are announced.
func TestOrder(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(s *series)
		want []int64 // before Close
		end  []int64 // by Close
	}{
		"nothing":         {func(s *series) {}, nil, nil},
		"one file":        {func(s *series) { storeFile(s, 1, 600, 1200, 1800) }, nil, []int64{600, 1200}},
		"a shared window": {func(s *series) { storeFile(s, 1, 600, 1200); storeFile(s, 2, 1200, 1800) }, []int64{600}, []int64{1200}},
		"many in one window": {func(s *series) {
			storeFile(s, 1, 600)
			storeFile(s, 2, 600)
			storeFile(s, 3, 600)
			storeFile(s, 4, 1200)
		}, []int64{600}, nil},
		"a late file": {func(s *series) {
			storeFile(s, 2, 1200, 1800, 2400)
			storeFile(s, 3, 3000)
			storeFile(s, 1, 600, 1200)
			storeFile(s, 4, 3600)
		}, []int64{1200, 1800, 2400, 3000}, nil},
		"late, for a window that is open": {func(s *series) {
			storeFile(s, 1, 600)
			storeFile(s, 3, 3000)
			storeFile(s, 2, 1200, 3000)
			storeFile(s, 4, 3600)
		}, []int64{600, 1200, 3000}, nil},
		"the second first": {func(s *series) {
			s.begin(key(1), at(1))
			storeFile(s, 2, 1200, 1800)
			storeFile(s, 3, 2400)
			commit(s, 1, 600, 1200)
		}, []int64{600, 1200, 1800}, nil},
		"one is under way": {func(s *series) {
			storeFile(s, 1, 600)
			s.begin(key(2), at(2))
			storeFile(s, 3, 1800)
			storeFile(s, 4, 2400)
		}, nil, nil},
		"one was aborted": {func(s *series) {
			storeFile(s, 1, 600)
			s.begin(key(2), at(2))
			storeFile(s, 3, 1800)
			s.end(key(2))
		}, []int64{600}, nil},
		"one is to come": {func(s *series) {
			s.expect(coming(1, 2, 3))
			storeFile(s, 1, 600)
			s.fileDone(key(1))
			s.begin(key(2), at(2))
			storeFile(s, 3, 1800)
			s.fileDone(key(3))
			s.end(key(2)) // to be retried
		}, nil, nil},
		"one was given up": {func(s *series) {
			s.expect(coming(1, 2, 3))
			storeFile(s, 1, 600)
			storeFile(s, 3, 1800)
			s.fileDone(key(2))
		}, []int64{600}, nil},
		"one is expected no more": {func(s *series) {
			s.expect(coming(1, 2))
			storeFile(s, 3, 600)
			storeFile(s, 4, 1800)
			s.expect(nil)
		}, []int64{600}, nil},
		"one of two with the same name": {func(s *series) {
			s.expect(coming(1, 2, 2, 3))
			storeFile(s, 1, 600)
			s.fileDone(key(1))
			storeFile(s, 2, 1800)
			s.fileDone(key(2))
			s.begin(key(3), at(3))
		}, nil, nil},
		"two with the same name": {func(s *series) {
			s.expect(coming(1, 2, 2, 3))
			storeFile(s, 1, 600)
			s.fileDone(key(1))
			storeFile(s, 2, 1800)
			s.fileDone(key(2))
			storeFile(s, 2, 1200)
			s.fileDone(key(2))
			storeFile(s, 3, 2400)
		}, []int64{600, 1200, 1800}, nil},
		"no rows":   {func(s *series) { storeFile(s, 1, 600); storeFile(s, 2); storeFile(s, 3, 1200) }, []int64{600}, nil},
		"backwards": {func(s *series) { storeFile(s, 1, 6000); storeFile(s, 2, 600); storeFile(s, 3, 1200) }, []int64{600}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sched := startScheduler(t)
			sc, s, w := newTestSeries(t, sched.addr, fast)
			c.do(s)
			for _, start := range c.want {
				sched.wait(fmt.Sprint("done s ", start))
			}
			sched.wait("register s 0")
			if got, want := sched.told(), lines(0, c.want...); !slices.Equal(got, want) {
				t.Errorf("told %q, want %q", got, want)
			}
			sc.close()
			sc.close()
			if got, want := sched.told(), lines(0, append(slices.Clone(c.want), c.end...)...); !slices.Equal(got, want) {
				t.Errorf("told at the end %q, want %q", got, want)
			}
			if n := w.count("WARN"); n != 0 {
				t.Errorf("%s", w.buf.String())
			}
		})
	}
}

// TestSchedulerRestart checks that every window is announced although the
// scheduler restarts, also while jobs are running. The disconnection is logged
// once.
func TestSchedulerRestart(t *testing.T) {
	sched := startScheduler(t)
	c, s, w := newTestSeries(t, sched.addr, fast)
	storeFile(s, 1, 600)
	storeFile(s, 2, 1200)
	sched.wait("done s 600")
	sched.kill()
	for i := 3; i < 10; i++ {
		storeFile(s, i, int64(i*600))
	}
	time.Sleep(300 * time.Millisecond) // many attempts
	if n := w.count("WARN"); n != 1 || w.count("scheduler disconnected") != 1 {
		t.Errorf("%s", w.buf.String())
	}
	sched.start()
	sched.wait("done s 4800")
	if n := w.count("scheduler reconnected"); n != 1 {
		t.Errorf("%s", w.buf.String())
	}
	if got, want := sched.told(), append(lines(0, 600), lines(600, 1200, 1800, 2400, 3000, 3600, 4200, 4800)...); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}

	// The scheduler stops before it answers.
	sched.mu.Lock()
	sched.reply = func(method string, _ any) {
		if method == "JobDone" {
			sched.mu.Lock()
			sched.reply = nil
			sched.mu.Unlock()
			sched.kill()
		}
	}
	sched.mu.Unlock()
	storeFile(s, 10, 6000)
	sched.wait("done s 5400")
	sched.start()
	sched.wait("register s 4800")
	storeFile(s, 11, 6600)
	sched.wait("done s 6000")
	c.close()
	if n := w.count("scheduler disconnected"); n != 2 {
		t.Errorf("%s", w.buf.String())
	}
}

// TestRegistered checks that a stream that another importer has registered is
// registered once the other importer has disconnected.
func TestRegistered(t *testing.T) {
	sched := startScheduler(t)
	_, _, _ = newTestSeries(t, sched.addr, fast)
	sched.wait("register s 0")
	first := sched.told()
	c, s, w := newTestSeries(t, sched.addr, fast)
	storeFile(s, 1, 600)
	storeFile(s, 2, 1200)
	time.Sleep(200 * time.Millisecond)
	if got := sched.told(); !slices.Equal(got, first) || w.count("WARN") != 1 || w.count("already registered") != 1 {
		t.Errorf("%q %s", got, w.buf.String())
	}
	sched.kill()
	sched.start()
	c.close() // in any order
	if w.count("WARN") > 3 {
		t.Errorf("%s", w.buf.String())
	}
}

// TestSilent checks that schedulers that give no answer or an invalid one do not
// delay the import, and delay Close only for a limited time.
func TestSilent(t *testing.T) {
	short := fast
	short.call, short.ask, short.close = 50*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond
	silent := func(t *testing.T, serve func(net.Conn)) string {
		return peertest.Serve(t, func(c net.Conn) {
			serve(c)
			<-t.Context().Done()
		})
	}
	answers := func(reply func(method string, answer any)) func(t *testing.T) string {
		return func(t *testing.T) string {
			s := startScheduler(t)
			s.mu.Lock()
			s.reply = reply
			s.mu.Unlock()
			return s.addr
		}
	}
	for name, addr := range map[string]func(t *testing.T) string{
		"nobody":   func(t *testing.T) string { return "127.0.0.1:1" },
		"no host":  func(t *testing.T) string { return "scheduler.invalid:5323" },
		"silent":   func(t *testing.T) string { return silent(t, func(c net.Conn) { io.Copy(io.Discard, c) }) },
		"deaf":     func(t *testing.T) string { return silent(t, func(c net.Conn) {}) },
		"hangs up": func(t *testing.T) string { return silent(t, func(c net.Conn) { c.Close() }) },
		"noise": func(t *testing.T) string {
			return silent(t, func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
		},
		"endless": func(t *testing.T) string {
			return silent(t, func(c net.Conn) {
				// A message of 1 GB - 1.
				head := binary.BigEndian.AppendUint32([]byte{0xfc}, 1<<30-1)
				c.Write(head)
				for {
					if _, err := c.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			})
		},
		"never grants": answers(func(method string, _ any) {
			if method == "WaitForJobExec" {
				time.Sleep(time.Second)
			}
		}),
		"never thanks": answers(func(method string, _ any) {
			if method == "JobDone" {
				time.Sleep(time.Second)
			}
		}),
		"no token": answers(func(_ string, answer any) {
			if r, ok := answer.(*RegReply); ok {
				r.RegToken = ""
			}
		}),
		"long token": answers(func(_ string, answer any) {
			if r, ok := answer.(*ExecReply); ok {
				r.JobToken = strings.Repeat("x", maxToken+1)
			}
		}),
		"too long": answers(func(_ string, answer any) {
			if r, ok := answer.(*ExecReply); ok {
				r.JobToken = strings.Repeat("x", maxAnswer)
			}
		}),
		"another job": answers(func(_ string, answer any) {
			if r, ok := answer.(*ExecReply); ok {
				r.InputTime++
			}
		}),
		"no": answers(func(_ string, answer any) {
			if r, ok := answer.(*ExecReply); ok {
				r.Execute = false
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s, w := newTestSeries(t, addr(t), short)
			start := time.Now()
			for i := 1; i < 100; i++ {
				storeFile(s, i, int64(i*600))
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("held up for %v", d)
			}
			time.Sleep(200 * time.Millisecond)
			start = time.Now()
			c.close()
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("Close took %v", d)
			}
			if w.count("WARN") == 0 || w.count("windows not reported to the scheduler") != 1 {
				t.Errorf("%s", w.buf.String())
			}
			if n := w.count("WARN"); n > 6 {
				t.Errorf("%d warnings: %s", n, w.buf.String())
			}
		})
	}
}

// TestPrintable checks that text of the scheduler is escaped in logs.
func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31m\n" + strings.Repeat("é", 1000)); len(got) > 300 || !strings.HasPrefix(got, `a\x1b[31m\n`) {
		t.Errorf("%q", got)
	}
}

func TestParseScheduler(t *testing.T) {
	for text, want := range map[string]string{
		"":               "",
		"localhost":      "localhost:5323",
		"localhost:1":    "localhost:1",
		"[::1]:5":        "[::1]:5",
		"::1":            "-",
		"[::1]":          "[::1]:5323",
		":5323":          "-",
		"h:0":            "-",
		"h:x":            "-",
		"h:65536":        "-",
		"http://h:5323/": "-",
		"h ":             "-",
	} {
		got, err := parseScheduler(text)
		if err != nil {
			got = "-"
		}
		if got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestSchedulerImport imports the golden logs with several workers. A second run
// imports another log and a late one.
func TestSchedulerImport(t *testing.T) {
	server := pgtest.Start(t)
	for _, jobs := range []int{1, 4} {
		t.Run(fmt.Sprint(jobs), func(t *testing.T) {
			db := server.Database(t)
			sched := startScheduler(t)
			run := func(src string) {
				t.Helper()
				w := &warnings{}
				log := slog.New(slog.NewTextHandler(w, nil))
				opt := Options{Stream: "golden_tcp"}
				opt.Log = log
				s, err := Open(context.Background(), "dbstream://"+server.Host(db)+"?scheduler="+sched.addr, opt)
				if err != nil {
					t.Fatal(err)
				}
				_, err = bulk.Run(context.Background(), bulk.Options{Sources: []string{src}, Stores: bulk.Opened(s), Probe: "p1",
					Location: time.UTC, IncludeOpen: true, Jobs: jobs, MaxRejects: bulk.DefaultMaxRejects, StateDir: t.TempDir(), Log: log})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if w.count("WARN") != 0 {
					t.Errorf("%s", w.buf.String())
				}
			}
			folders, err := filepath.Glob("testdata/golden/input/*")
			if err != nil || len(folders) != 4 {
				t.Fatal(folders, err)
			}
			src := t.TempDir()
			add := func(folder string) {
				if err := os.CopyFS(filepath.Join(src, filepath.Base(folder)), os.DirFS(folder)); err != nil {
					t.Fatal(err)
				}
			}
			conn := server.Connect(t, db)
			exec := func(sql string, args ...any) {
				t.Helper()
				if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
					t.Fatal(err)
				}
			}
			exec("create schema dbs")
			exec("create table dbs.query_stats (job_series text, input_time int8)")
			last := int64(0)
			for i, step := range [][]string{{folders[0]}, {folders[2], folders[3]}, {folders[1]}} {
				for _, f := range step {
					add(f)
				}
				before := len(sched.told())
				run(src)
				want := lines(last)
				if i < 2 { // the log is late then
					rows, err := conn.Query(context.Background(), "select serial_time from dbs.view_info_golden_tcp where serial_time > $1 order by 1", last)
					if err != nil {
						t.Fatal(err)
					}
					windows, err := pgx.CollectRows(rows, pgx.RowTo[int64])
					if err != nil || len(windows) < 5 {
						t.Fatal(windows, err)
					}
					windows = windows[:len(windows)-1]
					want = lines(last, windows...)
					for _, w := range windows {
						exec("insert into dbs.query_stats values ('golden_tcp', $1)", w)
					}
					last = windows[len(windows)-1]
				}
				for i := range want {
					want[i] = strings.Replace(want[i], " s ", " golden_tcp ", 1)
				}
				if got := sched.told()[before:]; !slices.Equal(got, want) {
					t.Errorf("run %d: told %q, want %q", i, got, want)
				}
			}
			var n int64
			if err := conn.QueryRow(context.Background(), "select count(*) from golden_tcp").Scan(&n); err != nil || n != 1200 {
				t.Error(n, err)
			}
			// All rows except those of the last window and late ones.
			if sched.rows < 800 || sched.rows >= 1200 {
				t.Errorf("%d rows announced", sched.rows)
			}
		})
	}
}
