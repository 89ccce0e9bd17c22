package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// The load that caseMPlane puts on the supervisor, and the targets.
const (
	mplaneCapabilities = 10 // of each component
	mplaneClients      = 8  // a supervisor keeps at most 24 MiB per client
	mplanePoll         = 5 * time.Second
	mplaneIdle         = 20 * time.Second
	mplaneLoadTime     = 15 * time.Second
	mplaneMemory       = 256 * mib
	mplaneVisible      = 200 * time.Millisecond
)

// caseMPlane registers many polling components with a supervisor. Then it sends
// specifications; components respond with a receipt and a result, and clients redeem the
// results. This process simulates the components and clients. The case has no peer, since
// the reference implementation blocks for each client. If b.base is set, the case
// compares the CPU time of the supervisor with that of the older tstatrepo's supervisor.
func (b *bench) caseMPlane(ctx context.Context) error {
	if b.base != nil {
		sent := float64(b.specs) * mplaneLoadTime.Seconds()
		return b.compare(ctx, "mplane: specifications per second of CPU", sent, 0, func(ctx context.Context) (usage, error) {
			_, u, err := b.supervised(ctx)
			return u, err
		}, nil)
	}
	list, _, err := b.supervised(ctx)
	b.add(list...)
	return err
}

// supervised puts a supervisor under load. It returns the results and the supervisor's
// usage, with the CPU time in place of the wall time.
func (b *bench) supervised(ctx context.Context) (list []result, used usage, err error) {
	if err := b.fresh(ctx); err != nil {
		return nil, used, err
	}
	s, err := b.startSupervisor(ctx)
	if err != nil {
		return nil, used, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	load, err := newMPlaneLoad(s, b.components, b.specs)
	if err != nil {
		return nil, used, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var polling sync.WaitGroup
	defer polling.Wait()
	defer cancel()
	for i := range b.components {
		if err := load.register(ctx, i); err != nil {
			return nil, used, err
		}
		polling.Go(func() { load.poll(ctx, i) })
	}

	before, err := s.cpu()
	if err != nil {
		return nil, used, err
	}
	start := time.Now()
	select {
	case <-time.After(mplaneIdle):
	case <-ctx.Done():
		return nil, used, ctx.Err()
	}
	after, err := s.cpu()
	if err != nil {
		return nil, used, err
	}
	cores := (after - before).Seconds() / time.Since(start).Seconds()

	var visible []time.Duration
	var seen sync.WaitGroup
	seen.Go(func() { visible, err = load.visible(ctx, 50) })
	rate := load.relay(ctx)
	seen.Wait()
	if err != nil {
		return nil, used, err
	}
	if problem := load.failed.Load(); problem != nil {
		return nil, used, *problem
	}
	loaded, err := s.cpu()
	if err != nil {
		return nil, used, err
	}
	peak, err := s.peak()
	if err != nil {
		return nil, used, err
	}
	slices.Sort(visible)
	slowest := visible[len(visible)-1]
	list = []result{
		{name: fmt.Sprintf("mplane: %d components polling", b.components), ours: fmt.Sprintf("%.2f cores", cores), peer: "-",
			target: "below 1 core", met: cores < 1, rss: mibs(peak)},
		{name: "mplane: relayed with result", ours: fmt.Sprintf("%.0f/s", rate), peer: "-",
			ratio: fmt.Sprintf("%.2f cores", (loaded-after).Seconds()/mplaneLoadTime.Seconds()), target: fmt.Sprintf("%d/s", b.specs), met: rate >= float64(b.specs)*0.99},
		{name: "mplane: registration seen", ours: fmt.Sprintf("%.1f ms (slowest %.1f)", ms(visible[len(visible)/2]), ms(slowest)), peer: "-",
			target: fmt.Sprintf("%v", mplaneVisible), met: slowest <= mplaneVisible},
		{name: "mplane: taken for gone", ours: fmt.Sprint(load.reregistered.Load()), peer: "-", target: "0", met: load.reregistered.Load() == 0},
		{name: "mplane: peak memory", ours: mibs(peak), peer: "-", target: mibs(mplaneMemory), met: peak <= mplaneMemory},
	}
	return list, usage{wall: loaded, cpu: loaded, rss: peak}, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mibs(n int64) string { return fmt.Sprintf("%d MiB", n/mib) }

// supervisorProcess is a running supervisor.
type supervisorProcess struct {
	cmd                 *exec.Cmd
	components, clients string // addresses
}

func (b *bench) startSupervisor(ctx context.Context) (*supervisorProcess, error) {
	s := &supervisorProcess{}
	for _, addr := range []*string{&s.components, &s.clients} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*addr = l.Addr().String()
		l.Close()
	}
	args := slices.Concat(b.prefix, b.tstatrepo("supervisor",
		"--components="+s.components, "--clients="+s.clients, "--state-dir="+filepath.Join(b.out(), "state")))
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(os.Environ(), b.env...)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + s.clients + "/-/healthy")
		if err == nil {
			resp.Body.Close()
			return s, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(err, s.stop())
		}
	}
}

