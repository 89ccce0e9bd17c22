package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/wire"
)

// Limits of what components can make a Listener keep.
const (
	maxComponents = 10000
	maxOffers     = 1000  // of one component
	maxQueue      = 10000 // messages for one component
	maxAway       = time.Hour
)

// callbackLabel is of the specifications that tell a component when to poll
// next.
const callbackLabel = "callback"

// expire is after how much silence a component is gone, as at the RI. It has to
// register again then.
const expire = 10 * time.Second

// Receiver takes what components say to a Listener.
type Receiver interface {
	// Receive is called for each reply of a component: receipt, result,
	// envelope or exception.
	Receive(identity string, m mplane.Message)
	// Registered is called when a component has registered; it may have lost
	// what it was told before.
	Registered(identity string)
}

// Listener is the client of the component-initiated workflow: components
// register their capabilities at it, poll for specifications and deliver
// results. It is an http.Handler, safe for concurrent use.
type Listener struct {
	registries *mplane.Registries // that components may use
	receiver   Receiver
	log        *slog.Logger

	room     *Room
	refused  atomic.Int64   // capabilities
	refusals rate.Sometimes // limits what is logged of them

	mu         sync.Mutex
	components map[string]*component // by identity
	offers     []*Offer              // in the order of registration
	withdrawn  int                   // of these
	schemas    map[string][]*Offer   // of capabilities that are not withdrawn, in that order too
	makers     map[string][]*Offer   // the same by schema and metadata
	tokens     map[string][]*Offer
}

// NewListener returns a listener without components.
func NewListener(registries *mplane.Registries, receiver Receiver, log *slog.Logger) *Listener {
	return &Listener{
		registries: registries, receiver: receiver, log: log, components: map[string]*component{},
		room: &Room{max: MaxKept, each: MaxKeptOf, held: map[owner]int{}}, refusals: rate.Sometimes{First: 5, Interval: 10 * time.Second},
		schemas: map[string][]*Offer{}, makers: map[string][]*Offer{}, tokens: map[string][]*Offer{},
	}
}

// component is a registered component.
type component struct {
	identity   string
	host       string // that it registered from last, see peer.Host
	registered bool
	seen       time.Time
	away       time.Duration // how long it was told to stay away
	offers     []*Offer
	withdrawn  int // of these
	queue      []mplane.Message
}

// Offer is a capability of a component.
type Offer struct {
	Identity   string
	Capability *mplane.Statement
	Token      string
	schema     string
	maker      string    // see makerOf
	place      int       // in the listener's offers
	withdrawn  time.Time // zero: it is not
	lease      Lease
	matcher    *mplane.Matcher
}

// keepWithdrawn is how long a capability that is gone is remembered, so that
// clients can be told; it is forgotten sooner if room is needed.
const keepWithdrawn = time.Hour

// ServeHTTP serves the three paths of the workflow, also with a slash at the
// end.
func (l *Listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handlers := map[string]struct {
		method string
		serve  func(http.ResponseWriter, *http.Request, string)
	}{
		wire.CapabilityPath:    {http.MethodPost, l.register},
		wire.SpecificationPath: {http.MethodGet, l.poll},
		wire.ResultPath:        {http.MethodPost, l.result},
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

// read returns the message of a request, or answers that it is none.
func (l *Listener) read(w http.ResponseWriter, r *http.Request, id string) (mplane.Message, bool) {
	if r.Header.Get("Content-Type") != wire.ContentType {
		wire.Answer(w, http.StatusBadRequest, "text/plain", []byte("Invalid format"))
		return nil, false
	}
	m, err := wire.ReadMessage(r, l.registries)
	if err != nil {
		l.log.Warn("message of a component cannot be read", "component", id, "err", err)
		wire.Answer(w, http.StatusBadRequest, "text/plain", []byte(err.Error()))
		return nil, false
	}
	return m, true
}

// register takes capabilities and withdrawals, alone or in an envelope.
func (l *Listener) register(w http.ResponseWriter, r *http.Request, id string) {
	m, ok := l.read(w, r, id)
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
			if reason = l.add(id, host, s, false); reason == "" {
				added = true
			} else {
				refused[reason]++
			}
		case s.Kind == mplane.Withdrawal:
			l.withdraw(id, s.ID())
			reason = "Withdrawn"
		}
		answers = append(answers, answer(label, reason))
	}
	if added {
		l.receiver.Registered(id)
	}
	for reason, n := range refused {
		l.refused.Add(int64(n))
		l.refusals.Do(func() {
			l.log.Warn("capabilities are refused", "component", id, "peer", r.RemoteAddr, "capabilities", n, "reason", reason)
		})
	}
	wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{"+strings.Join(answers, ",")+"}"))
}

