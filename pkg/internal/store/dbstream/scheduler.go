package dbstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/rpc"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// DBStream's scheduler starts the jobs of sinks when it is told that the
// windows of their input are there. A stream registers as a series of jobs
// without inputs; then, for each window in ascending order, it asks for leave
// and says that the job is done. After that, sinks count on everything
// before the start of this window.
//
// The import itself never waits for the scheduler: windows are announced
// beside it, after they were stored.

const schedulerPort = "5323"

// parseScheduler reads the setting scheduler=HOST[:PORT].
func parseScheduler(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port, err = net.SplitHostPort(text + ":" + schedulerPort)
	}
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@ \t\n") {
		return "", hint.Usage("scheduler="+text+" is no address", "for example scheduler=localhost:"+schedulerPort)
	}
	return net.JoinHostPort(host, port), nil
}

// timing bounds what depends on the scheduler.
type timing struct {
	dial, call time.Duration
	ask        time.Duration // leave may have to wait for others' jobs
	minWait    time.Duration // before it is tried again
	maxWait    time.Duration
	close      time.Duration // what Close may take
}

// After a short ask the scheduler would still have the question: it notices
// that a connection has ended when its calls are answered.
var defaultTiming = timing{dial: 5 * time.Second, call: 30 * time.Second, ask: 10 * time.Minute,
	minWait: time.Second, maxWait: time.Minute, close: 10 * time.Second}

const (
	maxAnswer = 64 << 10 // bytes for one call
	maxToken  = 256
	maxReason = 200 // of the text of an error
)

// What is sent and received; gob finds the fields by name.
type (
	ioWindow struct {
		Name, PartTablename string
		Size, Delay         int
		Primary             bool
	}
	regRequest struct {
		JobSeriesName, Description string
		Outputs                    []ioWindow
		InputTime                  int64
	}
	regReply struct {
		JobSeriesName string
		Success       bool
		RegToken      string
	}
	schedJob struct {
		Name      string
		InputTime int64
	}
	execRequest struct {
		JobSeriesName, RegToken string
		Job                     schedJob
	}
	execReply struct {
		JobToken string
		Execute  bool
		Job      schedJob
	}
	execStats struct {
		JobSeriesName, JobToken string
		ExecTime                time.Duration
		AffectedRows            int64
	}
)

// scheduler announces the windows of a store's streams.
type scheduler struct {
	addr   string
	timing timing
	log    *slog.Logger
	window int64
	ctx    context.Context
	cancel context.CancelFunc
	closed chan struct{} // closed when nothing more will come

	mu     sync.Mutex
	series map[string]*series
	failed map[*series]bool // those that are not connected after an error
}

func newScheduler(addr string, window int64, log *slog.Logger, t timing) *scheduler {
	c := &scheduler{addr: addr, timing: t, log: log, window: window, closed: make(chan struct{}), series: map[string]*series{}, failed: map[*series]bool{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// of returns the series of a stream. It is not registered before start.
func (c *scheduler) of(name string) *series {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.series[name]
	if s == nil {
		s = &series{c: c, name: name, last: -1, expected: map[store.Key]*expectedFiles{}, begun: map[store.Key]time.Time{}, open: map[int64]work{},
			wake: make(chan struct{}, 1), done: make(chan struct{})}
		c.series[name] = s
	}
	return s
}

func (c *scheduler) all() []*series {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.series))
}

// close announces what is finished, for a bounded time. A second call does
// nothing.
func (c *scheduler) close() {
	if c.ctx.Err() != nil {
		return
	}
	timer := time.NewTimer(c.timing.close)
	defer timer.Stop()
	left := 0
	all := c.all()
	for _, s := range all {
		s.finish()
	}
	close(c.closed)
	for _, s := range all {
		if s.started {
			select {
			case <-s.done:
			case <-timer.C:
				c.cancel()
				<-s.done
			}
		}
		left += len(s.queue)
	}
	c.cancel()
	if left > 0 {
		c.log.Warn("the scheduler was not told of all windows; sinks wait for the next import", "scheduler", c.addr, "windows", left)
	}
}

// report says what a series' connection has come to: once when the scheduler
// is lost, and once when it is there again.
func (c *scheduler) report(s *series, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var refused *refusedError
	switch was := len(c.failed) > 0; {
	case err == nil:
		delete(c.failed, s)
		s.refused = false
		if was && len(c.failed) == 0 {
			c.log.Info("the scheduler is there again", "scheduler", c.addr)
		}
	case errors.As(err, &refused): // of this stream only
		delete(c.failed, s)
		if !s.refused {
			s.refused = true
			c.log.Warn("the scheduler refuses the stream; the import goes on, and it will be asked again", "scheduler", c.addr, "stream", s.name, "err", err)
		}
	default:
		c.failed[s] = true
		if !was {
			c.log.Warn("the scheduler is lost; the import goes on, and it will be tried again", "scheduler", c.addr, "err", err)
		}
	}
}

// work is what was done for a window.
type work struct {
	rows int64
	time time.Duration
}

type windowWork struct {
	start int64
	work
}

// storedFile is what a committed file says about the windows of its stream.
type storedFile struct {
	time    time.Time // its folder's
	windows map[int64]work
	low     int64 // the earliest time that a row of it has; math.MaxInt64: unknown
}

// series is the order in which the windows of a stream are finished, and the
// connection that announces them.
type series struct {
	c       *scheduler
	name    string
	view    string
	started bool
	refused bool // and that was said; under c.mu

	mu sync.Mutex
	// Files that are not stored yet: announced by the importer, or under way.
	expected map[store.Key]*expectedFiles
	begun    map[store.Key]time.Time
	order    []store.Key    // the expected ones by time, and some that are so no more
	stored   []storedFile   // those that earlier files may precede
	open     map[int64]work // windows that have rows and are not finished
	last     int64          // the last window that is finished
	front    time.Time      // the latest folder whose file was taken from stored
	tail     int64          // the last window of that file
	queue    []windowWork   // finished, and not announced yet
	input    int64          // the last window that was announced

	wake chan struct{}
	done chan struct{} // closed when the connection has ended for good
}

// expectedFiles are the files of a key that are to come: one, or one of each
// Tstat process that writes folders of the same name.
type expectedFiles struct {
	time    time.Time // of their folder
	left    int       // not stored yet
	settled int       // stored, but the importer has not said so yet
}

// start registers the stream. Windows up to last were announced before, -1:
// none that is known; those of open have rows and were not.
func (s *series) start(view string, last int64, open []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return
	}
	s.started = true
	s.view, s.input, s.last = view, max(last, 0), last
	for _, start := range open {
		s.open[start] = work{}
	}
	go s.run()
}

