package supervisor

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// register registers the capability in text as the component with the given identity, and
// reports whether the supervisor accepted it.
func (x *site) register(identity, text string) bool {
	x.t.Helper()
	text = strings.ReplaceAll(text, "REG", mplane.TstatRegistry)
	req, err := http.NewRequest("POST", x.components.URL+wire.CapabilityPath, strings.NewReader(text))
	if err != nil {
		x.t.Fatal(err)
	}
	req.Header.Set("Content-Type", wire.ContentType)
	req.Header.Set(mplane.IdentityHeader, identity)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		x.t.Fatalf("registration answered with %s, %v", resp.Status, err)
	}
	return strings.Contains(string(body), `"ok"`)
}

// restart returns a site with the saved state of x.
func (x *site) restart(opt Options) *site {
	x.t.Helper()
	if err := x.s.save(); err != nil {
		x.t.Fatal(err)
	}
	return newSite(x.t, opt)
}

// wide returns a text of n bytes that needs three times as many in a message, because
// messages are ASCII.
func wide(n int) string { return strings.Repeat("é", n/2) }

// TestCapabilityThatPeersCannotReadIsRefused checks that no component can stop clients
// from listing capabilities, and the supervisor from starting again, with a capability
// whose messages exceed the limits on messages.
func TestCapabilityThatPeersCannotReadIsRefused(t *testing.T) {
	opt := Options{StateFile: filepath.Join(t.TempDir(), "s"), Immediate: time.Nanosecond}
	x := newSite(t, opt)
	ann := x.client("ann")
	large := strings.Replace(capability, `"when"`, `"metadata": {"System_ID": "`+wide(4<<20)+`"}, "when"`, 1)
	long := strings.Replace(capability, `"log"`, `"`+strings.Repeat("l", 4096)+`"`, 1)
	for name, text := range map[string]string{"large": large, "with a long label": long} {
		if x.register("c", text) {
			t.Errorf("a capability is accepted that is %s", name)
		}
	}
	if !x.register("c", capability) {
		t.Error("a capability is refused")
	}
	list, unread, err := ann.Capabilities(t.Context())
	if err != nil || unread != nil || len(list) != 1 {
		t.Errorf("%d capabilities, %v, %v", len(list), unread, err)
	}
	for _, c := range list {
		x.send(ann, x.specify(c, "now + 1h"))
	}
	y := x.restart(opt)
	if y.offers(y.client("ann"), 1); strings.Count(y.polled("c"), `"specification"`) != 1 {
		t.Error("the specification is lost")
	}
}

// TestResultThatClientsCannotReadIsDropped checks that a result that exceeds the size of
// a message in the form in which clients get it ends its job with an exception, and that
// the supervisor starts again.
func TestResultThatClientsCannotReadIsDropped(t *testing.T) {
	for name, text := range map[string]string{"wide": wide(6 << 20), "escaped in the state file": strings.Repeat("<", 6<<20)} {
		opt := Options{StateFile: filepath.Join(t.TempDir(), "s"), Immediate: time.Nanosecond}
		x := newSite(t, opt)
		ann := x.client("ann")
		c := x.parse(capability)
		x.register("c", capability)
		spec := x.specify(c, "now + 1h")
		x.send(ann, spec)
		now := time.Now()
		late := *spec
		late.Token, late.Results = x.poll("c"), []string{"log.folder"}
		x.s.Receive("c", late.Result(now, now, [][]string{{text}}))
		y := x.restart(opt)
		if e, ok := y.redeem(y.client("ann"), spec).(*mplane.Exception); !ok || !strings.Contains(e.Message, "bytes") {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// TestPollStaysReadable checks that a component can read the specifications of all
// clients, however large they are together.
func TestPollStaysReadable(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	c := x.parse(capability)
	x.register("c", capability)
	for _, name := range []string{"ann", "bob", "eve"} {
		spec := x.specify(c, "now + 1h")
		spec.Parameters[0].Text = "http://" + strings.Repeat("x", 3<<20)
		if m := x.send(x.client(name), spec); kind(m) != mplane.Receipt {
			t.Fatal(m.Show())
		}
	}
	got := 0
	for range 4 {
		got += strings.Count(x.polled("c"), `"specification"`)
	}
	if got != 3 {
		t.Errorf("polled %d specifications", got)
	}
	// A single specification that no component could read is refused.
	spec := x.specify(c, "now + 1h")
	spec.Parameters[0].Text = strings.Repeat("x", 8<<20-2000)
	if e, ok := x.send(x.client("ann"), spec).(*mplane.Exception); !ok || !strings.Contains(e.Message, "bytes") {
		t.Errorf("%v", e)
	}
}

// TestJobOfSilentComponentSurvivesRestart checks that a running job does not end at a
// restart of the supervisor because its component was silent just before. An interrupt
// waits for the component, too.
func TestJobOfSilentComponentSurvivesRestart(t *testing.T) {
	opt := Options{StateFile: filepath.Join(t.TempDir(), "s"), Immediate: time.Nanosecond}
	x := newSite(t, opt)
	ann := x.client("ann")
	c := x.parse(capability)
	x.register("c", capability)
	spec := x.specify(c, "now + inf")
	x.send(ann, spec)
	x.s.Receive("c", &mplane.Statement{Kind: mplane.Receipt, Token: x.poll("c")})
	x.s.mu.Lock()
	x.s.asked[key{"ann", spec.Token}].created = time.Now().Add(-time.Hour)
	x.s.dirty = true
	x.s.mu.Unlock()
	x.s.tidy(time.Now().Add(20 * time.Second)) // the component is silent
	y := x.restart(opt)
	ann = y.client("ann")
	y.s.tidy(time.Now())
	if m := y.send(ann, spec.Notice(mplane.Redemption)); kind(m) != mplane.Receipt {
		t.Fatalf("after the restart: %s", m.Show())
	}
	if m := y.send(ann, spec.Notice(mplane.Interrupt)); kind(m) != mplane.Receipt {
		t.Fatalf("interrupt: %s", m.Show())
	}
	y.register("c", capability)
	y.s.mu.Lock()
	y.s.asked[key{"ann", spec.Token}].sent = time.Now().Add(-time.Minute)
	y.s.mu.Unlock()
	y.s.tidy(time.Now())
	if text := y.polled("c"); !strings.Contains(text, `"interrupt"`) {
		t.Errorf("polled %s", text)
	}
	y.s.tidy(time.Now().Add(time.Hour))
	if e, ok := y.send(ann, spec.Notice(mplane.Redemption)).(*mplane.Exception); !ok || !strings.Contains(e.Message, "is gone") {
		t.Errorf("%v", e)
	}
}

// TestUndeliveredResultIsKept checks that a result that could not be sent to its client
// is not dropped as if the client had received it.
func TestUndeliveredResultIsKept(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	ann := x.client("ann")
	x.register("c", capability)
	spec := x.specify(x.parse(capability), "now + 1h")
	x.send(ann, spec)
	now := time.Now()
	late := *spec
	late.Token = x.poll("c")
	x.s.Receive("c", late.Result(now, now, nil))
	x.s.NotDelivered("ann", x.s.state("ann", spec.Token))
	x.s.tidy(now.Add(10 * keepDelivered))
	if m := x.redeem(ann, spec); kind(m) != mplane.Result {
		t.Error(m.Show())
	}
}
