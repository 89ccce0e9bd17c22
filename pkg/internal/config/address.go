package config

import (
	"fmt"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// checkAddresses adds a problem for each listener whose address conflicts with
// that of another listener.
func (c *Config) checkAddresses(p *Problems) {
	type listener struct{ label, addr string }
	var known []listener
	for _, sec := range c.Sections {
		if sec.Name == "" || !sec.isReadBy(c.Command) || sec.Name == "probe" && c.Probe.LogFolder == "" {
			continue
		}
		for _, s := range sec.Settings {
			if !slices.Contains([]string{"listen", "admin", "clients", "components"}, s.Name) {
				continue
			}
			section := ""
			if sec.Command != "" {
				section = sec.Name
			}
			label := s.label(section)
			for _, addr := range s.Texts() {
				if i := slices.IndexFunc(known, func(l listener) bool { return peer.Overlap(l.addr, addr) }); i >= 0 {
					p.errs = append(p.errs, fmt.Errorf("%s: %s and %s of %s cannot both be open", label, addr, known[i].addr, known[i].label))
				}
				known = append(known, listener{label, addr})
			}
		}
	}
}
