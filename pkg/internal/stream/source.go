package stream

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// Start is where a followed folder is read from.
type Start string

// Starts.
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

// Abs returns the root with an absolute path. It is an error if lines cannot
// bear the path.
func (r Root) Abs() (Root, error) {
	dir, err := filepath.Abs(r.Dir)
	if err != nil {
		return r, err
	}
	if strings.ContainsAny(dir, " \n") {
		return r, hint.Usage(fmt.Sprintf("folder %q: a blank in a path cannot be told from the one before the line", dir), "follow it by a symbolic link without a blank")
	}
	return Root{r.Probe, dir}, nil
}

// Inlet takes the lines of one source into the pipeline.
type Inlet interface {
	// Deliver waits until there is room for the lines. The error is the cause of the end of ctx.
	// It is not for several goroutines.
	Deliver(ctx context.Context, t text) error
}

// sourceOptions say how sources read. Options of the stream has the defaults.
type sourceOptions struct {
	NewInlet func() Inlet
	MaxRead  int // bytes that a source reads at once
	Counts   *counts

	Types    []string // globs over the logs to follow; none: all
	Start    Start
	Poll     time.Duration
	Location *time.Location
	Confined bool // leave out logs behind links that lead out of a followed folder

	Probes         *peer.Probes
	MaxConnections int
	IdleTimeout    time.Duration

	MaxLine            int   // bytes
	Window             int64 // bytes
	RetryMin, RetryMax time.Duration
	TLS                peer.TLS      // of brokers
	Peers              peer.Networks // that brokers may be in; none: all
	State              string        // path that names of state files begin with
	Log                *slog.Logger
}

// sourceSet is the sources of a stream, and what they share.
type sourceSet struct {
	opt    sourceOptions
	counts *counts
	types  typeNames
	// announced are the names of probes in the acknowledged mode and from
	// brokers.
	announced  nameSet
	checkpoint *checkpoint
}

// newSources opens the checkpoint of the sources of a stream.
func newSources(opt sourceOptions) (*sourceSet, error) {
	ck, err := openCheckpoint(opt.State+".checkpoint", opt.Window, opt.Log)
	if err != nil {
		return nil, err
	}
	return &sourceSet{opt: opt, counts: opt.Counts, checkpoint: ck}, nil
}

// session returns the name of this run's exporter to endpoints and brokers. It is saved
// with the checkpoint.
func (s *sourceSet) session() string { return s.checkpoint.state.Session }

// run saves positions of followed folders until ctx ends; call save then.
func (s *sourceSet) run(ctx context.Context) { s.checkpoint.run(ctx) }

// save saves the positions of followed folders.
func (s *sourceSet) save() error { return s.checkpoint.save() }

// input reads lines that nobody sends to us: those of a followed folder or of
// a broker. It reads until reading ends, and delivers what it has read until
// ctx ends.
type input interface {
	run(ctx, reading context.Context) error
}
