package admin

import (
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/exporter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/rrdpush"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// State is a snapshot of a service, for the page and the metrics. A zero time means
// never or unknown. Strings may come from peers: the page and the metrics escape
// and shorten them. A State must not contain secrets.
type State struct {
	Name    string // of this repository or probe
	Version string // of the program
	Started time.Time

	Tstat        *Tstat      // on this machine; nil: this service has no probe
	Supervisor   *Supervisor // nil: no supervisor is configured
	Endpoints    []repository.EndpointStats
	Capabilities []Capability
	Logs         []mathproto.StreamStats
	Live         []Live
	RRD          []RRD
	Upkeep       []upkeep.Stats
	Certificates []Certificate
	Recent       []Notice // errors and warnings, newest first, see Recent
}

// Supervisor describes the supervisor or the clients to which the service offers its
// capabilities.
type Supervisor struct {
	URL     string
	Clients []string // addresses that clients and supervisors connect to, in the client-initiated workflow
	component.Stats
}

// Tstat describes the Tstat process on this machine.
type Tstat struct {
	Probe string // its name
	exporter.Tstat
}

// Values of Capability.Side.
const (
	SideRepository = "repository"
	SideProbe      = "probe"
)

// Capability is a capability that a supervisor or client can use.
type Capability struct {
	Label          string
	Side           string                    // SideRepository or SideProbe
	Specifications []component.Specification // currently running
}

// Live is a run that sends lines to sinks while Tstat writes them.
type Live struct {
	Name string // unique: the section of the configuration, or the specification
	stream.Stats
}

// RRD is a run that sends RRD points to Graphite or Prometheus.
type RRD struct {
	Name string // unique: the section of the configuration, or the specification
	To   string // destination without secrets
	rrdpush.EndpointStats
	Recreated int64 // RRDs sent from the start because they ended before the last point sent

	Series []repository.Series
	// Untracked counts the points of metrics for which Series has no room. These
	// points are stored like all others.
	Untracked int64
}

// Certificate is a certificate that this process presents or trusts.
type Certificate struct {
	Use      string // setting that names it: serve tls-cert, …
	Subject  string
	NotAfter time.Time
	Err      string // why the certificate cannot be read
}

// Notice is a logged warning or error. Count is the number of times it was logged.
type Notice struct {
	Time  time.Time // when it was last logged
	First time.Time
	Count int64
	Error bool // false: a warning
	Text  string
}
