// Package source reads lines: from connections of exporters, from followed log
// folders and from brokers. It delivers them to the pipeline through an Inlet,
// and does not know their sinks.
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

// Root is the output folder of a Tstat, with log folders in it.
type Root struct {
	Probe string
	Dir   string
}

// Abs returns the root with an absolute path. It returns an error if the path
// cannot precede lines on the wire.
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
	// Deliver waits until there is room for the lines. If ctx ends, it
	// returns the cause. It is not safe for concurrent use.
	Deliver(ctx context.Context, t batch.Text) error
}

// Options configures sources. The options of the stream have the defaults.
type Options struct {
	NewInlet func() Inlet
	MaxRead  int // bytes that a source reads at once
	Counts   *stats.Stream

	Types    []string // globs over the logs to follow; empty: all
	Start    Start
	Poll     time.Duration
	Location *time.Location
	Confined bool // skip logs behind links that lead out of a followed folder
	// Anonymize rewrites the lines of followed logs; nil: they stay as they are.
	// SourceIs says whether addresses without a flag are anonymized already.
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
	State              string        // prefix of the paths of state files
	Log                *slog.Logger
}

// Set holds the sources of a stream and their common state.
type Set struct {
	opt    Options
	counts *stats.Stream
	types  protocol.Types
	// announced holds the names of probes in the acknowledged mode and from
	// brokers.
	announced  protocol.Names
	checkpoint *checkpoint
}

// New returns the sources of a stream, with the checkpoint of the last run.
// They do not read yet.
func New(opt Options) (*Set, error) {
	ck, err := openCheckpoint(opt.State+".checkpoint", opt.Window, opt.Log)
	if err != nil {
		return nil, err
	}
	return &Set{opt: opt, counts: opt.Counts, checkpoint: ck}, nil
}

// Session returns the name by which endpoints and brokers identify this run's
// exporter. It is saved with the checkpoint.
func (s *Set) Session() string { return s.checkpoint.state.Session }

// Run saves positions of followed folders until ctx ends; call Save then.
func (s *Set) Run(ctx context.Context) { s.checkpoint.run(ctx) }

// Save saves the positions of followed folders.
func (s *Set) Save() error { return s.checkpoint.save() }

// Input reads lines actively: from a followed folder or a broker. It reads
// until reading ends, and delivers what it has read until ctx ends.
type Input interface {
	// Run returns an error if the source cannot continue.
	Run(ctx, reading context.Context) error
}