// answer returns what a component is told of one capability: that it is
// registered, or why not. Names may repeat, so it is no map.
func answer(label, reason string) string {
	name, _ := json.Marshal(label)
	if reason == "" {
		return string(name) + `:{"registered":"ok"}`
	}
	text, _ := json.Marshal(reason)
	return fmt.Sprintf(`%s:{"registered":"no", "reason":%s}`, name, text)
}

// flatten returns the messages in envelopes.
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

// add takes a capability and returns why not, "" if it did. force takes it
// though there is no room for it.
func (l *Listener) add(id, host string, s *mplane.Statement, force bool) (refusal string) {
	matcher, err := mplane.NewMatcher(s)
	if err != nil {
		return err.Error()
	}
	schema := s.Schema()
	o := &Offer{Identity: id, Capability: s, Token: s.ID(), schema: schema, maker: makerOf(schema, s.Metadata), matcher: matcher}
	size := offerSize(o)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.components[id]
	if c == nil {
		if len(l.components) >= maxComponents {
			return "Too many components"
		}
		c = &component{identity: id}
	}
	c.registered, c.seen, c.away, c.host = true, time.Now(), 0, host
	i := slices.IndexFunc(c.offers, func(old *Offer) bool { return old.Token == o.Token })
	var old *Offer
	if i >= 0 {
		old = c.offers[i]
		l.room.Release(old.lease)
		old.lease = Lease{}
	} else if len(c.offers) >= maxOffers {
		if c.withdrawn > 0 {
			l.forget(func(w *Offer) bool { return !w.withdrawn.IsZero() && w.Identity == id })
		}
		if len(c.offers) >= maxOffers {
			return "Too many capabilities"
		}
	}
	fits := false
	if o.lease, fits = l.room.Take(id, host, size, force); !fits && l.withdrawn > 0 {
		// What is withdrawn makes room, but for what is to be exchanged.
		l.forget(func(w *Offer) bool { return !w.withdrawn.IsZero() && w != old })
		o.lease, fits = l.room.Take(id, host, size, false)
	}
	switch {
	case !fits && old != nil:
		old.lease, _ = l.room.Take(id, host, offerSize(old), true)
		fallthrough
	case !fits:
		return noRoom
	}
	l.components[id] = c
	if old != nil {
		// It keeps its place in the order.
		o.place = old.place
		if old.withdrawn.IsZero() {
			l.unlist(old)
		} else {
			l.withdrawn--
			c.withdrawn--
		}
		c.offers[slices.Index(c.offers, old)], l.offers[o.place] = o, o
		l.tokens[o.Token] = slices.DeleteFunc(l.tokens[o.Token], func(e *Offer) bool { return e == old })
	} else {
		o.place = len(l.offers)
		c.offers = append(c.offers, o)
		l.offers = append(l.offers, o)
	}
	for list, key := range l.lists(o) {
		i, _ := slices.BinarySearchFunc(list[key], o, byPlace)
		list[key] = slices.Insert(list[key], i, o)
	}
	l.tokens[o.Token] = append(l.tokens[o.Token], o)
	return ""
}

// unlist takes an offer from those that Find looks at.
func (l *Listener) unlist(o *Offer) {
	for list, key := range l.lists(o) {
		if i, found := slices.BinarySearchFunc(list[key], o, byPlace); found {
			list[key] = slices.Delete(list[key], i, i+1)
		}
		if len(list[key]) == 0 {
			delete(list, key)
		}
	}
}

// lists returns those that Find looks at, with the key of an offer.
func (l *Listener) lists(o *Offer) iter.Seq2[map[string][]*Offer, string] {
	return func(yield func(map[string][]*Offer, string) bool) {
		_ = yield(l.schemas, o.schema) && yield(l.makers, o.maker)
	}
}

func byPlace(a, b *Offer) int { return cmp.Compare(a.place, b.place) }

