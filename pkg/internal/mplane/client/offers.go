package client

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

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
