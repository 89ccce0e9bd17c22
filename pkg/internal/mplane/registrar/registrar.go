// Package registrar implements the server with which mPlane components register.
// Components poll it for specifications and deliver results to it.
package registrar

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Limits on the data that components send.
const (
	maxComponents = 10000
	maxOffers     = 1000      // capabilities of one component
	maxQueue      = 10000     // messages for one component
	maxPoll       = 1 << 20   // bytes of the messages in one response to a poll; see mplane.Size
	maxLabel      = 4000      // bytes; a supervisor appends a number, and peers accept 4096
	maxAway       = time.Hour // maximum of component.away
)

// callbackLabel is the label of the specifications with which a supervisor sets the time
// of a component's next poll.
const callbackLabel = "callback"

// expire is how long a component may be silent before its capabilities are withdrawn, as
// in the RI. The component must then register again. A callback specification, which
// delays the component's next poll, extends this time by the delay.
const expire = 10 * time.Second

// Receiver receives messages from components through a Registrar.
type Receiver interface {
	// Receive is called for each reply from a component: receipt, result, envelope or
	// exception.
	Receive(identity string, m mplane.Message)
	// Registered is called when a component has registered. The component may have lost
	// earlier messages.
	Registered(identity string)
}

// Registrar is the server in the component-initiated workflow: components register
// their capabilities with it, poll it for specifications and deliver results to it. It
// is an http.Handler and safe for concurrent use.
type Registrar struct {
	registries *mplane.Registries // elements that components may use
	receiver   Receiver
	log        *slog.Logger

	room     *Room
	refused  atomic.Int64   // number of refused capabilities
	refusals rate.Sometimes // limits log lines about refused capabilities

	mu         sync.Mutex
	components map[string]*component // by identity
	offers     []*Offer              // in order of registration
	withdrawn  int                   // number of withdrawn offers
	bySchema   map[string][]*Offer   // offers that are not withdrawn, in the same order
	byOrigin   map[string][]*Offer   // the same offers, by originOf
	byToken    map[string][]*Offer   // all offers
}

// New returns a registrar without components.
func New(registries *mplane.Registries, receiver Receiver, log *slog.Logger) *Registrar {
	return &Registrar{
		registries: registries, receiver: receiver, log: log, components: map[string]*component{},
		room: &Room{max: MaxKept, perOwner: MaxKeptOf, reserved: map[owner]int{}}, refusals: rate.Sometimes{First: 5, Interval: 10 * time.Second},
		bySchema: map[string][]*Offer{}, byOrigin: map[string][]*Offer{}, byToken: map[string][]*Offer{},
	}
}

// component is a registered component.
type component struct {
	identity   string
	host       string // host of the last registration; see peer.Host
	registered bool
	seen       time.Time
	away       time.Duration // delay of the next poll, as requested by the supervisor
	offers     []*Offer
	withdrawn  int // number of withdrawn offers
	queue      []mplane.Message
}

// ServeHTTP serves the three paths of the component-initiated workflow: register, poll
// and deliver results. A final slash is optional.
func (reg *Registrar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handlers := map[string]struct {
		method string
		serve  func(http.ResponseWriter, *http.Request, string)
	}{
		wire.CapabilityPath:    {http.MethodPost, reg.register},
		wire.SpecificationPath: {http.MethodGet, reg.poll},
		wire.ResultPath:        {http.MethodPost, reg.result},
	}
	h, ok := handlers[strings.TrimSuffix(r.URL.Path, "/")]
	id, err := wire.Identity(r)
	switch {
	case !ok:
		wire.Fail(w, http.StatusNotFound)
	case h.method != r.Method:
		wire.Fail(w, http.StatusMethodNotAllowed)
	case err != nil:
		wire.Fail(w, http.StatusBadRequest)
	default:
		h.serve(w, r, id)
	}
}

// read returns the message in the body of r. If it cannot read the message, it responds
// with an error and returns false. id is the identity of the sender.
func (reg *Registrar) read(w http.ResponseWriter, r *http.Request, id string) (mplane.Message, bool) {
	if r.Header.Get("Content-Type") != wire.ContentType {
		wire.Answer(w, http.StatusBadRequest, "text/plain", []byte("Invalid format"))
		return nil, false
	}
	m, err := wire.ReadMessage(r, reg.registries)
	if err != nil {
		reg.log.Warn("message of component cannot be read", "component", id, "err", err)
		wire.Answer(w, http.StatusBadRequest, "text/plain", []byte(err.Error()))
		return nil, false
	}
	return m, true
}

