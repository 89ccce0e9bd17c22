package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/registrar"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// site is a supervisor with servers of its own.
type site struct {
	t                   *testing.T
	s                   *Supervisor
	reg                 *mplane.Registries
	components, clients *httptest.Server
}

func newSite(t *testing.T, opt Options) *site {
	t.Helper()
	reg := exchange.Registries(t)
	opt.Registries, opt.Log = reg, slog.New(slog.DiscardHandler)
	s, err := load(opt)
	if err != nil {
		t.Fatal(err)
	}
	x := &site{t, s, reg, httptest.NewServer(s.Components()), httptest.NewServer(s.Clients())}
	t.Cleanup(x.stop)
	return x
}

func (x *site) stop() {
	x.components.Close()
	x.clients.Close()
}

// parse reads a statement.
func (x *site) parse(text string) *mplane.Statement {
	x.t.Helper()
	m, err := x.reg.Parse([]byte(strings.ReplaceAll(text, "REG", mplane.TstatRegistry)))
	if err != nil {
		x.t.Fatal(err)
	}
	return m.(*mplane.Statement)
}

const capability = `{"capability": "measure", "label": "log", "registry": "REG", "when": "past ... future", "parameters": {"repository.url": "*"}}`

// component runs a component whose service is run, until the function that is
// returned is called.
func (x *site) component(name string, run func(context.Context, *mplane.Statement) ([][]string, error)) (stop func()) {
	ctx, cancel := context.WithCancel(x.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := component.New(component.Options{
			Services:   []component.Service{{Capability: x.parse(capability), Run: run}},
			Registries: x.reg, Poll: 10 * time.Millisecond, Supervisor: wire.Dialer{URL: x.components.URL, Identity: name},
		})
		if err == nil {
			err = c.Run(ctx)
		}
		if err != nil {
			x.t.Error(err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (x *site) client(name string) *client.Client {
	x.t.Helper()
	c, err := client.Open(wire.Dialer{URL: x.clients.URL, Identity: name}, x.reg)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(c.Close)
	return c
}

// offers waits until n capabilities are offered.
func (x *site) offers(c *client.Client, n int) []*mplane.Statement {
	x.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list, unread, err := c.Capabilities(x.t.Context())
		if err == nil && unread == nil && len(list) == n {
			return list
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("%d capabilities, want %d; %v, %v", len(list), n, unread, err)
		}
	}
}

func (x *site) send(c *client.Client, m mplane.Message) mplane.Message {
	x.t.Helper()
	reply, err := c.Send(x.t.Context(), m)
	if err != nil {
		x.t.Fatal(err)
	}
	return reply
}

// specify makes a specification of a capability.
func (x *site) specify(c *mplane.Statement, when string) *mplane.Statement {
	x.t.Helper()
	spec := c.Specification()
	spec.Label = "mine-0"
	var err error
	if spec.When, err = mplane.ParseScope(when); err == nil {
		err = spec.SetParameter("repository.url", "localhost:3000")
	}
	if err != nil {
		x.t.Fatal(err)
	}
	spec.SetToken()
	return spec
}

// redeem waits for what is no receipt.
func (x *site) redeem(c *client.Client, spec *mplane.Statement) mplane.Message {
	x.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		m := x.send(c, spec.Notice(mplane.Redemption))
		if s, ok := m.(*mplane.Statement); !ok || s.Kind != mplane.Receipt {
			return m
		}
		if time.Now().After(deadline) {
			x.t.Fatal("only receipts")
		}
	}
}

func kind(m mplane.Message) mplane.Kind {
	if s, ok := m.(*mplane.Statement); ok {
		return s.Kind
	}
	return ""
}

func untilEnd(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
	<-ctx.Done()
	return nil, nil
}

// TestOwner: only who asked gets anything.
func TestOwner(t *testing.T) {
	x := newSite(t, Options{Immediate: 10 * time.Second})
	defer x.component("c", untilEnd)()
	ann, bob := x.client("ann"), x.client("bob")
	spec := x.specify(x.offers(ann, 2)[0], "now + 1h")
	if m := x.send(ann, spec); kind(m) != mplane.Receipt {
		t.Fatal(m.Show())
	}
	for _, k := range []mplane.Kind{mplane.Redemption, mplane.Interrupt} {
		if e, ok := x.send(bob, spec.Notice(k)).(*mplane.Exception); !ok || e.Message != component.UnknownJob {
			t.Errorf("%s of a stranger: %v", k, e)
		}
	}
	// The same once more is the same job.
	if m := x.send(ann, spec); kind(m) != mplane.Receipt {
		t.Error(m.Show())
	}
	x.send(ann, spec.Notice(mplane.Interrupt))
	m := x.redeem(ann, spec)
	if s, ok := m.(*mplane.Statement); !ok || s.Kind != mplane.Result || s.Label != "mine-0" || s.Token != spec.Token {
		t.Errorf("after the interrupt: %s", m.Show())
	}
	if m := x.redeem(ann, spec); kind(m) != mplane.Result {
		t.Errorf("once more: %s", m.Show())
	}
}

// TestRoles: what is not allowed is not even seen.
func TestRoles(t *testing.T) {
	roles := new(mplane.Roles)
	roles.Assign("ann", "guest")
	roles.Grant("log", "guest")
	x := newSite(t, Options{Roles: roles})
	defer x.component("c", untilEnd)()
	ann, bob := x.client("ann"), x.client("bob")
	c := x.offers(ann, 1)[0] // the callback is granted to nobody
	x.offers(bob, 0)
	if e, ok := x.send(bob, x.specify(c, "now + 1h")).(*mplane.Exception); !ok || e.Message != component.NoPermission {
		t.Errorf("%v", e)
	}
}

// TestMeant checks that a specification that fulfills two capabilities goes to
// the one from which it was made, or to none if that one is not allowed.
func TestMeant(t *testing.T) {
	roles := new(mplane.Roles)
	roles.Assign("ann", "guest")
	roles.Grant("log", "guest")
	roles.Grant("collect_log", "admin")
	x := newSite(t, Options{Roles: roles, Immediate: time.Nanosecond})
	meta := func(system, label string) *mplane.Statement {
		return x.parse(strings.Replace(strings.Replace(capability, `"log"`, `"`+label+`"`, 1), `"when"`, `"metadata": {"System_type": "`+system+`"}, "when"`, 1))
	}
	repository, exporter := meta("repository", "collect_log"), meta("tStat", "log")
	for identity, c := range map[string]*mplane.Statement{"r": repository, "p": exporter} {
		if err := x.s.registrar.Restore(snapshot(t, identity, c)); err != nil {
			t.Fatal(err)
		}
	}
	ann := x.client("ann")
	if m := x.send(ann, x.specify(exporter, "now + 1h")); kind(m) != mplane.Receipt {
		t.Error(m.Show())
	}
	if e, ok := x.send(ann, x.specify(repository, "now + 1h")).(*mplane.Exception); !ok || e.Message != component.NoPermission {
		t.Errorf("%v", e)
	}
	if text := x.polled("p"); strings.Count(text, `"specification"`) != 1 || !strings.Contains(text, `"log-0"`) {
		t.Errorf("polled %s", text)
	}
	if text := x.polled("r"); strings.Contains(text, `"specification"`) {
		t.Errorf("polled %s", text)
	}
}

// TestExpire: a silent component is gone, gets a 428, and comes back by
// itself; what it was asked for is not lost.
func TestExpire(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	stop := x.component("c", untilEnd)
	spec := x.specify(x.offers(ann, 2)[0], "now + 0s")
	x.s.tidy(time.Now().Add(11 * time.Second))
	// It polls so often that it is back already, or soon.
	x.offers(ann, 2)
	x.send(ann, spec)
	if m := x.redeem(ann, spec); kind(m) != mplane.Result {
		t.Error(m.Show())
	}
	stop()
	x.offers(ann, 0)
	if m := x.send(ann, x.specify(x.parse(capability), "now")); kind(m) != mplane.Withdrawal {
		t.Error(m.Show())
	}
}

// TestRestart: components and jobs are there after a restart.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "supervisor.state")
	x := newSite(t, Options{StateFile: file, Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	if err := x.s.registrar.Restore(snapshot(t, "c", c)); err != nil {
		t.Fatal(err)
	}
	accepted, queued := x.specify(c, "now + 1h"), x.specify(c, "now + 2h")
	x.send(ann, accepted)
	token := x.poll("c")
	x.s.Receive("c", &mplane.Statement{Kind: mplane.Receipt, Token: token})
	x.send(ann, accepted.Notice(mplane.Interrupt))
	x.send(ann, queued)
	if err := x.s.save(); err != nil {
		t.Fatal(err)
	}

	y := newSite(t, Options{StateFile: file, Immediate: time.Nanosecond})
	ann = y.client("ann")
	y.offers(ann, 1) // before any component registers
	for _, spec := range []*mplane.Statement{accepted, queued} {
		if m := y.send(ann, spec.Notice(mplane.Redemption)); kind(m) != mplane.Receipt {
			t.Errorf("after the restart: %s", m.Show())
		}
	}
	// What was queued and the interrupt are delivered now.
	text := y.polled("c")
	if strings.Count(text, `"specification"`) != 1 || strings.Count(text, `"interrupt"`) != 1 {
		t.Errorf("delivered: %s", text)
	}
	now := time.Now()
	late := *accepted
	late.Token = token
	y.s.Receive("c", late.Result(now, now, nil))
	if m := y.redeem(ann, accepted); kind(m) != mplane.Result {
		t.Error(m.Show())
	}

	// A state that is damaged is not taken for none.
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(Options{StateFile: file, Registries: y.reg}); err == nil {
		t.Error("a damaged state is read")
	}
}

// TestLost: jobs end even if nobody answers.
func TestLost(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	if problem := x.s.registrar.Restore(snapshot(t, "c", c)); problem != nil {
		t.Fatal(problem)
	}
	unanswered, endless := x.specify(c, "now + 1h"), x.specify(c, "now ... future")
	x.send(ann, unanswered)
	x.send(ann, endless)
	for _, when := range []time.Duration{20 * time.Second, 9 * time.Minute} {
		x.s.tidy(time.Now().Add(when))
		for _, spec := range []*mplane.Statement{unanswered, endless} {
			if m := x.send(ann, spec.Notice(mplane.Redemption)); kind(m) != mplane.Receipt {
				t.Errorf("after %v: %s", when, m.Show())
			}
		}
	}
	x.s.tidy(time.Now().Add(11 * time.Minute))
	for _, spec := range []*mplane.Statement{unanswered, endless} {
		if e, ok := x.send(ann, spec.Notice(mplane.Redemption)).(*mplane.Exception); !ok || !strings.Contains(e.Message, "is gone") {
			t.Errorf("after 11 minutes: %v", e)
		}
	}
	x.s.tidy(time.Now().Add(2 * time.Hour))
	if n := len(x.s.relayed) + len(x.s.asked) + len(x.s.running); n > 0 {
		t.Errorf("%d jobs are kept", n)
	}
}

// TestResend: a specification that was delivered and not answered is delivered
// again, a few times.
func TestResend(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	if err := x.s.registrar.Restore(snapshot(t, "c", c)); err != nil {
		t.Fatal(err)
	}
	spec := x.specify(c, "now + 1h")
	x.send(ann, spec)
	delivered := 0
	for range 2 + maxResend {
		delivered += strings.Count(x.polled("c"), `"specification"`)
		x.s.mu.Lock()
		for _, b := range x.s.relayed {
			b.sent = b.sent.Add(-time.Minute)
		}
		x.s.mu.Unlock()
		x.s.tidy(time.Now())
	}
	if delivered != 1+maxResend {
		t.Errorf("delivered %d times", delivered)
	}
	if e, ok := x.redeem(ann, spec).(*mplane.Exception); !ok || !strings.Contains(e.Message, "does not answer") {
		t.Errorf("%v", e)
	}
}

// polled returns what a component gets from a poll.
func (x *site) polled(identity string) string {
	x.t.Helper()
	conn, err := wire.Dialer{URL: x.components.URL, Identity: identity}.Open()
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close()
	resp, err := conn.Do(x.t.Context(), "GET", wire.SpecificationPath, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	return string(resp.Body)
}

// poll returns the token of the one specification that a poll brings.
func (x *site) poll(identity string) string {
	x.t.Helper()
	m, err := x.reg.Parse([]byte(x.polled(identity)))
	if err != nil {
		x.t.Fatal(err)
	}
	return m.(*mplane.Envelope).Messages[0].(*mplane.Statement).Token
}

// TestInterruptAgain: an interrupt that has no effect is sent again.
func TestInterruptAgain(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	if err := x.s.registrar.Restore(snapshot(t, "c", c)); err != nil {
		t.Fatal(err)
	}
	spec := x.specify(c, "now + 1h")
	x.send(ann, spec)
	x.send(ann, spec.Notice(mplane.Interrupt)) // the component does not know the job yet
	x.s.Receive("c", &mplane.Statement{Kind: mplane.Receipt, Token: x.poll("c")})
	for range 2 {
		if text := x.polled("c"); strings.Count(text, `"interrupt"`) != 1 {
			t.Errorf("polled %s", text)
		}
		x.s.tidy(time.Now())
		if text := x.polled("c"); strings.Contains(text, `"interrupt"`) {
			t.Errorf("at once: %s", text)
		}
		x.s.mu.Lock()
		x.s.asked[key{"ann", spec.Token}].sent = time.Now().Add(-time.Minute)
		x.s.mu.Unlock()
		x.s.tidy(time.Now())
	}
}

// TestRegisterAgain: a component that may have been restarted gets what it was
// doing once more, unless that was to stop.
func TestRegisterAgain(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	conn, err := wire.Dialer{URL: x.components.URL, Identity: "c"}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	register := func() {
		for range 2 { // as RI supervisors do: each capability by itself
			if _, err := conn.Do(t.Context(), "POST", wire.CapabilityPath, c); err != nil {
				t.Fatal(err)
			}
		}
	}
	register()
	spec := x.specify(c, "now + 1h")
	x.send(ann, spec)
	token := x.poll("c")
	for range 2 * maxResend { // however often that is
		x.s.Receive("c", &mplane.Statement{Kind: mplane.Receipt, Token: token})
		if text := x.polled("c"); strings.Contains(text, token) {
			t.Errorf("polled %s", text)
		}
		register()
		if text := x.polled("c"); strings.Count(text, `"specification"`) != 1 || !strings.Contains(text, token) {
			t.Errorf("polled %s", text)
		}
	}
	x.send(ann, spec.Notice(mplane.Interrupt))
	register()
	if text := x.polled("c"); strings.Contains(text, `"specification"`) || !strings.Contains(text, `"interrupt"`) {
		t.Errorf("polled %s", text)
	}
}

// TestLateResult: a component whose job must be over is asked for its state.
func TestLateResult(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	if err := x.s.registrar.Restore(snapshot(t, "c", c)); err != nil {
		t.Fatal(err)
	}
	spec := x.specify(c, "now + 1m")
	x.send(ann, spec)
	x.s.Receive("c", &mplane.Statement{Kind: mplane.Receipt, Token: x.poll("c")})
	x.s.mu.Lock()
	b := x.s.asked[key{"ann", spec.Token}]
	b.sent = b.sent.Add(-80 * time.Second)
	b.created = b.sent
	x.s.mu.Unlock()
	x.s.tidy(time.Now())
	if text := x.polled("c"); strings.Contains(text, `"interrupt"`) {
		t.Errorf("too early: %s", text)
	}
	x.s.mu.Lock()
	b.created = b.created.Add(-20 * time.Second)
	x.s.mu.Unlock()
	x.s.tidy(time.Now())
	if text := x.polled("c"); !strings.Contains(text, `"interrupt"`) {
		t.Errorf("polled %s", text)
	}
}

func snapshot(t *testing.T, identity string, c *mplane.Statement) []registrar.Snapshot {
	text, err := mplane.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return []registrar.Snapshot{{Identity: identity, Capabilities: []json.RawMessage{text}}}
}

// TestRun listens and stops.
func TestRun(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opt := Options{Registries: reg, StateFile: filepath.Join(t.TempDir(), "s")}
	opt.Components.Addr, opt.Clients.Addr = ":0", ":0"
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Open(wire.Dialer{URL: s.Addrs()[1]}, reg)
	if err != nil {
		t.Error(err)
	}
	go func() {
		defer cancel()
		if list, _, err := c.Capabilities(ctx); err != nil || len(list) > 0 {
			t.Errorf("%d capabilities, %v", len(list), err)
		}
	}()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	for _, addr := range []string{"", "0.0.0.0:0"} {
		for _, where := range []*string{&opt.Components.Addr, &opt.Clients.Addr} {
			opt.Components.Addr, opt.Clients.Addr = ":0", ":0"
			*where = addr
			if s, err := New(opt); s != nil || !hint.IsUsage(err) {
				t.Errorf("listening on %q and %q: %v", opt.Components.Addr, opt.Clients.Addr, err)
			}
		}
	}
}

// TestRepeatInterrupted proves that a client gets the results of all runs of a
// repeated specification that it interrupts, not only those so far.
func TestRepeatInterrupted(t *testing.T) {
	x := newSite(t, Options{})
	running := make(chan bool)
	defer x.component("a", func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
		running <- true
		select {
		case <-ctx.Done():
			time.Sleep(50 * time.Millisecond) // what is under way takes time to stop
		case running <- true: // the first run ends
		}
		return nil, nil
	})()
	c := x.client("me")
	offers := x.offers(c, 2) // the callback too
	log := offers[slices.IndexFunc(offers, func(s *mplane.Statement) bool { return s.Label == "log" })]
	spec := x.specify(log, "repeat now + 1h / 1s { now + 1h }")
	x.send(c, spec)
	<-running
	<-running
	<-running
	x.send(c, spec.Notice(mplane.Interrupt))
	e, ok := x.redeem(c, spec).(*mplane.Envelope)
	if !ok || len(e.Messages) != 2 {
		t.Fatalf("got %v", e)
	}
	if _, end := e.When.Times(time.Time{}); end.After(time.Now()) {
		t.Errorf("an interrupted specification ends at %s", end)
	}
}

// TestRoomForJobs: when what is kept takes all room, specifications are
// refused and results become exceptions; both are counted. With room again all
// is as before, and nothing stays of jobs that are forgotten.
func TestRoomForJobs(t *testing.T) {
	x := newSite(t, Options{})
	finish := make(chan struct{})
	stop := x.component("c", func(context.Context, *mplane.Statement) ([][]string, error) { <-finish; return nil, nil })
	cl := x.client("ann")
	offer := x.offers(cl, 2)[0] // the other is the callback
	before := x.s.registrar.Room().Bytes()
	var full []registrar.Lease
	fill := func() {
		for i := 0; ; i++ {
			size := min(registrar.MaxKeptOf, registrar.MaxKept-x.s.registrar.Room().Bytes())
			if size == 0 {
				return
			}
			lease, ok := x.s.registrar.Room().Take(fmt.Sprint("other", i), "", size, false)
			if !ok {
				t.Fatal("the room is not filled")
			}
			full = append(full, lease)
		}
	}
	empty := func() {
		for _, l := range full {
			x.s.registrar.Room().Release(l)
		}
		full = nil
	}
	spec := x.specify(offer, "now + 1h")
	fill()
	if m, ok := x.send(cl, spec).(*mplane.Exception); !ok || m.Message != "Too many jobs" {
		t.Errorf("without room: %v", m)
	}
	empty()
	if m := x.send(cl, spec); kind(m) != mplane.Receipt {
		t.Fatalf("with room: %v", m)
	}
	fill()
	close(finish)
	if m, ok := x.redeem(cl, spec).(*mplane.Exception); !ok || !strings.Contains(m.Message, "No room for a result") {
		t.Errorf("a result without room: %v", m)
	}
	empty()
	again := x.specify(offer, "now + 1h")
	x.send(cl, again)
	if m := x.redeem(cl, again); kind(m) != mplane.Result {
		t.Errorf("a result with room: %v", m)
	}
	stop()
	x.s.tidy(time.Now().Add(2 * time.Hour))
	x.s.tidy(time.Now().Add(4 * time.Hour))
	if n := x.s.registrar.Room().Bytes(); n > 0 {
		t.Errorf("%d bytes are left; with the capability there were %d", n, before)
	}
	w := httptest.NewRecorder()
	x.s.metrics.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{"tstatrepo_supervisor_results_left_out_total 1\n", "tstatrepo_supervisor_refused_total 1\n", "tstatrepo_supervisor_kept_bytes 0\n"} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("no %s", line)
		}
	}
}
