package admin

import "time"

// State is what the page and the metrics show. A snapshot of it is made for
// each request; nothing in it changes while it is shown. Times that are zero
// mean never, or not known. Texts may come from peers: they are escaped and
// cut short where they are shown, but must hold no secrets.
type State struct {
	Name    string // of this repository or probe
	Version string // of the program
	Started time.Time

	Supervisor   *Supervisor // nil: none is configured
	Endpoints    []Endpoint
	Capabilities []Capability
	Logs         []Logs
	Live         []Live
	RRD          []RRD
	Upkeep       []Upkeep
	Certificates []Certificate
	Recent       []Notice // errors and warnings, newest first, see Recent
}

// Supervisor is where the capabilities are offered.
type Supervisor struct {
	URL        string
	Clients    []string // addresses where clients and supervisors are waited for, in the client-initiated workflow
	Registered bool
	Since      time.Time        // of Registered being as it is
	Err        string           // of the last attempt; "" if it succeeded
	Refused    map[string]int64 // specifications that were refused, by reason
}

// Names of endpoints: their sections in the configuration.
const (
	EndpointLog       = "collect-log"
	EndpointStreaming = "collect-streaming"
	EndpointRRD       = "collect-rrd"
)

// Endpoint is a listener for what probes send.
type Endpoint struct {
	Name  string // EndpointLog, EndpointStreaming, EndpointRRD, or another
	Addrs []string
	Open  bool      // else it opens with a specification
	Since time.Time // of Open being as it is
	Err   string    // why it is not open though it should be
}

// Sides of a capability.
const (
	SideRepository = "repository"
	SideProbe      = "probe"
)

// Capability is what can be asked for at the supervisor.
type Capability struct {
	Label          string
	Side           string          // SideRepository or SideProbe
	Specifications []Specification // that run or wait for their start
}

// Specification is a job of a capability.
type Specification struct {
	Token string
	Since time.Time // its start; in the future if it waits
	Until time.Time // its end; zero: none
}

// Upkeep is what was done to a store of logs since its endpoint was opened.
type Upkeep struct {
	Store       string
	LastSuccess time.Time
	Failed      int64 // rounds
	Compacted   int64 // files that became part of larger ones
	PrunedFiles int64 // log files whose rows were removed
	PrunedRows  int64
}

// Logs is a stream of log files on its way into stores: at a repository one
// that a probe has registered, at a probe one that it serves. Counts begin
// with the process.
type Logs struct {
	Stream string // its name, unique together with Probe and Type
	Probe  string
	Type   string   // log type; "" if there are several
	From   string   // address of the probe, or folder
	To     []string // stores, or the repository
	// LastFolder is the time of the newest log folder of which a file is
	// stored; the lag is counted from there.
	LastFolder time.Time
	// LateAfter is the lag from which on the stream is late, up to 30 days: it
	// has old logs only then. 0: never.
	LateAfter   time.Duration
	LastSuccess time.Time // when a file was last stored
	Files       int64     // stored
	Rows        int64     // stored
	Rejects     int64     // lines that cannot be rows
	Bytes       int64     // of the files
	Failed      int64     // files that were tried and not stored; they are tried again
	Others      int64     // files that another repository stored meanwhile
	Claimed     int64     // files that another repository has claimed, and not stored yet
	Err         string    // why the last pass did not store everything; "" if it did
	ErrTime     time.Time
	Hourly      []int64 // rows stored per hour, oldest first, the last is this hour; see Counts
}

// Live is a run that brings lines to consumers while Tstat writes them. Its
// counts begin with the process and mean the same as in the metrics file of
// the command stream.
type Live struct {
	Name string // unique: the section of the configuration, or the specification

	Connections int64 // at the moment
	Accepted    int64 // connections so far
	Refused     int64 // connections so far
	Lines       int64 // read
	Bytes       int64 // read
	Rejects     int64 // lines that were none, or no rows of their log
	Cuts        int64 // last lines without end
	Empty       int64 // lines without text
	Vanished    int64 // logs that went before they were read to their end
	Untaken     int64 // lines of old exporters on their way to consumers

	Rate      float64 // lines a second now
	Rates     []int64 // lines per interval of Interval, oldest first; see Counts
	Interval  time.Duration
	Sources   []Source
	Consumers []Consumer
}

// Source is where live lines come from: all connections of a probe from one
// address, or a followed folder.
type Source struct {
	Probe       string
	Addr        string // without port; or the folder
	Connections int64  // at the moment; 0 for folders
	Lines       int64  // since the start of the process, closed connections too
	Rejects     int64
	Rate        float64   // lines a second now
	Last        time.Time // when the last line came
}

// Consumer is where live lines go.
type Consumer struct {
	Name      string // its URL without secrets
	Optional  bool   // it may lose lines
	Lines     int64  // taken
	Dropped   int64  // lines
	Restarts  int64
	Repeated  int64 // bytes sent again after a restart
	Queue     int64 // bytes that wait for it
	QueueSize int64 // bytes that may wait for it
	Err       string
}

// RRD is a run that brings points of RRDs into Graphite. Counts begin with the
// process.
type RRD struct {
	Name        string // unique: the section of the configuration, or the specification
	To          string // destination without secrets
	Posts       int64  // taken from probes
	Refused     int64  // not taken
	Points      int64  // stored, or in the spool
	NotFinite   int64  // values left out
	Recreated   int64  // RRDs older than the last point sent, sent from their start
	Spooled     int64  // bytes on disk that the destination has not taken
	LastSuccess time.Time
	Err         string // why the destination does not take points; "" if it does

	Series []Series // see SeriesStore
	// Untracked is how many points came of metrics that Series has no room
	// for; they are stored like all others.
	Untracked int64
}

// Series are the last points of a metric.
type Series struct {
	Probe, Metric string
	Points        []Point // ascending time, at least one
}

// Point is a value at a time.
type Point struct {
	Time  int64 // unix, seconds
	Value float64
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
