package registrar

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Offer is a capability that a component has registered.
type Offer struct {
	Identity   string
	Capability *mplane.Statement
	Token      string
	schema     string
	origin     string    // key; see originOf
	position   int       // index in the registrar's offers
	withdrawn  time.Time // zero if the capability is offered
	lease      Lease
	matcher    *mplane.Matcher
}

// keepWithdrawn is how long a registrar keeps a withdrawn capability, so that clients
// notice the withdrawal. The registrar removes it sooner if other data needs the memory.
const keepWithdrawn = time.Hour

// add registers s as a capability of the component with the given identity and host. It
// returns the reason if it refuses s, otherwise "". force disables the memory limits.
func (reg *Registrar) add(id, host string, s *mplane.Statement, force bool) (refusal string) {
	matcher, err := mplane.NewMatcher(s)
	if err != nil {
		return err.Error()
	}
	if len(s.Label) > maxLabel {
		return fmt.Sprintf("The label has more than %d bytes", maxLabel)
	}
	if err := wire.CheckRelayed(s); err != nil {
		return err.Error()
	}
	schema := s.Schema()
	o := &Offer{Identity: id, Capability: s, Token: s.ID(), schema: schema, origin: originOf(schema, s.Metadata), matcher: matcher}
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
			reg.removeWithdrawn(func(w *Offer) bool { return !w.withdrawn.IsZero() && w.Identity == id })
		}
		if len(c.offers) >= maxOffers {
			return "Too many capabilities"
		}
	}
	var fits bool
	if o.lease, fits = reg.room.Reserve(id, host, size, force); !fits && reg.withdrawn > 0 {
		// Free the memory of withdrawn offers, except the one to replace.
		reg.removeWithdrawn(func(w *Offer) bool { return !w.withdrawn.IsZero() && w != old })
		o.lease, fits = reg.room.Reserve(id, host, size, false)
	}
	switch {
	case !fits && old != nil:
		old.lease, _ = reg.room.Reserve(id, host, offerSize(old), true)
		fallthrough
	case !fits:
		return noRoom
	}
	reg.components[id] = c
	if old != nil {
		// The new offer keeps the position of the old one.
		o.position = old.position
		if old.withdrawn.IsZero() {
			reg.unlist(old)
		} else {
			reg.withdrawn--
			c.withdrawn--
		}
		c.offers[slices.Index(c.offers, old)], reg.offers[o.position] = o, o
		reg.byToken[o.Token] = slices.DeleteFunc(reg.byToken[o.Token], func(e *Offer) bool { return e == old })
	} else {
		o.position = len(reg.offers)
		c.offers = append(c.offers, o)
		reg.offers = append(reg.offers, o)
	}
	for list, key := range reg.lists(o) {
		i, _ := slices.BinarySearchFunc(list[key], o, comparePositions)
		list[key] = slices.Insert(list[key], i, o)
	}
	reg.byToken[o.Token] = append(reg.byToken[o.Token], o)
	return ""
}

// unlist removes an offer from the lists that Find searches.
func (reg *Registrar) unlist(o *Offer) {
	for list, key := range reg.lists(o) {
		if i, found := slices.BinarySearchFunc(list[key], o, comparePositions); found {
			list[key] = slices.Delete(list[key], i, i+1)
		}
		if len(list[key]) == 0 {
			delete(list, key)
		}
	}
}

// lists yields each of the two maps that Find searches, together with the key under which
// o belongs in that map.
func (reg *Registrar) lists(o *Offer) iter.Seq2[map[string][]*Offer, string] {
	return func(yield func(map[string][]*Offer, string) bool) {
		_ = yield(reg.bySchema, o.schema) && yield(reg.byOrigin, o.origin)
	}
}

func comparePositions(a, b *Offer) int { return cmp.Compare(a.position, b.position) }

// originOf returns a key built from the schema and metadata of a capability. A
// specification derived from the capability has the same key.
func originOf(schema string, metadata mplane.Fields) string {
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
		// Components do not withdraw the callback capability. It is withdrawn with
		// their last other capability.
		if o.Token == token {
			reg.markWithdrawn(o)
		}
	}
	if !slices.ContainsFunc(c.offers, func(o *Offer) bool { return o.withdrawn.IsZero() && o.Capability.Label != callbackLabel }) {
		for _, o := range c.offers {
			reg.markWithdrawn(o)
		}
	}
}

// markWithdrawn marks an offer as withdrawn.
func (reg *Registrar) markWithdrawn(o *Offer) {
	if o.withdrawn.IsZero() {
		o.withdrawn = time.Now()
		reg.withdrawn++
		reg.components[o.Identity].withdrawn++
		reg.unlist(o)
	}
}

// Find returns the offer from which spec was derived. If spec fulfills several offers,
// the best match wins. Among equal matches, an offer that the client may use wins, then
// the one registered first. The function use reports whether the client may use offers
// with the given label.
//
// If the client may not use the selected offer, found is nil and denied is true. If spec
// fulfills no offer, withdrawn is a withdrawn offer that spec fulfills and the client may
// use, or nil.
func (reg *Registrar) Find(spec *mplane.Statement, use func(label string) bool) (found, withdrawn *Offer, denied bool) {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	now, schema := time.Now(), spec.Schema()
	best := -1
	// Try the few offers with the same metadata first.
	for _, list := range [][]*Offer{reg.byOrigin[originOf(schema, spec.Metadata)], reg.bySchema[schema]} {
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

// Offers returns the offered capabilities in the order of their registration. Each
// token occurs only once.
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

// Offer returns the capability with the given token, its withdrawal if it has been
// withdrawn, or nil if the token is unknown.
func (reg *Registrar) Offer(token string) *mplane.Statement {
	reg.mu.Lock()
	defer reg.mu.Unlock()
	var withdrawal *mplane.Statement
	for _, o := range reg.byToken[token] {
		if o.withdrawn.IsZero() {
			return o.Capability
		}
		withdrawal = o.Capability.Notice(mplane.Withdrawal)
	}
	return withdrawal
}

// removeWithdrawn removes the withdrawn offers for which remove returns true, and then
// the components without offers. For offers that are not withdrawn, remove must return
// false. The caller holds the lock.
func (reg *Registrar) removeWithdrawn(remove func(*Offer) bool) {
	if !slices.ContainsFunc(reg.offers, remove) {
		return
	}
	for _, o := range reg.offers {
		if remove(o) {
			reg.room.Release(o.lease)
			o.lease = Lease{}
			reg.withdrawn--
			reg.components[o.Identity].withdrawn--
		}
	}
	reg.offers = slices.DeleteFunc(reg.offers, remove)
	for i, o := range reg.offers {
		o.position = i
	}
	for token, list := range reg.byToken {
		if reg.byToken[token] = slices.DeleteFunc(list, remove); len(reg.byToken[token]) == 0 {
			delete(reg.byToken, token)
		}
	}
	for id, c := range reg.components {
		if c.offers = slices.DeleteFunc(c.offers, remove); len(c.offers) == 0 {
			delete(reg.components, id)
		}
	}
}
