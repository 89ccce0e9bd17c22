// Package stream forwards live log lines from connections, followed log folders and
// brokers to sinks. Lines of one log keep their order. If a required sink is slow, the
// sources wait for it.
package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/encode"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/sink"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/source"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Types used in Options.
type (
	// Root is the output folder of one Tstat process, which holds its log folders.
	Root = source.Root
	// Start is the position from which a followed folder is read.
	Start = source.Start
	// Format is the form in which sinks receive lines.
	Format = batch.Format
)

// Values of Start and Format; see packages source and batch.
const (
	StartCheckpoint = source.StartCheckpoint
	StartBegin      = source.StartBegin
	StartEnd        = source.StartEnd

	Raw  = batch.Raw
	Line = batch.Line
	JSON = batch.JSON
)

// Options configures a Stream. The zero value of a field means its default.
type Options struct {
	Listen []peer.Options // endpoints
	Follow []Root
	// Confined skips logs whose path leads out of the Root through a link. It is
	// meant for folders that a peer chose.
	Confined bool
	// Anonymize rewrites the lines of followed logs; nil leaves them unchanged.
	// SourceIs says whether addresses without a flag are already anonymized. It
	// must be known if Anonymize is set.
	Anonymize *anonymize.Anonymizer
	SourceIs  anonymize.Source
	From      []string // brokers: kafka://, kafka+tls://, nats://, nats+tls://

	// To lists the required sinks; ToOptional lists sinks that lose lines if they
	// are too slow. At least one sink must be given. The forms are "-", file:DIR,
	// exec:COMMAND, tcp://, tls://, ack://, ack+tls://, kafka://, kafka+tls://,
	// nats:// and nats+tls://.
	To, ToOptional []string

	Format Format   // "": Raw
	Select []string // columns, for Line and JSON; empty: all
	Layout string   // Tstat version of lines without a header, see tstat.NewLines

	Types    []string       // globs of log names to follow; empty: all
	Start    Start          // "": StartCheckpoint
	Poll     time.Duration  // interval at which followed folders are scanned; 0: 1s
	Location *time.Location // zone of folder names; nil: time.Local

	Probes         *peer.Probes  // probes without certificates; unlisted ones are named after their address
	MaxConnections int           // 0: 1024
	IdleTimeout    time.Duration // of connections; 0: 2h
	MaxLine        int           // bytes; longer lines are rejected; 0: 32 KiB

	Window int64         // maximum bytes resent after a crash, for Follow and for each broker; 0: 16 MiB
	Queue  int64         // maximum bytes waiting for one sink; 0: 8 MiB
	Drain  time.Duration // how long sinks may flush after shutdown begins; 0: 30s

	RetryMin, RetryMax time.Duration // wait before a sink or broker is reopened; 0: 500ms, 30s

	Name     string // distinguishes the state of concurrent streams; "": default
	StateDir string
	TLS      peer.TLS      // of sinks
	Peers    peer.Networks // allowed networks of tcp, tls and ack sinks; empty: all
	Stdout   io.Writer
	Stderr   io.Writer // of commands
	Log      *slog.Logger
}

// Defaults of Options.
const (
	DefaultPoll           = time.Second
	DefaultMaxConnections = 1024
	DefaultIdleTimeout    = 2 * time.Hour
	DefaultMaxLine        = 32 << 10
	DefaultWindow         = 16 << 20
	DefaultQueue          = 8 << 20
	DefaultDrain          = 30 * time.Second
	DefaultRetryMin       = 500 * time.Millisecond
	DefaultRetryMax       = 30 * time.Second
	DefaultName           = "default"
)

func (o *Options) defaults() {
	o.Format = cmp.Or(o.Format, Raw)
	o.Start = cmp.Or(o.Start, StartCheckpoint)
	o.Poll = cmp.Or(o.Poll, DefaultPoll)
	o.MaxConnections = cmp.Or(o.MaxConnections, DefaultMaxConnections)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, DefaultIdleTimeout)
	o.MaxLine = cmp.Or(o.MaxLine, DefaultMaxLine)
	o.Window = cmp.Or(o.Window, DefaultWindow)
	o.Queue = cmp.Or(o.Queue, DefaultQueue)
	o.Drain = cmp.Or(o.Drain, DefaultDrain)
	o.RetryMin = cmp.Or(o.RetryMin, DefaultRetryMin)
	o.RetryMax = cmp.Or(o.RetryMax, DefaultRetryMax)
	o.Name = cmp.Or(o.Name, DefaultName)
	o.Location = cmp.Or(o.Location, time.Local)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
}

