package registrar

import (
	"fmt"
	"strings"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Limits of what a Registrar and its Receiver keep for peers, in bytes of
// memory.
const (
	// MaxKept limits the bytes of all identities together.
	MaxKept = 64 << 20
	// MaxKeptOf limits the bytes of one identity, and of one host, see
	// peer.Host. One message of the largest size fits, and no peer can use
	// all the room.
	MaxKeptOf = 24 << 20
)

// Room accounts for the bytes kept for identities and their hosts. It is safe
// for concurrent use.
type Room struct {
	max, each int

	mu    sync.Mutex
	total int
	held  map[owner]int
}

// owner is an identity or a host.
type owner struct {
	isHost bool
	name   string
}

// Lease is reserved room.
type Lease struct {
	identity, host string
	bytes          int
}

// Take reserves room for an identity at a host; an empty identity or host does
// not count. force reserves it even if there is too little room: for messages
// kept before a restart.
func (r *Room) Take(identity, host string, bytes int, force bool) (Lease, bool) {
	l := Lease{identity, host, bytes}
	r.mu.Lock()
	defer r.mu.Unlock()
	fits := r.total+bytes <= r.max
	for _, o := range l.owners() {
		fits = fits && r.held[o]+bytes <= r.each
	}
	if !fits && !force {
		return Lease{}, false
	}
	r.add(l, bytes)
	return l, true
}

// Release releases the room of l; releasing the zero Lease does nothing.
func (r *Room) Release(l Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(l, -l.bytes)
}

// Bytes returns how much is reserved.
func (r *Room) Bytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

func (r *Room) add(l Lease, bytes int) {
	r.total += bytes
	for _, o := range l.owners() {
		if r.held[o] += bytes; r.held[o] == 0 {
			delete(r.held, o)
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
	size := 512 + mplane.Size(o.Capability) + len(o.schema) + len(o.maker)
	for _, f := range o.Capability.Parameters {
		size += 48 * strings.Count(f.Text, ",") // values of a set
	}
	return size
}

// noRoom is the reason for refusing a capability for lack of room.
var noRoom = fmt.Sprintf("Too many capabilities: the supervisor keeps %d MiB of one component or host, and %d MiB of all", MaxKeptOf>>20, MaxKept>>20)