// makerOf is the same for capabilities, and specifications made from them,
// that have the same schema and metadata.
func makerOf(schema string, metadata mplane.Fields) string {
	var key strings.Builder
	key.WriteString(schema)
	for _, f := range metadata.Sorted() {
		for _, text := range []string{f.Name, f.Text} {
			key.WriteByte(0)
			key.WriteString(text)
		}
	}
	return key.String()
}

func (l *Listener) withdraw(id, token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.components[id]
	if c == nil {
		return
	}
	for _, o := range c.offers {
		// The callback capability goes with the last one: nobody withdraws it.
		if o.Token == token {
			l.drop(o)
		}
	}
	if !slices.ContainsFunc(c.offers, func(o *Offer) bool { return o.withdrawn.IsZero() && o.Capability.Label != callbackLabel }) {
		for _, o := range c.offers {
			l.drop(o)
		}
	}
}

// drop marks an offer as withdrawn.
func (l *Listener) drop(o *Offer) {
	if o.withdrawn.IsZero() {
		o.withdrawn = time.Now()
		l.withdrawn++
		l.components[o.Identity].withdrawn++
		l.unlist(o)
	}
}

// poll answers with what waits for a component.
func (l *Listener) poll(w http.ResponseWriter, r *http.Request, id string) {
	l.mu.Lock()
	c := l.components[id]
	if c == nil || !c.registered {
		l.mu.Unlock()
		wire.Answer(w, http.StatusPreconditionRequired, "text/plain", []byte("not registered"))
		return
	}
	c.seen, c.away = time.Now(), 0
	queue := c.queue
	c.queue = nil
	link := wire.Link(r)
	e := &mplane.Envelope{}
	for _, m := range queue {
		if s, ok := m.(*mplane.Statement); ok && s.Kind == mplane.Specification {
			if s.Label == callbackLabel { // nobody answers it
				c.away = min(s.When.Delays(time.Now()).End, maxAway)
			} else {
				linked := *s
				linked.Link = &link
				m = &linked
			}
		}
		e.Messages = append(e.Messages, m)
	}
	l.mu.Unlock()
	wire.Write(w, http.StatusOK, e)
}

// result takes a reply.
func (l *Listener) result(w http.ResponseWriter, r *http.Request, id string) {
	m, ok := l.read(w, r, id)
	if !ok {
		return
	}
	if s, ok := m.(*mplane.Statement); ok && s.Kind != mplane.Receipt && s.Kind != mplane.Result {
		wire.Answer(w, http.StatusBadRequest, "text/plain", []byte("Not a result (or exception)"))
		return
	}
	l.alive(id)
	l.receiver.Receive(id, m)
	wire.Answer(w, http.StatusOK, wire.HTML, nil)
}

// alive notes that a component was heard of: one that delivers results is not
// gone because its poll is late.
func (l *Listener) alive(identity string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.components[identity]; c != nil && c.registered {
		c.seen = time.Now()
	}
}

// Queue holds a message for the next poll of a component.
func (l *Listener) Queue(identity string, m mplane.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.components[identity]
	switch {
	case c == nil:
		return fmt.Errorf("component %s is not registered", identity)
	case len(c.queue) >= maxQueue:
		return fmt.Errorf("%d messages wait for component %s", len(c.queue), identity)
	}
	c.queue = append(c.queue, m)
	return nil
}

// Waits tells whether a message that was queued has not been delivered yet.
func (l *Listener) Waits(identity string, m mplane.Message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.components[identity]
	return c != nil && slices.Contains(c.queue, m)
}

// Find returns the offer that a specification was made from, of those that it
// fulfils and that use allows; the first one if nothing tells. withdrawn is one
// that it would have fulfilled; denied tells whether use did not allow what it
// was made from.
func (l *Listener) Find(spec *mplane.Statement, use func(label string) bool) (found, withdrawn *Offer, denied bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, schema := time.Now(), spec.Schema()
	best := -1
	// Those with its metadata come before all others, and are few.
	for _, list := range [][]*Offer{l.makers[makerOf(schema, spec.Metadata)], l.schemas[schema]} {
		for _, o := range list {
			allowed := use(o.Capability.Label)
			rank := 2 * spec.Agreement(o.Capability)
			if allowed {
				rank++
			}
			if rank > best && o.matcher.Accepts(spec, now) {
				best, found, denied = rank, o, !allowed
			}
		}
		if best >= 0 {
			break
		}
	}
	if denied {
		return nil, nil, true
	}
	if found != nil {
		return found, nil, false
	}
	for _, o := range l.offers {
		if !o.withdrawn.IsZero() && use(o.Capability.Label) && o.schema == schema && o.matcher.Accepts(spec, now) {
			return nil, o, false
		}
	}
	return nil, nil, false
}

