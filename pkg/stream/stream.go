// Package stream brings live log lines from connections, followed log folders
// and brokers to consumers. Lines of one log keep their order; what a required
// consumer has not taken holds up its source.
package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/dest"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/state"
)

// Start is where a followed folder is read from.
type Start string

// Starts.
const (
	StartCheckpoint Start = "checkpoint" // where the last run ended, else the begin of the newest folder
	StartBegin      Start = "begin"      // the begin of the oldest folder
	StartEnd        Start = "end"        // the end of the newest folder
)

// Root is the output folder of a Tstat, with log folders in it.
type Root struct {
	Probe string
	Dir   string
}

// Options say what Run brings where. The zero value of a field means its
// default.
type Options struct {
	Listen []peer.Options // endpoints
	Follow []Root
	From   []string // brokers: kafka://, kafka+tls://, nats://, nats+tls://

	// To are the required consumers, ToOptional those that may lose lines
	// when they are too slow: "-", file:DIR, exec:COMMAND, tcp://, tls://,
	// ack://, ack+tls://, kafka://, kafka+tls://, nats://, nats+tls://. There
	// must be one.
	To, ToOptional []string

	Format Format   // ""; Raw
	Select []string // columns, for Line and JSON; none: all
	Layout string   // Tstat version where no header has come, see tstat.NewLines

	Types    []string       // globs over the logs to follow; none: all
	Start    Start          // "": StartCheckpoint
	Poll     time.Duration  // how often followed folders are looked at; 0: 1s
	Location *time.Location // zone of folder names; nil: time.Local

	Probes         *peer.Probes  // that have no certificate; others have the name of their address
	MaxConnections int           // 0: 1024
	IdleTimeout    time.Duration // of connections; 0: 2h
	MaxLine        int           // bytes; longer lines are rejects; 0: 32 KiB

	Window int64         // bytes of Follow and each of From that may come again after a crash; 0: 16 MiB
	Queue  int64         // bytes waiting for one consumer; 0: 8 MiB
	Drain  time.Duration // how long consumers may take after the stop; 0: 30s

	RetryMin, RetryMax time.Duration // wait before a consumer is opened again; 0: 500ms, 30s

	Name     string // of the run's state; "": default
	StateDir string
	TLS      peer.TLS      // of consumers
	Peers    peer.Networks // that tcp, tls and ack consumers may be in; none: all
	Stdout   io.Writer
	Stderr   io.Writer // of commands
	Log      *slog.Logger

	// Listening is called with the addresses of the endpoints.
	Listening func(addrs []string)
	// Report is called every ReportEvery, with the sums so far.
	Report      func(*Summary)
	ReportEvery time.Duration

	opened func(*run) // lets tests look inside
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

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) defaults() {
	set(&o.Format, Raw)
	set(&o.Start, StartCheckpoint)
	set(&o.Poll, DefaultPoll)
	set(&o.MaxConnections, DefaultMaxConnections)
	set(&o.IdleTimeout, DefaultIdleTimeout)
	set(&o.MaxLine, DefaultMaxLine)
	set(&o.Window, DefaultWindow)
	set(&o.Queue, DefaultQueue)
	set(&o.Drain, DefaultDrain)
	set(&o.RetryMin, DefaultRetryMin)
	set(&o.RetryMax, DefaultRetryMax)
	set(&o.Name, DefaultName)
	if o.Location == nil {
		o.Location = time.Local
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
}

// UntakenError says that lines were received that not all required consumers
// have taken, and that nobody sends again.
type UntakenError struct{ Lines int64 }

func (e *UntakenError) Error() string {
	return fmt.Sprintf("%d lines were received and not taken by all consumers", e.Lines)
}

// Run streams until ctx ends, or a consumer cannot go on. Then sources stop,
// and the consumers have Options.Drain for what is under way. The error is
// nil if they took it all.
func Run(ctx context.Context, opt Options) (*Summary, error) {
	opt.defaults()
	for i := range opt.Follow {
		abs, err := filepath.Abs(opt.Follow[i].Dir)
		if err != nil {
			return nil, err
		}
		opt.Follow[i].Dir = abs
		if err := opt.Follow[i].check(); err != nil {
			return nil, err
		}
	}
	unlock, err := state.Lock(opt.StateDir, "stream "+opt.Name)
	if errors.Is(err, state.ErrLocked) {
		return nil, hint.Add(fmt.Errorf("stream %q is %w", opt.Name, err), "streams that run at once need names of their own (`name`)")
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &run{opt: &opt, log: opt.Log}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r.stream(ctx)
}

// run is what Run works with.
type run struct {
	opt       *Options
	log       *slog.Logger
	hub       *hub
	ck        *checkpoint
	consumers []consumer
	endpoint  *endpoint
	listeners []*peer.Listener
	from      []brokerSource
}

// open prepares everything that can fail at once.
func (r *run) open(ctx context.Context) error {
	opt := r.opt
	r.hub = &hub{
		opt: opt, log: r.log, stats: &stats{start: time.Now()}, types: &typeNames{},
		wrong: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	h := r.hub
	var err error
	if h.layouts, err = openLayouts(opt); err != nil {
		return err
	}
	if r.ck, err = openCheckpoint(opt, r.log); err != nil {
		return err
	}
	h.needRaw = opt.Format == Raw
	add := func(text string, optional bool) error {
		q := newQueue(dest.Redact(text), optional, opt.Queue, new(consumerStats), r.log)
		c, err := newConsumer(h, q, text, fmt.Sprintf("%s-%d", r.ck.state.Session, len(r.consumers)+1))
		if err != nil {
			return err
		}
		h.queues = append(h.queues, q)
		r.consumers = append(r.consumers, c)
		h.needRaw = h.needRaw || wantsRaw(text)
		return nil
	}
	for _, text := range opt.To {
		if err := add(text, false); err != nil {
			return err
		}
	}
	for _, text := range opt.ToOptional {
		if err := add(text, true); err != nil {
			return err
		}
	}
	for i, text := range opt.From {
		src, err := newSource(h, text, r.ck.state.Session, i+1)
		if err != nil {
			return err
		}
		r.from = append(r.from, src)
	}
	r.endpoint = &endpoint{
		hub: h, log: r.log, conns: map[*conn]bool{}, sessions: map[string]*conn{}, run: rand.Text(),
		full: rate.Sometimes{First: 1, Interval: time.Minute}, wrong: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	var addrs []string
	for _, o := range opt.Listen {
		o.Log = r.log
		l, err := peer.Listen(ctx, o)
		if err != nil {
			for _, l := range r.listeners {
				l.Close()
			}
			return err
		}
		r.listeners = append(r.listeners, l)
		addrs = append(addrs, l.Addr().String())
	}
	if opt.opened != nil {
		opt.opened(r)
	}
	if opt.Listening != nil {
		opt.Listening(addrs)
	}
	return nil
}

// stream runs sources and consumers.
func (r *run) stream(ctx context.Context) (*Summary, error) {
	// stop ends the sources; work the consumers, and what waits for them.
	stop, stopNow := context.WithCancelCause(ctx)
	defer stopNow(nil)
	work, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)

	var consumers, sources, others sync.WaitGroup
	var failure error
	var once sync.Once
	fail := func(err error) {
		once.Do(func() { failure = err })
		stopNow(err)
	}
	for i, c := range r.consumers {
		consumers.Go(func() {
			q := r.hub.queues[i]
			if err := c.run(work); err != nil && work.Err() == nil {
				if !q.optional {
					fail(fmt.Errorf("consumer %s: %w", q.name, err))
					giveUp(err) // nobody empties its queue
					return
				}
				r.log.Error("optional consumer has ended", "consumer", q.name, "err", err)
				q.trouble(fmt.Errorf("it has ended: %w", err))
				for b := range q.ch {
					q.discard(b)
				}
			}
		})
	}
	for _, l := range r.listeners {
		sources.Go(func() { r.endpoint.serve(work, l) })
	}
	for _, root := range r.opt.Follow {
		sources.Go(func() {
			if err := newFollower(r.hub, r.ck, root).run(stop, work); err != nil && work.Err() == nil {
				fail(err)
			}
		})
	}
	for _, src := range r.from {
		sources.Go(func() {
			if err := src.run(stop, work); err != nil && work.Err() == nil {
				fail(err)
			}
		})
	}
	others.Go(func() { r.ck.run(work) })
	others.Go(func() { r.report(work) })

	<-stop.Done()
	timer := time.AfterFunc(r.opt.Drain, func() { giveUp(errDrain) })
	defer timer.Stop()
	tell := time.AfterFunc(drainSilence, r.tellDrain)
	defer tell.Stop()
	r.endpoint.stop(r.listeners)
	sources.Wait()
	r.endpoint.wait()
	for _, q := range r.hub.queues {
		q.close()
	}
	consumers.Wait()
	giveUp(nil)
	others.Wait()
	for _, l := range r.listeners {
		r.hub.stats.refused.Add(l.Refused())
	}
	r.hub.layouts.save(r.log)
	err := r.ck.save()
	if n := r.hub.stats.untaken.Load(); n > 0 {
		err = errors.Join(err, &UntakenError{n})
	}
	return r.hub.summary(), errors.Join(failure, err)
}

var errDrain = errors.New("consumers did not take everything in time")

// drainSilence is how long a stream that has to end may wait for consumers
// until it says so.
const drainSilence = time.Second

// tellDrain says which consumers are waited for.
func (r *run) tellDrain() {
	for _, q := range r.hub.queues {
		if q.stats.queued.Load() > 0 {
			r.log.Info("waiting for a consumer to take what is left", "consumer", q.name, "at most", r.opt.Drain)
		}
	}
}

// report saves and tells from time to time.
func (r *run) report(ctx context.Context) {
	every := r.opt.ReportEvery
	if every == 0 {
		every = 15 * time.Second
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.hub.layouts.save(r.log)
			if r.opt.Report != nil {
				r.opt.Report(r.hub.summary())
			}
		case <-ctx.Done():
			return
		}
	}
}
