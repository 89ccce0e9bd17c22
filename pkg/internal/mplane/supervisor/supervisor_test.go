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

// site is a supervisor with HTTP servers for components and clients.
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

// parse parses a statement.
func (x *site) parse(text string) *mplane.Statement {
	x.t.Helper()
	m, err := x.reg.Parse([]byte(strings.ReplaceAll(text, "REG", mplane.TstatRegistry)))
	if err != nil {
		x.t.Fatal(err)
	}
	return m.(*mplane.Statement)
}

const capability = `{"capability": "measure", "label": "log", "registry": "REG", "when": "past ... future", "parameters": {"repository.url": "*"}}`

// component runs a component with the service run until stop is called.
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

// specify returns a specification of a capability.
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

// redeem redeems a specification until the reply is not a receipt.
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

// TestOnlyOwnerGetsReply checks that only the client that sent a specification can
// access it.
func TestOnlyOwnerGetsReply(t *testing.T) {
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
	// The same specification again is the same job.
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

// TestRolesHideCapabilities checks that clients do not see capabilities that they may
// not use.
func TestRolesHideCapabilities(t *testing.T) {
	roles := new(mplane.Roles)
	roles.Assign("ann", "guest")
	roles.Grant("log", "guest")
	x := newSite(t, Options{Roles: roles})
	defer x.component("c", untilEnd)()
	ann, bob := x.client("ann"), x.client("bob")
	c := x.offers(ann, 1)[0] // the callback capability is not granted
	x.offers(bob, 0)
	if e, ok := x.send(bob, x.specify(c, "now + 1h")).(*mplane.Exception); !ok || e.Message != component.NoPermission {
		t.Errorf("%v", e)
	}
}

// TestSpecificationGoesToItsOrigin checks that a specification that fulfills two
// capabilities goes to the one it was derived from, and is refused if that one is not
// allowed.
func TestSpecificationGoesToItsOrigin(t *testing.T) {
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

// TestSilentComponentReregisters checks that a silent component is dropped, gets status
// 428 and registers again. Its specifications are not lost.
func TestSilentComponentReregisters(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	stop := x.component("c", untilEnd)
	spec := x.specify(x.offers(ann, 2)[0], "now + 0s")
	x.s.tidy(time.Now().Add(11 * time.Second))
	// The component polls so often that it registers again soon.
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

// TestRestartKeepsComponentsAndJobs checks that components and jobs survive a restart.
func TestRestartKeepsComponentsAndJobs(t *testing.T) {
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
	// The queued messages and the interrupt are delivered now.
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

	// A damaged state file is an error, not an empty state.
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(Options{StateFile: file, Registries: y.reg}); err == nil {
		t.Error("a damaged state is read")
	}
}

// TestJobsEndWithoutReply checks that jobs end even if no component responds.
func TestJobsEndWithoutReply(t *testing.T) {
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

// TestSpecificationIsResent checks that a delivered specification without a response is
// resent a few times.
func TestSpecificationIsResent(t *testing.T) {
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

// polled returns the response to a component's poll.
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

// poll polls and returns the token of the only specification in the response.
func (x *site) poll(identity string) string {
	x.t.Helper()
	m, err := x.reg.Parse([]byte(x.polled(identity)))
	if err != nil {
		x.t.Fatal(err)
	}
	return m.(*mplane.Envelope).Messages[0].(*mplane.Statement).Token
}

// TestInterruptIsResent checks that an interrupt without effect is resent.
func TestInterruptIsResent(t *testing.T) {
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

// TestReregisteredComponentGetsItsJobs checks that a component that may have been
// restarted gets its running specifications again, except those that were interrupted.
func TestReregisteredComponentGetsItsJobs(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	c := x.parse(capability)
	conn, err := wire.Dialer{URL: x.components.URL, Identity: "c"}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	register := func() {
		for range 2 { // like RI supervisors, register each capability separately
			if _, err := conn.Do(t.Context(), "POST", wire.CapabilityPath, c); err != nil {
				t.Fatal(err)
			}
		}
	}
	register()
	spec := x.specify(c, "now + 1h")
	x.send(ann, spec)
	token := x.poll("c")
	for range 2 * maxResend { // more often than the limit of resends
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

// TestOverdueResultIsRequested checks that the supervisor asks a component for the
// result of a job whose scope has ended.
func TestOverdueResultIsRequested(t *testing.T) {
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

// TestRunListensUntilContextEnds checks that Run serves both ports and stops with its
// context.
func TestRunListensUntilContextEnds(t *testing.T) {
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

// TestInterruptedRepeatReturnsAllResults proves that a client that interrupts a
// repeated specification gets the results of all runs, including the current one.
func TestInterruptedRepeatReturnsAllResults(t *testing.T) {
	x := newSite(t, Options{})
	running := make(chan bool)
	defer x.component("a", func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
		running <- true
		select {
		case <-ctx.Done():
			time.Sleep(50 * time.Millisecond) // the current run takes some time to stop
		case running <- true: // the first run ends
		}
		return nil, nil
	})()
	c := x.client("me")
	offers := x.offers(c, 2) // including the callback capability
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

// TestRoomForJobs checks that, without free memory, specifications are refused and
// results become exceptions. Both are counted. When memory is free again, jobs succeed,
// and removed jobs leave nothing behind.
func TestRoomForJobs(t *testing.T) {
	x := newSite(t, Options{})
	finish := make(chan struct{})
	stop := x.component("c", func(context.Context, *mplane.Statement) ([][]string, error) { <-finish; return nil, nil })
	cl := x.client("ann")
	offer := x.offers(cl, 2)[0] // the other capability is the callback
	before := x.s.registrar.Room().Bytes()
	var full []registrar.Lease
	fill := func() {
		for i := 0; ; i++ {
			size := min(registrar.MaxKeptOf, registrar.MaxKept-x.s.registrar.Room().Bytes())
			if size == 0 {
				return
			}
			lease, ok := x.s.registrar.Room().Reserve(fmt.Sprint("other", i), "", size, false)
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