// expect replaces the files that the importer said are to come.
func (s *series) expect(files []store.FileInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected, s.order = map[store.Key]*expectedFiles{}, nil
	for _, f := range files {
		if s.expected[f.Key] == nil {
			s.expected[f.Key] = &expectedFiles{time: f.Time}
			s.order = append(s.order, f.Key)
		}
		s.expected[f.Key].left++
	}
	slices.SortFunc(s.order, func(a, b store.Key) int { return s.expected[a].time.Compare(s.expected[b].time) })
	s.advance()
}

// begin notes a file under way, and end that it is so no more. If it is one
// that was expected it still is, until settled.
func (s *series) begin(k store.Key, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun[k] = t
}

func (s *series) end(k store.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begun, k)
	s.advance()
}

func (s *series) settled(k store.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.expected[k]; e != nil && e.settled > 0 {
		e.settled--
	} else if e != nil && e.left > 0 {
		e.left--
	}
	s.advance()
}

// commit notes that a file is stored.
func (s *series) commit(k store.Key, f storedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begun, k)
	if e := s.expected[k]; e != nil && e.left > 0 {
		e.left--
		e.settled++
	}
	i, _ := slices.BinarySearchFunc(s.stored, f.time, func(f storedFile, t time.Time) int { return cmp.Or(f.time.Compare(t), -1) })
	s.stored = slices.Insert(s.stored, i, f)
	s.advance()
}

// advance takes the stored files in the order of their folders, as far as no
// earlier one is missing. The windows that end before all rows of a file are
// finished by it: neighbours may share a window. Rows for windows that were
// finished before are not announced.
func (s *series) advance() {
	for len(s.stored) > 0 && !s.missing(s.stored[0].time) {
		f := s.stored[0]
		s.stored = s.stored[1:]
		if f.low != math.MaxInt64 {
			s.finishBefore(f.low - f.low%s.c.window)
		}
		if !f.time.Before(s.front) && len(f.windows) > 0 {
			s.front, s.tail = f.time, slices.Max(slices.Collect(maps.Keys(f.windows)))
		}
		for start, w := range f.windows {
			if start > s.last {
				sum := s.open[start]
				s.open[start] = work{sum.rows + w.rows, sum.time + w.time}
			}
		}
	}
}

// missing reports whether a file of an earlier folder, or another file of the
// same one, is not stored yet.
func (s *series) missing(t time.Time) bool {
	for _, other := range s.begun {
		if !other.After(t) {
			return true
		}
	}
	for len(s.order) > 0 {
		if e := s.expected[s.order[0]]; e.left > 0 {
			return !e.time.After(t)
		}
		s.order = s.order[1:]
	}
	return false
}

func (s *series) finishBefore(limit int64) {
	for _, start := range slices.Sorted(maps.Keys(s.open)) {
		if start >= limit {
			break
		}
		s.queue = append(s.queue, windowWork{start, s.open[start]})
		s.last = start
		delete(s.open, start)
	}
	if len(s.queue) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// finish finishes all windows before the last one of the last file: the next
// file may have rows of that.
func (s *series) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishBefore(s.tail)
}

func (s *series) next() (w windowWork, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return w, false
	}
	return s.queue[0], true
}

func (s *series) announced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input = s.queue[0].start
	s.queue = s.queue[1:]
}