// register handles a component's request to add or withdraw capabilities. The request
// contains one capability or withdrawal, or an envelope of them.
func (reg *Registrar) register(w http.ResponseWriter, r *http.Request, id string) {
	m, ok := reg.read(w, r, id)
	if !ok {
		return
	}
	var answers []string
	added := false
	host := wire.Host(r)
	refused := map[string]int{} // by reason
	for _, m := range flatten(m) {
		s, ok := m.(*mplane.Statement)
		label := ""
		if ok {
			label = s.Label
		}
		reason := "Not a capability"
		switch {
		case !ok:
		case s.Kind == mplane.Capability:
			if reason = reg.add(id, host, s, false); reason == "" {
				added = true
			} else {
				refused[reason]++
			}
		case s.Kind == mplane.Withdrawal:
			reg.withdraw(id, s.ID())
			reason = "Withdrawn"
		}
		answers = append(answers, answer(label, reason))
	}
	if added {
		reg.receiver.Registered(id)
	}
	for reason, n := range refused {
		reg.refused.Add(int64(n))
		reg.refusals.Do(func() {
			reg.log.Warn("capabilities refused", "component", id, "peer", r.RemoteAddr, "capabilities", n, "reason", reason)
		})
	}
	wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{"+strings.Join(answers, ",")+"}"))
}

// answer returns one member of the JSON object that is the response to a registration.
// The member says that the capability with the given label is registered or, if reason is
// not "", why it is refused. Members are text, not entries of a map, because one label
// may occur several times in the object.
func answer(label, reason string) string {
	name, _ := json.Marshal(label)
	if reason == "" {
		return string(name) + `:{"registered":"ok"}`
	}
	text, _ := json.Marshal(reason)
	return fmt.Sprintf(`%s:{"registered":"no", "reason":%s}`, name, text)
}

// flatten returns m or, if m is an envelope, the messages in m and its nested envelopes.
func flatten(m mplane.Message) []mplane.Message {
	e, ok := m.(*mplane.Envelope)
	if !ok {
		return []mplane.Message{m}
	}
	var list []mplane.Message
	for _, inner := range e.Messages {
		list = append(list, flatten(inner)...)
	}
	return list
}

// poll responds with the messages queued for a component.
func (reg *Registrar) poll(w http.ResponseWriter, r *http.Request, id string) {
	reg.mu.Lock()
	c := reg.components[id]
	if c == nil || !c.registered {
		reg.mu.Unlock()
		wire.Answer(w, http.StatusPreconditionRequired, "text/plain", []byte("not registered"))
		return
	}
	c.seen, c.away = time.Now(), 0
	n := 0
	for size := 0; n < len(c.queue); n++ {
		// Deliver at least one message. The rest waits for the next poll, because the
		// component reads at most mplane.MaxMessage bytes.
		if size += mplane.Size(c.queue[n]); n > 0 && size > maxPoll {
			break
		}
	}
	queue := c.queue[:n:n]
	c.queue = slices.Clone(c.queue[n:])
	link := wire.Link(r)
	e := &mplane.Envelope{}
	for _, m := range queue {
		if s, ok := m.(*mplane.Statement); ok && s.Kind == mplane.Specification {
			if s.Label == callbackLabel { // components do not respond to it
				c.away = min(s.When.Delays(time.Now()).End, maxAway)
			} else {
				linked := *s
				linked.Link = &link
				m = &linked
			}
		}
		e.Messages = append(e.Messages, m)
	}
	reg.mu.Unlock()
	wire.Write(w, http.StatusOK, e)
}

// result handles a reply that a component delivers.
func (reg *Registrar) result(w http.ResponseWriter, r *http.Request, id string) {
	m, ok := reg.read(w, r, id)
	if !ok {
		return
	}
	if s, ok := m.(*mplane.Statement); ok && s.Kind != mplane.Receipt && s.Kind != mplane.Result {
		wire.Answer(w, http.StatusBadRequest, "text/plain", []byte("Not a result (or exception)"))
		return
	}
	reg.recordContact(id)
	reg.receiver.Receive(id, m)
	wire.Answer(w, http.StatusOK, wire.HTML, nil)
}

