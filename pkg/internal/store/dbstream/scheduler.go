package dbstream

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// DBStream's scheduler starts jobs when the windows of their input are
// announced. A stream registers as a series of jobs without inputs. Then, for
// each window in ascending order, it requests permission and reports that the
// job is done. After that, other jobs expect no more rows older than the
// window.
//
// The import itself never waits for the scheduler: windows are announced in the
// background, after their rows are stored.

const schedulerPort = "5323"

// parseScheduler parses the value of the setting scheduler=HOST[:PORT].
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
		return "", hint.Usage("scheduler="+text+" is not an address", "for example scheduler=localhost:"+schedulerPort)
	}
	return net.JoinHostPort(host, port), nil
}

// timing holds the timeouts for the scheduler.
type timing struct {
	dial, call time.Duration
	ask        time.Duration // permission may have to wait for other jobs
	minWait    time.Duration // before a retry
	maxWait    time.Duration
	close      time.Duration // maximum duration of Close
}

// With a shorter ask timeout, abandoned requests would pile up in the scheduler: it
// notices a closed connection only when it answers a call.
var defaultTiming = timing{dial: 5 * time.Second, call: 30 * time.Second, ask: 10 * time.Minute,
	minWait: time.Second, maxWait: time.Minute, close: 10 * time.Second}

const (
	maxAnswer = 64 << 10 // bytes for one call
	maxToken  = 256
	maxReason = 200 // bytes of an error text
)

// The messages of the protocol of DBStream's scheduler. gob matches fields by name.
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

// scheduler announces the windows of a store's streams to DBStream's scheduler.
type scheduler struct {
	addr   string
	timing timing
	log    *slog.Logger
	window int64
	ctx    context.Context
	cancel context.CancelFunc
	closed chan struct{} // closed once no more windows will be finished

	mu     sync.Mutex
	series map[string]*series
	failed map[*series]bool // disconnected series
}

func newScheduler(addr string, window int64, log *slog.Logger, t timing) *scheduler {
	c := &scheduler{addr: addr, timing: t, log: log, window: window, closed: make(chan struct{}), series: map[string]*series{}, failed: map[*series]bool{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// lookup returns the series for the stream with the given name. If the series does not
// exist, lookup creates it, and series.start later registers it with DBStream's
// scheduler.
func (c *scheduler) lookup(name string) *series {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.series[name]
	if s == nil {
		s = &series{c: c, name: name, last: -1, expected: map[store.Key]*expectedFiles{}, begun: map[store.Key]time.Time{}, unknown: map[store.Key]storedFile{}, open: map[int64]work{},
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

// close finishes the remaining windows and announces them. It takes timing.close at
// most. A second call does nothing.
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
		c.log.Warn("windows not reported to the scheduler; their jobs wait for the next import", "scheduler", c.addr, "windows", left)
	}
}

// report records whether s is connected. If not, err is the reason. report logs only
// changes: that the scheduler has disconnected, that all series have reconnected, or that
// the scheduler refuses the stream of s.
func (c *scheduler) report(s *series, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var refused *refusedError
	switch was := len(c.failed) > 0; {
	case err == nil:
		delete(c.failed, s)
		s.refused = false
		if was && len(c.failed) == 0 {
			c.log.Info("scheduler reconnected", "scheduler", c.addr)
		}
	case errors.As(err, &refused): // affects this stream only
		delete(c.failed, s)
		if !s.refused {
			s.refused = true
			c.log.Warn("scheduler refuses the stream, retrying; the import continues", "scheduler", c.addr, "stream", s.name, "err", err)
		}
	default:
		c.failed[s] = true
		if !was {
			c.log.Warn("scheduler disconnected, retrying; the import continues", "scheduler", c.addr, "err", err)
		}
	}
}

func validToken(t string) bool { return t != "" && len(t) <= maxToken }

// run announces windows to the scheduler until scheduler.close is called. It
// reconnects after errors.
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
		case <-s.c.closed: // make one last attempt
		}
	}
}

// connect connects to the scheduler, registers the series, and announces windows until
// scheduler.close is called or an error occurs. worked reports whether the scheduler
// accepted the registration and the first waiting window, if any.
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
		return false, &refusedError{"invalid answer to the registration"}
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
			return true, errDisconnected
		case <-s.c.ctx.Done():
			return true, s.c.ctx.Err()
		}
	}
}

// announce asks the scheduler for permission to execute the job of a window, and then
// reports that the job is done.
func (s *series) announce(p *peer, token string, w windowWork) error {
	job := schedJob{Name: s.name + "_" + strconv.FormatInt(w.start, 10), InputTime: w.start}
	var grant execReply
	if err := p.call("WaitForJobExec", execRequest{s.name, token, job}, &grant, s.c.timing.ask); err != nil {
		return err
	}
	if !grant.Execute || grant.Job != job || !validToken(grant.JobToken) {
		return &refusedError{"invalid answer for job " + job.Name}
	}
	var ok bool
	return p.call("JobDone", execStats{s.name, grant.JobToken, w.time, w.rows}, &ok, s.c.timing.call)
}