// UnackedError reports lines that a required sink did not ack and that the
// exporter does not resend.
type UnackedError struct{ Lines int64 }

func (e *UnackedError) Error() string {
	return fmt.Sprintf("%d lines were received but not acknowledged by all sinks", e.Lines)
}

// Stream forwards lines from sources to sinks.
type Stream struct {
	opt       Options
	log       *slog.Logger
	hub       *hub
	unlock    func()      // releases the lock of the state
	sinks     []sink.Sink // in the order of hub.queues
	sources   *source.Set
	inputs    []source.Input
	endpoint  *source.Endpoint
	listeners []*peer.Listener
}

// Sinks lists the URL forms of sinks. Brokers lists those of the brokers from which a
// stream can read.
var (
	Sinks   = sink.Kinds
	Brokers = broker.Kinds
)

// CheckSink returns a usage error if text is not the URL of a sink.
func CheckSink(text string) error {
	_, err := sink.Parse(text)
	return err
}

// CheckSource returns a usage error if text is not the URL of a broker.
func CheckSource(text string) error {
	_, err := source.Parse(text)
	return err
}

// SameTopic reports whether the URL of a source and the URL of a sink name the same topic
// of the same broker. If so, lines would circulate forever.
func SameTopic(from, to string) bool {
	b, err := source.Parse(from)
	if err != nil {
		return false
	}
	t, err := sink.Parse(to)
	return err == nil && t.Broker != nil && t.Broker.Same(b)
}

