package registrar

import (
	"fmt"
	"strings"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Limits on the memory for data from peers, in bytes.
const (
	// MaxKept is the limit for all identities together.
	MaxKept = 64 << 20
	// MaxKeptOf is the limit for one identity, and for one host (see peer.Host). It
	// admits a message of the maximum size, but prevents a single peer from using all
	// the memory.
	MaxKeptOf = 24 << 20
)

// Room counts the memory reserved for data from peers, and limits it in total, per
// identity and per host. It is safe for concurrent use.
type Room struct {
	max, perOwner int

	mu       sync.Mutex
	total    int
	reserved map[owner]int
}

// owner is an identity or a host for which memory is reserved.
type owner struct {
	isHost bool
	name   string
}

// Lease is memory reserved in a Room.
type Lease struct {
	identity, host string
	bytes          int
}

// Reserve reserves memory for data of the given identity and host. If host is empty, no
// limit per host applies. Reserve returns false if the reservation would exceed a limit.
// If force is true, it ignores all limits, for data that has already been accepted.
func (r *Room) Reserve(identity, host string, bytes int, force bool) (Lease, bool) {
	l := Lease{identity, host, bytes}
	r.mu.Lock()
	defer r.mu.Unlock()
	fits := r.total+bytes <= r.max
	for _, o := range l.owners() {
		fits = fits && r.reserved[o]+bytes <= r.perOwner
	}
	if !fits && !force {
		return Lease{}, false
	}
	r.add(l, bytes)
	return l, true
}

// Release releases the memory of l. Releasing the zero Lease does nothing.
func (r *Room) Release(l Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(l, -l.bytes)
}

// Bytes returns the number of reserved bytes.
func (r *Room) Bytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

func (r *Room) add(l Lease, bytes int) {
	r.total += bytes
	for _, o := range l.owners() {
		if r.reserved[o] += bytes; r.reserved[o] == 0 {
			delete(r.reserved, o)
		}
	}
}

func (l Lease) owners() []owner {
	list := []owner{{false, l.identity}}
	if l.host != "" {
		list = append(list, owner{true, l.host})
	}
	return list
}

// offerSize estimates the size of an offer in bytes.
func offerSize(o *Offer) int {
	size := 512 + mplane.Size(o.Capability) + len(o.schema) + len(o.origin)
	for _, f := range o.Capability.Parameters {
		size += 48 * strings.Count(f.Text, ",") // values of a set
	}
	return size
}

// noRoom is the reason given when a capability is refused for lack of memory.
var noRoom = fmt.Sprintf("Too many capabilities: the supervisor keeps %d MiB of one component or host, and %d MiB of all", MaxKeptOf>>20, MaxKept>>20)