// Offers returns the capabilities that are offered, each token once, in the
// order of registration.
func (l *Listener) Offers() []*mplane.Statement {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := make(map[string]bool, len(l.offers))
	var list []*mplane.Statement
	for _, o := range l.offers {
		if o.withdrawn.IsZero() && !seen[o.Token] {
			seen[o.Token] = true
			list = append(list, o.Capability)
		}
	}
	return list
}

// Offer returns the capability with a token, or its withdrawal, or nil.
func (l *Listener) Offer(token string) *mplane.Statement {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gone *mplane.Statement
	for _, o := range l.tokens[token] {
		if o.withdrawn.IsZero() {
			return o.Capability
		}
		gone = o.Capability.Notice(mplane.Withdrawal)
	}
	return gone
}

// Tidy withdraws the capabilities of components that are silent and forgets
// those that are long gone. It is to be called every second or so.
func (l *Listener) Tidy(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.components {
		if c.registered && now.Sub(c.seen) > expire+c.away {
			c.registered = false
			l.log.Warn("component is silent; its capabilities are withdrawn", "component", c.identity, "seen", c.seen.Format(time.RFC3339))
			for _, o := range c.offers {
				l.drop(o)
			}
		}
	}
	l.forget(func(o *Offer) bool { return !o.withdrawn.IsZero() && now.Sub(o.withdrawn) > keepWithdrawn })
}

// forget removes withdrawn offers, and components without any; the lock is held.
func (l *Listener) forget(gone func(*Offer) bool) {
	if !slices.ContainsFunc(l.offers, gone) {
		return
	}
	for _, o := range l.offers {
		if gone(o) { // all of them are withdrawn
			l.room.Release(o.lease)
			o.lease = Lease{}
			l.withdrawn--
			l.components[o.Identity].withdrawn--
		}
	}
	l.offers = slices.DeleteFunc(l.offers, gone)
	for i, o := range l.offers {
		o.place = i
	}
	for token, list := range l.tokens {
		if l.tokens[token] = slices.DeleteFunc(list, gone); len(l.tokens[token]) == 0 {
			delete(l.tokens, token)
		}
	}
	for id, c := range l.components {
		if c.offers = slices.DeleteFunc(c.offers, gone); len(c.offers) == 0 {
			delete(l.components, id)
		}
	}
}

// Refused returns how many capabilities were refused.
func (l *Listener) Refused() int64 { return l.refused.Load() }

// Room returns the account of what is kept, which the Receiver shares.
func (l *Listener) Room() *Room { return l.room }

// Keep takes room for what a component sent, see Room.Take.
func (l *Listener) Keep(identity string, bytes int) (Lease, bool) {
	l.mu.Lock()
	host := ""
	if c := l.components[identity]; c != nil {
		host = c.host
	}
	l.mu.Unlock()
	return l.room.Take(identity, host, bytes, false)
}

// Present tells whether a component is registered, and when it was last heard
// of.
func (l *Listener) Present(identity string) (registered bool, seen time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.components[identity]; c != nil {
		return c.registered, c.seen
	}
	return false, time.Time{}
}

// Counts returns how many components are registered, capabilities offered and
// messages waiting.
func (l *Listener) Counts() (components, capabilities, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.components {
		if c.registered {
			components++
		}
		waiting += len(c.queue)
	}
	for _, list := range l.schemas {
		capabilities += len(list)
	}
	return components, capabilities, waiting
}

// Snapshot is what a Listener must remember over a restart.
type Snapshot struct {
	Identity     string
	Capabilities []json.RawMessage
}

// Save returns the registered components.
func (l *Listener) Save() ([]Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Snapshot
	done := map[string]bool{}
	for _, o := range l.offers {
		c := l.components[o.Identity]
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

// Restore takes back what Save returned. The components count as heard of now.
func (l *Listener) Restore(list []Snapshot) error {
	for _, s := range list {
		for _, text := range s.Capabilities {
			m, err := l.registries.Parse(text)
			if err != nil {
				return fmt.Errorf("capability of %s: %w", s.Identity, err)
			}
			if c, ok := m.(*mplane.Statement); ok {
				l.add(s.Identity, "", c, true)
			}
		}
	}
	return nil
}
