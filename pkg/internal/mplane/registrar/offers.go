package registrar

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
	place      int       // in the registrar's offers
	withdrawn  time.Time // may be zero
	lease      Lease
	matcher    *mplane.Matcher
}

// keepWithdrawn is how long a withdrawn capability is kept, so that clients
// learn about it. It is dropped sooner if room is needed.
const keepWithdrawn = time.Hour

// add adds a capability, or returns why it is refused. force adds it even
// without room.
func (reg *Registrar) add(id, host string, s *mplane.Statement, force bool) (refusal string) {
	matcher, err := mplane.NewMatcher(s)
	if err != nil {
		return err.Error()
	}
	schema := s.Schema()
	o := &Offer{Identity: id, Capability: s, Token: s.ID(), schema: schema, maker: makerOf(schema, s.Metadata), matcher: matcher}
	size := offerSize(o)
	reg.mu.Lock()
	defer reg.mu.Unlock()
	c := reg.components[id]
	if c == nil {
		if len(reg.components) >= maxComponents {
			return "Too many components"
		}
		c = &component{identity: id}
	}
	c.registered, c.seen, c.away, c.host = true, time.Now(), 0, host
	i := slices.IndexFunc(c.offers, func(old *Offer) bool { return old.Token == o.Token })
	var old *Offer
	if i >= 0 {
		old = c.offers[i]
		reg.room.Release(old.lease)
		old.lease = Lease{}
	} else if len(c.offers) >= maxOffers {
		if c.withdrawn > 0 {
			reg.forget(func(w *Offer) bool { return !w.withdrawn.IsZero() && w.Identity == id })
		}
		if len(c.offers) >= maxOffers {
			return "Too many capabilities"
		}
	}
	var fits bool
	if o.lease, fits = reg.room.Take(id, host, size, force); !fits && reg.withdrawn > 0 {
		// Withdrawn offers make room, except the one to replace.
		reg.forget(func(w *Offer) bool { return !w.withdrawn.IsZero() && w != old })
		o.lease, fits = reg.room.Take(id, host, size, false)
	}
	switch {
	case !fits && old != nil:
		old.lease, _ = reg.room.Take(id, host, offerSize(old), true)
		fallthrough
	case !fits:
		return noRoom
	}
	reg.components[id] = c
	if old != nil {
		// It keeps its position.
		o.place = old.place
		if old.withdrawn.IsZero() {
			reg.unlist(old)
		} else {
			reg.withdrawn--
			c.withdrawn--
		}
		c.offers[slices.Index(c.offers, old)], reg.offers[o.place] = o, o
		reg.tokens[o.Token] = slices.DeleteFunc(reg.tokens[o.Token], func(e *Offer) bool { return e == old })
	} else {
		o.place = len(reg.offers)
		c.offers = append(c.offers, o)
		reg.offers = append(reg.offers, o)
	}
	for list, key := range reg.lists(o) {
		i, _ := slices.BinarySearchFunc(list[key], o, byPlace)
		list[key] = slices.Insert(list[key], i, o)
	}
	reg.tokens[o.Token] = append(reg.tokens[o.Token], o)
	return ""
}

// unlist removes an offer from the lists that Find searches.
func (reg *Registrar) unlist(o *Offer) {
	for list, key := range reg.lists(o) {
		if i, found := slices.BinarySearchFunc(list[key], o, byPlace); found {
			list[key] = slices.Delete(list[key], i, i+1)
		}
		if len(list[key]) == 0 {
			delete(list, key)
		}
	}
}

// lists returns the lists that Find searches, with the keys of an offer.
func (reg *Registrar) lists(o *Offer) iter.Seq2[map[string][]*Offer, string] {
	return func(yield func(map[string][]*Offer, string) bool) {
		_ = yield(reg.schemas, o.schema) && yield(reg.makers, o.maker)
	}
}

func byPlace(a, b *Offer) int { return cmp.Compare(a.place, b.place) }

// makerOf returns the same key for capabilities and specifications made from
// them: those with the same schema and metadata.
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

func (reg *Registrar) withdraw(id, token string) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	c := reg.components[id]
	if c == nil {
		return
	}
	for _, o := range c.offers {
		// The callback capability ends with the last one, because
		// nobody withdraws it.
		if o.Token == token {
			reg.drop(o)
		}
	}
	if !slices.ContainsFunc(c.offers, func(o *Offer) bool { return o.withdrawn.IsZero() && o.Capability.Label != callbackLabel }) {
		for _, o := range c.offers {
			reg.drop(o)
		}
	}
}

// drop marks an offer as withdrawn.
func (reg *Registrar) drop(o *Offer) {
	if o.withdrawn.IsZero() {
		o.withdrawn = time.Now()
		reg.withdrawn++
		reg.components[o.Identity].withdrawn++
		reg.unlist(o)
	}
}

// Find returns the offer from which a specification was made, among those that
// it fulfills and that use allows. If the specification does not identify one,
// Find returns the first. withdrawn is a withdrawn offer that it would have
// fulfilled; denied reports whether use rejected the offer.
func (reg *Registrar) Find(spec *mplane.Statement, use func(label string) bool) (found, withdrawn *Offer, denied bool) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	now, schema := time.Now(), spec.Schema()
	best := -1
	// Offers with the same metadata come first, and are few.
	for _, list := range [][]*Offer{reg.makers[makerOf(schema, spec.Metadata)], reg.schemas[schema]} {
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
	for _, o := range reg.offers {
		if !o.withdrawn.IsZero() && use(o.Capability.Label) && o.schema == schema && o.matcher.Accepts(spec, now) {
			return nil, o, false
		}
	}
	return nil, nil, false
}

// Offers returns the offered capabilities, each token once, in the order of
// registration.
func (reg *Registrar) Offers() []*mplane.Statement {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	seen := make(map[string]bool, len(reg.offers))
	var list []*mplane.Statement
	for _, o := range reg.offers {
		if o.withdrawn.IsZero() && !seen[o.Token] {
			seen[o.Token] = true
			list = append(list, o.Capability)
		}
	}
	return list
}

// Offer returns the capability with a token or its withdrawal, or nil.
func (reg *Registrar) Offer(token string) *mplane.Statement {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	var gone *mplane.Statement
	for _, o := range reg.tokens[token] {
		if o.withdrawn.IsZero() {
			return o.Capability
		}
		gone = o.Capability.Notice(mplane.Withdrawal)
	}
	return gone
}

// forget removes withdrawn offers, and components without any; the lock is held.
func (reg *Registrar) forget(gone func(*Offer) bool) {
	if !slices.ContainsFunc(reg.offers, gone) {
		return
	}
	for _, o := range reg.offers {
		if gone(o) { // all of them are withdrawn
			reg.room.Release(o.lease)
			o.lease = Lease{}
			reg.withdrawn--
			reg.components[o.Identity].withdrawn--
		}
	}
	reg.offers = slices.DeleteFunc(reg.offers, gone)
	for i, o := range reg.offers {
		o.place = i
	}
	for token, list := range reg.tokens {
		if reg.tokens[token] = slices.DeleteFunc(list, gone); len(reg.tokens[token]) == 0 {
			delete(reg.tokens, token)
		}
	}
	for id, c := range reg.components {
		if c.offers = slices.DeleteFunc(c.offers, gone); len(c.offers) == 0 {
			delete(reg.components, id)
		}
	}
}