func (s *series) isClosed() bool {
	select {
	case <-s.c.closed:
		return true
	default:
		return false
	}
}

// run connects to the scheduler, again and again if it has to.
func (s *series) run() {
	defer close(s.done)
	t := s.c.timing
	b := retry.New(t.minWait, t.maxWait)
	for {
		closed := s.isClosed()
		if _, ok := s.next(); closed && !ok {
			return
		}
		worked, err := s.connect()
		if err == nil || s.c.ctx.Err() != nil {
			return
		}
		s.c.report(s, err)
		if worked {
			b.Reset()
		}
		if closed {
			return
		}
		select {
		case <-time.After(b.Next()):
		case <-s.c.closed: // once more, for what is left
		}
	}
}

// connect registers and announces windows until Close or an error. worked says
// that the scheduler took what there was for it.
func (s *series) connect() (worked bool, err error) {
	t := s.c.timing
	d := net.Dialer{Timeout: t.dial}
	conn, err := d.DialContext(s.c.ctx, "tcp", s.c.addr)
	if err != nil {
		return false, err
	}
	p := newPeer(s.c.ctx, conn)
	defer p.close()
	s.mu.Lock()
	input := s.input
	s.mu.Unlock()
	var reg regReply
	err = p.call("RegisterJobSeries", regRequest{JobSeriesName: s.name, InputTime: input,
		Outputs: []ioWindow{{Name: s.name, PartTablename: s.view, Primary: true}}}, &reg, t.call)
	switch {
	case err != nil:
		return false, err
	case !reg.Success || reg.JobSeriesName != s.name || !validToken(reg.RegToken):
		return false, &refusedError{"its answer to the registration makes no sense"}
	}
	for {
		w, ok := s.next()
		if ok {
			if err := s.announce(p, reg.RegToken, w); err != nil {
				return worked, err
			}
			s.announced()
		}
		if !worked {
			worked = true
			s.c.report(s, nil)
		}
		if ok {
			continue
		}
		if s.isClosed() {
			if _, ok := s.next(); !ok {
				return true, nil
			}
			continue
		}
		select {
		case <-s.wake:
		case <-s.c.closed:
		case <-p.conn.gone:
			return true, errLost
		case <-s.c.ctx.Done():
			return true, s.c.ctx.Err()
		}
	}
}

// announce asks for leave for a window and says that it is done.
func (s *series) announce(p *peer, token string, w windowWork) error {
	job := schedJob{Name: s.name + "_" + strconv.FormatInt(w.start, 10), InputTime: w.start}
	var leave execReply
	if err := p.call("WaitForJobExec", execRequest{s.name, token, job}, &leave, s.c.timing.ask); err != nil {
		return err
	}
	if !leave.Execute || leave.Job != job || !validToken(leave.JobToken) {
		return &refusedError{"its answer for job " + job.Name + " makes no sense"}
	}
	var ok bool
	return p.call("JobDone", execStats{s.name, leave.JobToken, w.time, w.rows}, &ok, s.c.timing.call)
}

func validToken(t string) bool { return t != "" && len(t) <= maxToken }

var errLost = errors.New("connection lost")

// refusedError is an answer of the scheduler that is none to go on with.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// peer is a connection to the scheduler.
type peer struct {
	ctx  context.Context
	conn *watchedConn
	rpc  *rpc.Client
}

func newPeer(ctx context.Context, conn net.Conn) *peer {
	w := &watchedConn{Conn: conn, gone: make(chan struct{})}
	w.left.Store(maxAnswer)
	return &peer{ctx, w, rpc.NewClient(w)}
}

func (p *peer) close() { p.rpc.Close() }

func (p *peer) call(method string, arg, reply any, timeout time.Duration) error {
	p.conn.left.Store(maxAnswer)
	p.conn.SetWriteDeadline(time.Now().Add(timeout))
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	c := p.rpc.Go("SchedRemote."+method, arg, reply, make(chan *rpc.Call, 1))
	select {
	case <-c.Done:
	case <-timer.C:
		return fmt.Errorf("%s: no answer within %v", method, timeout)
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	var se rpc.ServerError
	switch {
	case errors.As(c.Error, &se):
		return &refusedError{method + ": " + printable(string(se))}
	case c.Error != nil:
		return fmt.Errorf("%s: %w", method, c.Error)
	}
	return nil
}

// printable shortens text of the peer to what a log can take.
func printable(text string) string {
	q := strconv.QuoteToGraphic(text[:min(len(text), maxReason)])
	return q[1 : len(q)-1]
}

// watchedConn tells when the other side has gone, also while no call is under
// way, and bounds what it may send in one.
type watchedConn struct {
	net.Conn
	left atomic.Int64
	once sync.Once
	gone chan struct{}
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := 0, errors.New("the answer is too long")
	if left := c.left.Load(); left > 0 {
		n, err = c.Conn.Read(p[:min(int64(len(p)), left)])
		c.left.Add(-int64(n))
	}
	if err != nil {
		c.once.Do(func() { close(c.gone) })
	}
	return n, err
}
