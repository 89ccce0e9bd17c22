// Package source reads lines from exporter connections, followed log folders
// and brokers. It delivers the lines to the pipeline through an Inlet.
package source

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Start is the position from which a followed folder is read.
type Start string

// The values of Start.
const (
	StartCheckpoint Start = "checkpoint" // where the last run ended, else the start of the newest folder
	StartBegin      Start = "begin"      // the start of the oldest folder
	StartEnd        Start = "end"        // the end of the newest folder
)

// Root is the output folder of one Tstat process, which holds its log folders.
type Root struct {
	Probe string
	Dir   string
}

// Abs returns the root with an absolute path. It returns a usage error if the
// path contains a space or newline, which would break the wire format.
func (r Root) Abs() (Root, error) {
	dir, err := filepath.Abs(r.Dir)
	if err != nil {
		return r, err
	}
	if strings.ContainsAny(dir, " \n") {
		return r, hint.Usage(fmt.Sprintf("folder %q: a path with a space cannot be separated from its line", dir), "follow it by a symbolic link without a space")
	}
	return Root{r.Probe, dir}, nil
}

// Inlet delivers the lines of one source to the pipeline.
type Inlet interface {
	// Deliver blocks until the pipeline has room for the lines. If ctx is done
	// first, Deliver returns an error. It is not safe for concurrent use.
	Deliver(ctx context.Context, t batch.Text) error
}

// Options configures sources. Package stream sets the defaults.
type Options struct {
	NewInlet func() Inlet
	MaxRead  int // maximum bytes per read
	Counts   *stats.Stream

	Types    []string // globs of log names to follow; empty: all
	Start    Start
	Poll     time.Duration
	Location *time.Location
	Confined bool // skip logs whose path leads out of the Root through a link
	// Anonymize rewrites the lines of followed logs; nil leaves them unchanged.
	// SourceIs says whether addresses without a flag are already anonymized.
	Anonymize *anonymize.Anonymizer
	SourceIs  anonymize.Source

	Probes         *peer.Probes
	MaxConnections int
	IdleTimeout    time.Duration

	MaxLine            int   // bytes
	Window             int64 // bytes
	RetryMin, RetryMax time.Duration
	TLS                peer.TLS      // of brokers
	Peers              peer.Networks // allowed networks of brokers; empty: all
	State              string        // path prefix of state files
	Log                *slog.Logger
}

// Set holds the state that the sources of a stream share.
type Set struct {
	opt    Options
	counts *stats.Stream
	types  protocol.Types
	// announced holds the probe names that peers in acknowledged mode and
	// brokers have sent.
	announced  protocol.Names
	checkpoint *checkpoint
}

// New returns a Set with the checkpoint of the last run. It starts no source.
func New(opt Options) (*Set, error) {
	ck, err := openCheckpoint(opt.State+".checkpoint", opt.Window, opt.Log)
	if err != nil {
		return nil, err
	}
	return &Set{opt: opt, counts: opt.Counts, checkpoint: ck}, nil
}

// Session returns the name that identifies this exporter to endpoints and
// brokers. The checkpoint preserves it across restarts.
func (s *Set) Session() string { return s.checkpoint.state.Session }

// Run saves the positions of followed folders periodically until ctx is done. The
// caller must call Save afterwards.
func (s *Set) Run(ctx context.Context) { s.checkpoint.run(ctx) }

// Save saves the positions of followed folders.
func (s *Set) Save() error { return s.checkpoint.save() }

// Input reads lines from a followed folder or a broker.
type Input interface {
	// Run reads until the context reading is done. It delivers the lines already
	// read until ctx is done. It returns an error if the source cannot continue.
	Run(ctx, reading context.Context) error
}