// New opens the state and the endpoints of a stream. Run closes them. New returns
// an error if another stream with the same Options.Name is running.
func New(opt Options) (*Stream, error) {
	opt.defaults()
	opt.Follow = slices.Clone(opt.Follow)
	for i := range opt.Follow {
		root, err := opt.Follow[i].Abs()
		if err != nil {
			return nil, err
		}
		opt.Follow[i] = root
	}
	unlock, err := state.Lock(opt.StateDir, "stream "+opt.Name)
	if errors.Is(err, state.ErrLocked) {
		return nil, hint.Add(fmt.Errorf("stream %q is %w", opt.Name, err), "streams that run at once need names of their own (`name`)")
	}
	if err != nil {
		return nil, err
	}
	s := &Stream{opt: opt, log: opt.Log, unlock: unlock, hub: &hub{counts: stats.NewStream(), format: opt.Format, needRaw: opt.Format == Raw}}
	if err := s.open(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// open performs all steps that can fail at startup: it opens the state, the sources, the
// sinks and the listeners.
func (s *Stream) open() (err error) {
	h, opt := s.hub, &s.opt
	state := filepath.Join(opt.StateDir, "stream", opt.Name)
	h.encoding, err = encode.New(encode.Options{
		Format: opt.Format, Select: opt.Select, Layout: opt.Layout, Location: opt.Location,
		State: state + ".layouts", Counts: h.counts, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.sources, err = source.New(source.Options{
		NewInlet: h.newInlet, MaxRead: h.maxRead(), Counts: h.counts,
		Types: opt.Types, Start: opt.Start, Poll: opt.Poll, Location: opt.Location, Confined: opt.Confined,
		Anonymize: opt.Anonymize, SourceIs: opt.SourceIs,
		Probes: opt.Probes, MaxConnections: opt.MaxConnections, IdleTimeout: opt.IdleTimeout, MaxLine: opt.MaxLine,
		Window: opt.Window, RetryMin: opt.RetryMin, RetryMax: opt.RetryMax, TLS: opt.TLS, Peers: opt.Peers,
		State: state, Log: s.log,
	})
	if err != nil {
		return err
	}
	to := &sink.Options{
		Format: opt.Format, Stdout: opt.Stdout, Stderr: opt.Stderr,
		RetryMin: opt.RetryMin, RetryMax: opt.RetryMax, TLS: opt.TLS, Peers: opt.Peers,
	}
	for i, text := range slices.Concat(opt.To, opt.ToOptional) {
		t, err := sink.Parse(text)
		if err != nil {
			return err
		}
		q := batch.NewQueue(dest.Redact(text), i >= len(opt.To), opt.Queue, s.log)
		c, err := sink.New(to, q, t, fmt.Sprintf("%s-%d", s.sources.Session(), i+1))
		if err != nil {
			return err
		}
		h.needRaw = h.needRaw || t.NeedsRaw()
		h.queues = append(h.queues, q)
		s.sinks = append(s.sinks, c)
	}
	for _, root := range opt.Follow {
		s.inputs = append(s.inputs, s.sources.Follow(root))
	}
	for i, text := range opt.From {
		src, err := s.sources.Subscribe(text, i+1)
		if err != nil {
			return err
		}
		s.inputs = append(s.inputs, src)
	}
	s.endpoint = s.sources.NewEndpoint()
	s.listeners, err = peer.ListenAll(opt.Listen, s.log)
	return err
}

// close closes the listeners and releases the lock of the state.
func (s *Stream) close() {
	peer.CloseAll(s.listeners)
	s.unlock()
}

// Addrs returns the addresses on which the endpoints listen.
func (s *Stream) Addrs() []string { return peer.Addrs(s.listeners) }

// Run streams until ctx is done, or until a source or required sink fails. Then the
// sources stop, and the sinks have up to Options.Drain to ack the lines in flight. Run
// returns nil if nothing failed and no line was lost. It can be called only once.
func (s *Stream) Run(ctx context.Context) error {
	defer s.close()
	// reading is canceled first. work is canceled when the sinks have acked
	// everything or Options.Drain has passed.
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)

	var sinks, sources, saving sync.WaitGroup
	var failure error
	var once sync.Once
	fail := func(err error) {
		once.Do(func() { failure = err })
		stop(err)
	}
	for i, c := range s.sinks {
		sinks.Go(func() {
			q := s.hub.queues[i]
			if err := c.Run(work); err != nil && work.Err() == nil {
				if !q.Optional {
					fail(fmt.Errorf("sink %s: %w", q.Name, err))
					giveUp(err) // nothing empties this sink's queue anymore
					return
				}
				s.log.Error("optional sink failed", "sink", q.Name, "err", err)
				q.Trouble(fmt.Errorf("it has ended: %w", err))
				for b := range q.Batches() {
					q.Discard(b)
				}
			}
		})
	}
	for _, l := range s.listeners {
		sources.Go(func() { s.endpoint.Serve(work, l) })
	}
	for _, in := range s.inputs {
		sources.Go(func() {
			if err := in.Run(work, reading); err != nil && work.Err() == nil {
				fail(err)
			}
		})
	}
	saving.Go(func() { s.sources.Run(work) })
	saving.Go(func() { s.hub.encoding.Run(work) })

	<-reading.Done()
	timer := time.AfterFunc(s.opt.Drain, func() { giveUp(errDrain) })
	defer timer.Stop()
	logTimer := time.AfterFunc(drainSilence, s.logDrain)
	defer logTimer.Stop()
	s.endpoint.Stop(s.listeners)
	sources.Wait()
	s.endpoint.Wait()
	for _, q := range s.hub.queues {
		q.Close()
	}
	sinks.Wait()
	for _, q := range s.hub.queues {
		q.CountLost()
	}
	giveUp(nil)
	saving.Wait()
	s.hub.encoding.Save()
	err := s.sources.Save()
	if n := s.hub.counts.Unacked.Load(); n > 0 {
		err = errors.Join(err, &UnackedError{n})
	}
	return errors.Join(failure, err)
}

var errDrain = errors.New("sinks did not acknowledge everything in time")

// drainSilence is how long an ending stream waits for its sinks before it logs that
// it is waiting.
const drainSilence = time.Second

// logDrain logs each sink that still has unacked lines.
func (s *Stream) logDrain() {
	for _, q := range s.hub.queues {
		if q.Stats.Queued.Load() > 0 {
			s.log.Info("waiting for sink to drain", "sink", q.Name, "timeout", s.opt.Drain)
		}
	}
}
