package admin

import (
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/probe"
	"github.com/tstatrepo/tstatrepo/pkg/repository"
	"github.com/tstatrepo/tstatrepo/pkg/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/stream"
	"github.com/tstatrepo/tstatrepo/pkg/upkeep"
)

// State is what the page and the metrics show: what the parts of a service say
// of themselves at a time. Times that are zero mean never, or not known. Texts
// may come from peers: they are escaped and cut short where they are shown, but
// must hold no secrets.
type State struct {
	Name    string // of this repository or probe
	Version string // of the program
	Started time.Time

	Tstat        *Tstat      // on this machine; nil: this is no probe
	Supervisor   *Supervisor // nil: none is configured
	Endpoints    []repository.EndpointStats
	Capabilities []Capability
	Logs         []mathproto.StreamStats
	Live         []Live
	RRD          []RRD
	Upkeep       []upkeep.Stats
	Certificates []Certificate
	Recent       []Notice // errors and warnings, newest first, see Recent
}

// Supervisor is where the capabilities are offered.
type Supervisor struct {
	URL     string
	Clients []string // addresses where clients and supervisors are waited for, in the client-initiated workflow
	component.Stats
}

// Tstat is the Tstat of a probe.
type Tstat struct {
	Probe string // its name
	probe.Tstat
}

// Sides of a capability.
const (
	SideRepository = "repository"
	SideProbe      = "probe"
)

// Capability is what can be asked for at the supervisor.
type Capability struct {
	Label          string
	Side           string                    // SideRepository or SideProbe
	Specifications []component.Specification // that run
}

// Live is a run that brings lines to consumers while Tstat writes them.
type Live struct {
	Name string // unique: the section of the configuration, or the specification
	stream.Stats
}

// RRD is a run that brings points of RRDs into Graphite.
type RRD struct {
	Name string // unique: the section of the configuration, or the specification
	To   string // destination without secrets
	rrdpush.EndpointStats
	Recreated int64 // RRDs older than the last point sent, sent from their start

	Series []repository.Series
	// Untracked is how many points came of metrics that Series has no room
	// for; they are stored like all others.
	Untracked int64
}

// Certificate is a certificate that this process shows to others, or trusts.
type Certificate struct {
	Use      string // setting that names it: serve tls-cert, …
	Subject  string
	NotAfter time.Time
	Err      string // why it cannot be read
}

// Notice is an error or a warning that was logged, once or several times.
type Notice struct {
	Time  time.Time // the last time
	First time.Time
	Count int64
	Error bool // else a warning
	Text  string
}