func (s *supervisorProcess) stop() error {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		return fmt.Errorf("supervisor: %w", err)
	}
	return nil
}

// cpu returns the CPU time that the supervisor has used so far.
func (s *supervisorProcess) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("no resource usage on this system")
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, err // USER_HZ is 100
}

// peak returns the supervisor's peak memory use so far, in bytes.
func (s *supervisorProcess) peak() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("no memory usage on this system")
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}

// mplaneLoad simulates a supervisor's components and clients.
type mplaneLoad struct {
	s            *supervisorProcess
	components   int
	rate         int // specifications per second
	registries   *mplane.Registries
	http         *http.Client
	failed       atomic.Pointer[error] // the first error
	reregistered atomic.Int64          // repeated registrations; see errGone
}

// errGone is returned by a request when the supervisor no longer knows the component.
var errGone = errors.New("component has to register again")

func newMPlaneLoad(s *supervisorProcess, components, rate int) (*mplaneLoad, error) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		return nil, err
	}
	return &mplaneLoad{
		s: s, components: components, rate: rate, registries: reg,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * components}, Timeout: 30 * time.Second},
	}, nil
}

func (l *mplaneLoad) fail(err error) { l.failed.CompareAndSwap(nil, &err) }

// do sends a request from component i and returns the response.
func (l *mplaneLoad) do(ctx context.Context, i int, method, path string, m mplane.Message) ([]byte, error) {
	return l.request(ctx, fmt.Sprintf("component-%d", i), method, "http://"+l.s.components+path, m)
}

// send sends a message from the client that handles specification n, and returns the
// response.
func (l *mplaneLoad) send(ctx context.Context, n int, m mplane.Message) (mplane.Message, error) {
	text, err := l.request(ctx, fmt.Sprintf("client-%d", n%mplaneClients), http.MethodPost, "http://"+l.s.clients+"/", m)
	if err != nil {
		return nil, err
	}
	return l.registries.Parse(text)
}

