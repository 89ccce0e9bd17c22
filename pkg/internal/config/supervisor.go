package config

import (
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/supervisor"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// Supervisor holds the settings of the supervisor command.
type Supervisor struct {
	Network
	Components string
	Clients    string
	Registries []string
	Authorization
}

func defaultSupervisor() Supervisor { return Supervisor{Components: ":8889", Clients: ":8890"} }

// settings returns the settings in the order in which the help lists them.
func (s *Supervisor) settings() []*Setting {
	return slices.Concat([]*Setting{
		{Name: "components", Group: GroupNetwork, Value: &s.Components,
			Usage: "accept components" + onAddress},
		{Name: "clients", Group: GroupNetwork, Value: &s.Clients,
			Usage: "accept clients on `ADDRESS`, which also serves /metrics and /-/healthy"},
	}, s.peers(), []*Setting{
		registries(groupMPlane, &s.Registries),
	}, s.Authorization.settings("everybody with a certificate may use everything"))
}

// Options checks the settings and returns them as options of a supervisor.
func (s *Supervisor) Options(p *Problems) supervisor.Options {
	networks, err := peer.ParseNetworks(s.Allow)
	if err != nil {
		p.add("allow", "%v", err)
	}
	opt := supervisor.Options{
		Components: s.listenOptions(p, "components", networks, s.Components)[0], Clients: s.listenOptions(p, "clients", networks, s.Clients)[0],
	}
	if len(s.Roles)+len(s.Grants) > 0 && s.CA == "" {
		p.add("authorize", "needs client certificates (`tls-ca`): without, everybody could take any name")
	}
	opt.Roles = s.Authorization.check(p)
	return opt
}
