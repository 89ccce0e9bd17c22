package peer

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Probe holds the settings of a probe.
type Probe struct {
	Name     string
	Location *time.Location // time zone of its log folder names; nil: the default
	Networks Networks       // identify the probe if it has no certificate
}

// Probes is a replaceable list of probes. It is safe for concurrent use. A nil
// *Probes is empty.
type Probes struct{ list atomic.Pointer[[]Probe] }

// Replace replaces all probes in p with list.
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

// ByAddr returns the probe whose networks contain addr. If there are several, it
// returns the one with the smallest network. An IPv4-mapped IPv6 address counts as
// the IPv4 address.
func (p *Probes) ByAddr(addr netip.Addr) (found Probe, ok bool) {
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

// ByName returns the probe with the given name.
func (p *Probes) ByName(name string) (Probe, bool) {
	for _, probe := range p.all() {
		if probe.Name == name {
			return probe, true
		}
	}
	return Probe{}, false
}

// AddressName returns the name for a probe that is identified only by its address,
// such as 10_0_0_7 for 10.0.0.7.
func AddressName(addr netip.Addr) string { return ProbeOf("-" + addr.Unmap().WithZone("").String()) }
