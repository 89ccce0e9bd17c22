package peer

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Probe is a probe that is known before it connects.
type Probe struct {
	Name     string
	Location *time.Location // of the names of its log folders; nil: as those of others
	Networks Networks       // it connects from; for those without a certificate
}

// Probes are the probes that are known. They are safe for concurrent use; nil
// knows none.
type Probes struct{ list atomic.Pointer[[]Probe] }

// Replace makes p know the probes of list, and no others.
func (p *Probes) Replace(list []Probe) { p.list.Store(&list) }

func (p *Probes) all() []Probe {
	if p == nil {
		return nil
	}
	if list := p.list.Load(); list != nil {
		return *list
	}
	return nil
}

// At returns the probe at an address: of several the one with the smallest
// network. An IPv4 address is the same in its IPv6 form.
func (p *Probes) At(addr netip.Addr) (found Probe, ok bool) {
	addr = addr.Unmap().WithZone("")
	bits := -1
	for _, probe := range p.all() {
		for _, n := range probe.Networks {
			if n.Contains(addr) && n.Bits() > bits {
				found, ok, bits = probe, true, n.Bits()
			}
		}
	}
	return found, ok
}

// Named returns the probe with a name.
func (p *Probes) Named(name string) (Probe, bool) {
	for _, probe := range p.all() {
		if probe.Name == name {
			return probe, true
		}
	}
	return Probe{}, false
}

// AddressName makes a probe's name of an address: 10_0_0_7 of 10.0.0.7.
func AddressName(addr netip.Addr) string { return ProbeOf("-" + addr.Unmap().WithZone("").String()) }