// recordContact records that a component is alive. A component that delivers results must
// not be dropped if its next poll is late.
func (reg *Registrar) recordContact(identity string) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if c := reg.components[identity]; c != nil && c.registered {
		c.seen = time.Now()
	}
}

// Queue queues a message for the next poll of a component.
func (reg *Registrar) Queue(identity string, m mplane.Message) error {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	c := reg.components[identity]
	switch {
	case c == nil:
		return fmt.Errorf("component %s is not registered", identity)
	case len(c.queue) >= maxQueue:
		return fmt.Errorf("%d messages wait for component %s", len(c.queue), identity)
	}
	c.queue = append(c.queue, m)
	return nil
}

// IsQueued reports whether m is still queued for a component.
func (reg *Registrar) IsQueued(identity string, m mplane.Message) bool {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	c := reg.components[identity]
	return c != nil && slices.Contains(c.queue, m)
}

// Tidy withdraws the capabilities of components that have been silent for longer than
// expire, and removes capabilities that were withdrawn long ago. Call it about once per
// second.
func (reg *Registrar) Tidy(now time.Time) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	for _, c := range reg.components {
		if c.registered && now.Sub(c.seen) > expire+c.away {
			c.registered = false
			reg.log.Warn("component is silent, capabilities withdrawn", "component", c.identity, "last_seen", c.seen.Format(time.RFC3339))
			for _, o := range c.offers {
				reg.markWithdrawn(o)
			}
		}
	}
	reg.removeWithdrawn(func(o *Offer) bool { return !o.withdrawn.IsZero() && now.Sub(o.withdrawn) > keepWithdrawn })
}

// Refused returns the number of capabilities refused since the start.
func (reg *Registrar) Refused() int64 { return reg.refused.Load() }

// Room returns the Room in which reg reserves memory. The Receiver shares it.
func (reg *Registrar) Room() *Room { return reg.room }

// ReserveFor reserves memory for a component's message; see Room.Reserve.
func (reg *Registrar) ReserveFor(identity string, bytes int) (Lease, bool) {
	reg.mu.Lock()
	host := ""
	if c := reg.components[identity]; c != nil {
		host = c.host
	}
	reg.mu.Unlock()
	return reg.room.Reserve(identity, host, bytes, false)
}

// Present reports whether the component with the given identity is registered, and the
// time at which it was last seen. The time is zero if the component is unknown.
func (reg *Registrar) Present(identity string) (registered bool, seen time.Time) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if c := reg.components[identity]; c != nil {
		return c.registered, c.seen
	}
	return false, time.Time{}
}

// Counts returns the numbers of registered components, offered capabilities and messages
// that wait for a poll.
func (reg *Registrar) Counts() (components, capabilities, waiting int) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	for _, c := range reg.components {
		if c.registered {
			components++
		}
		waiting += len(c.queue)
	}
	for _, list := range reg.bySchema {
		capabilities += len(list)
	}
	return components, capabilities, waiting
}

// Snapshot is a registered component in the form that Save returns and Restore accepts.
type Snapshot struct {
	Identity     string
	Capabilities []json.RawMessage
}

// Save returns the registered components in a form that Restore accepts.
func (reg *Registrar) Save() ([]Snapshot, error) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	var list []Snapshot
	done := map[string]bool{}
	for _, o := range reg.offers {
		c := reg.components[o.Identity]
		if !c.registered || done[c.identity] {
			continue
		}
		done[c.identity] = true
		s := Snapshot{Identity: c.identity}
		for _, o := range c.offers {
			if o.withdrawn.IsZero() {
				text, err := mplane.Marshal(o.Capability)
				if err != nil {
					return nil, err
				}
				s.Capabilities = append(s.Capabilities, text)
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// Restore registers the components that Save returned before a restart. It treats them as
// if they had just connected.
func (reg *Registrar) Restore(list []Snapshot) error {
	for _, s := range list {
		for _, text := range s.Capabilities {
			m, err := reg.registries.Parse(text)
			if err != nil {
				return fmt.Errorf("capability of %s: %w", s.Identity, err)
			}
			if c, ok := m.(*mplane.Statement); ok {
				reg.add(s.Identity, "", c, true)
			}
		}
	}
	return nil
}