// request sends a message with the given identity. Unlike wire.Conn, it keeps thousands
// of connections open.
func (l *mplaneLoad) request(ctx context.Context, identity, method, url string, m mplane.Message) ([]byte, error) {
	var body io.Reader
	if m != nil {
		text, err := mplane.Marshal(m)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set(mplane.IdentityHeader, identity)
	if m != nil {
		req.Header.Set("Content-Type", wire.ContentType)
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusPreconditionRequired {
		return nil, errGone
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return text, err
}

// capability returns capability k of component i.
func (l *mplaneLoad) capability(i, k int) (*mplane.Statement, error) {
	columns := []string{"rrdtimestamp", "rrdMetirc", "rrdValue", "bytes.forward", "bytes.backward", "packets.forward", "packets.backward", "start", "end", "duration.ms"}
	m, err := l.registries.Parse(fmt.Appendf(nil, `{"capability": "measure", "version": 1, "label": "bench-%d", "when": "past ... future",
		"registry": %q, "parameters": {"System_ID": "%d", "repository.url": "*"}, "results": [%q],
		"metadata": {"System_type": "tStat", "System_ID": "%d", "System_version": "0.1"}}`, k, mplane.TstatRegistry, i, columns[k], i))
	if err != nil {
		return nil, err
	}
	return m.(*mplane.Statement), nil
}

func (l *mplaneLoad) register(ctx context.Context, i int) error {
	e := &mplane.Envelope{}
	for k := range mplaneCapabilities {
		c, err := l.capability(i, k)
		if err != nil {
			return err
		}
		e.Messages = append(e.Messages, c)
	}
	_, err := l.do(ctx, i, http.MethodPost, wire.CapabilityPath, e)
	return err
}

// poll acts as component i: it polls the supervisor, and responds to each specification
// with a receipt and a result.
func (l *mplaneLoad) poll(ctx context.Context, i int) {
	// Spread the polls of the components over the period.
	next := time.NewTimer(mplanePoll * time.Duration(i) / time.Duration(l.components))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		next.Reset(mplanePoll)
		text, err := l.do(ctx, i, http.MethodGet, wire.SpecificationPath, nil)
		if errors.Is(err, errGone) { // real components register again too
			if err = l.register(ctx, i); err == nil {
				l.reregistered.Add(1)
				text, err = l.do(ctx, i, http.MethodGet, wire.SpecificationPath, nil)
			}
		}
		var m mplane.Message
		if err == nil {
			m, err = l.registries.Parse(text)
		}
		if err == nil {
			err = l.answer(ctx, i, m)
		}
		if err != nil && ctx.Err() == nil {
			l.fail(err)
			return
		}
	}
}

func (l *mplaneLoad) answer(ctx context.Context, i int, m mplane.Message) error {
	e, _ := m.(*mplane.Envelope)
	if e == nil {
		return errors.New("poll without an envelope")
	}
	for _, m := range e.Messages {
		spec := m.(*mplane.Statement)
		now := time.Now()
		for _, reply := range []mplane.Message{spec.Notice(mplane.Receipt), spec.Result(now, now, nil)} {
			if _, err := l.do(ctx, i, http.MethodPost, wire.ResultPath, reply); err != nil {
				return err
			}
		}
	}
	return nil
}

// relay sends specifications at the configured rate, l.rate. It returns the number of
// results per second.
func (l *mplaneLoad) relay(ctx context.Context) float64 {
	scope, err := mplane.ParseScope("now + 1h")
	if err != nil {
		l.fail(err)
		return 0
	}
	var done atomic.Int64
	var jobs sync.WaitGroup
	total := int(float64(l.rate) * mplaneLoadTime.Seconds())
	tick := time.NewTicker(time.Second / 100)
	defer tick.Stop()
	start := time.Now()
	for sent := 0; sent < total && ctx.Err() == nil; {
		<-tick.C
		due := min(int(time.Since(start).Seconds()*float64(l.rate)), total)
		for ; sent < due; sent++ {
			n := sent
			jobs.Go(func() {
				if err := l.run(ctx, n, scope); err != nil {
					l.fail(err)
					return
				}
				done.Add(1)
			})
		}
	}
	jobs.Wait()
	// A result arrives with the poll after its specification. Do not count this
	// delay.
	return float64(done.Load()) / max((time.Since(start)-mplanePoll).Seconds(), mplaneLoadTime.Seconds())
}

// run sends specification n with the given scope, and redeems the result.
func (l *mplaneLoad) run(ctx context.Context, n int, scope mplane.Scope) error {
	c, err := l.capability(n%l.components, n%mplaneCapabilities)
	if err != nil {
		return err
	}
	spec := c.Specification()
	spec.When, spec.Label = scope, fmt.Sprintf("bench-%d", n)
	if err := spec.SetParameter("repository.url", "localhost:3000"); err != nil {
		return err
	}
	spec.SetToken()
	var m mplane.Message = spec
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		reply, err := l.send(ctx, n, m)
		if err != nil {
			return err
		}
		s, ok := reply.(*mplane.Statement)
		switch {
		case !ok || s.Kind == mplane.Withdrawal:
			return errors.New(reply.Show())
		case s.Kind == mplane.Result:
			return nil
		}
		m = spec.Notice(mplane.Redemption)
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("no result within a minute")
}

// visible registers n more components, one after the other, while relay runs. For each of
// them, it returns the time until clients saw its capability.
func (l *mplaneLoad) visible(ctx context.Context, n int) ([]time.Duration, error) {
	var list []time.Duration
	for i := range n {
		c, err := l.capability(l.components+i, 0)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if err := l.register(ctx, l.components+i); err != nil {
			return nil, err
		}
		for {
			resp, err := l.http.Get("http://" + l.s.clients + "/capability/" + c.ID())
			if err != nil {
				return nil, err
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		list = append(list, time.Since(start))
		time.Sleep(100 * time.Millisecond) // spread the registrations over the load
	}
	return list, nil
}
