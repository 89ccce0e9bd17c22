package component

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Options configures a component.
type Options struct {
	Services   []Service
	Registries *mplane.Registries
	Supervisor wire.Dialer
	// Roles restricts the capabilities that the supervisor may use; nil allows all.
	Roles  *mplane.Roles
	Limits Limits
	// Poll is the interval between polls for specifications; 0 means 5 s. It must be
	// below 10 s, because supervisors drop a component that has been silent for that
	// long.
	Poll time.Duration
	// StateFile is the file that preserves specifications and results across restarts;
	// see Jobs.Restore. "" disables it.
	StateFile string
	Log       *slog.Logger // may be nil
}

// maxSilence is how long a component may be silent before a supervisor drops it.
const maxSilence = 10 * time.Second

// callbackLabel is the label of the callback capability. A supervisor sets the time of
// the component's next poll with a specification for this capability.
const callbackLabel = "callback"

// A supervisor can set the time to a component's next poll to a value between minCallback
// and maxCallback.
const (
	minCallback = 100 * time.Millisecond
	maxCallback = time.Hour
)

// If the supervisor's clock is behind ours, envelopes are delayed by the difference. A
// difference above maxAhead is ignored, because the supervisor's clock was probably
// never set. A difference of at least warnAhead causes a warning.
const (
	maxAhead  = 24 * time.Hour
	warnAhead = time.Minute
)

// Limits on what peers can make a component keep for each job; see Limits.
const (
	maxSpecification = 16 << 10 // size of a specification; see mplane.Size
	maxFailure       = 2000     // characters of the reason why a run failed
)

// maxOutbox is the maximum number of messages that wait for delivery to the supervisor.
const maxOutbox = 10000

// Stats is the state of a component's connection to its supervisor.
type Stats struct {
	Registered bool
	Since      time.Time        // when Registered last changed
	Err        string           // error of the last poll, or ""
	Refused    map[string]int64 // number of refused specifications by reason
}

// reasons maps the message of an exception to the key under which Stats.Refused counts
// it. A message that is not listed is counted under otherReason.
var reasons = map[string]string{NoService: "unknown capability", NoPermission: "permission"}

const otherReason = "other"

// New returns a component. It does not send anything yet. It fails only if the options
// are invalid.
func New(opt Options) (*Component, error) {
	if opt.Poll = cmp.Or(opt.Poll, 5*time.Second); opt.Poll >= maxSilence {
		return nil, fmt.Errorf("poll every %v: must be below %v", opt.Poll, maxSilence)
	}
	conn, err := opt.Supervisor.Open()
	if err != nil {
		return nil, err
	}
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	return &Component{
		Options: opt,
		conn:    conn,
		jobs:    NewJobs(opt.Services, opt.Registries, opt.Roles, opt.Limits, opt.Log),
		token:   "comp-cb0." + rand.Text(),
		queued:  make(chan struct{}, 1),
		unknown: rate.Sometimes{First: 1, Interval: time.Minute},
		clock:   rate.Sometimes{First: 1, Interval: time.Hour},
		// Start the counters at zero, so that Prometheus sees the first refusal as an
		// increase.
		stats: Stats{Since: time.Now(), Refused: map[string]int64{reasons[NoService]: 0, reasons[NoPermission]: 0, otherReason: 0}},
	}, nil
}

// Run registers with the supervisor and serves its specifications until ctx is done. It
// then stops the jobs, delivers their results and withdraws the capabilities. While the
// supervisor is unavailable, Run retries. It returns an error only if the state file
// cannot be read or written.
func (c *Component) Run(ctx context.Context) error {
	defer c.conn.Close()
	if c.StateFile != "" {
		if err := c.jobs.Restore(c.StateFile, c.send); err != nil {
			return err
		}
	}
	delivering, stop := context.WithCancel(context.WithoutCancel(ctx))
	var delivery sync.WaitGroup
	delivery.Go(func() { c.deliver(delivering) })
	c.serve(ctx)

	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
	defer cancel()
	c.jobs.Stop(limit)
	c.flush(limit)
	stop()
	delivery.Wait()
	c.withdraw(limit)
	return nil
}

// Jobs returns the component's jobs.
func (c *Component) Jobs() *Jobs { return c.jobs }

// Stats returns the state of the component's connection to its supervisor.
func (c *Component) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Refused = maps.Clone(s.Refused)
	return s
}

// recordPoll updates Stats after a poll. registered reports whether the component is
// registered, and err is the error of the poll or nil.
func (c *Component) recordPoll(registered bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if registered != c.stats.Registered {
		c.stats.Registered, c.stats.Since = registered, time.Now()
	}
	c.stats.Err = ""
	if err != nil {
		c.stats.Err = err.Error()
	}
}

// Component serves the specifications of one supervisor.
type Component struct {
	Options
	conn  *wire.Conn
	jobs  *Jobs
	token string // token of the callback capability

	supervisor string              // identity of the supervisor
	registered bool                // false at the start and after a response with status 428
	offered    []*mplane.Statement // registered capabilities
	since      time.Time           // when they were registered
	seen       time.Time           // when the supervisor last responded to a poll
	next       time.Duration       // time to the next poll

	unknown rate.Sometimes // limits warnings about unknown capabilities
	clock   rate.Sometimes // limits warnings about the supervisor's clock

	mu     sync.Mutex
	stats  Stats
	outbox []mplane.Message
	queued chan struct{} // has an element if outbox may have changed
	ahead  time.Duration // how far our clock may be ahead of the supervisor's
}

// serve polls the supervisor repeatedly until ctx is done.
func (c *Component) serve(ctx context.Context) {
	var failures int
	for ctx.Err() == nil {
		c.next = c.Poll
		err := c.pollOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		c.recordPoll(c.registered && err == nil, err)
		switch {
		case err != nil:
			if failures++; failures == 1 { // only log the first failure of an outage
				c.Log.Warn("request to supervisor failed, retrying", append([]any{"supervisor", c.conn.Root(), "err", err}, hint.Attrs(err)...)...)
			}
		case failures > 0:
			c.Log.Info("supervisor reconnected", "supervisor", c.conn.Root(), "failures", failures)
			failures = 0
		}
		retry.Sleep(ctx, c.next)
	}
}

// pollOnce registers with the supervisor if necessary, then polls it once.
func (c *Component) pollOnce(ctx context.Context) error {
	if !c.registered || time.Since(c.seen) > maxSilence {
		if err := c.register(ctx); err != nil {
			return err
		}
	} else if err := c.applyRoles(ctx); err != nil {
		return err
	}
	resp, err := c.request(ctx, http.MethodGet, wire.SpecificationPath, nil)
	if err != nil {
		return err
	}
	switch {
	case resp.Status == http.StatusPreconditionRequired:
		// The supervisor was restarted, or it dropped this component.
		c.registered = false
		if time.Since(c.since) > c.Poll {
			c.next = 0
		}
		return nil
	case resp.Status != http.StatusOK || resp.Type != wire.ContentType:
		return fmt.Errorf("poll answered with status %d and %q", resp.Status, resp.Type)
	}
	c.seen = time.Now()
	m, err := c.Registries.Parse(resp.Body)
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	c.receive(m)
	return nil
}

func (c *Component) register(ctx context.Context) error {
	id, err := c.conn.PeerIdentity(ctx)
	if err != nil {
		return err
	}
	c.supervisor = id
	offers := c.jobs.Capabilities(id)
	if len(offers) == 0 {
		return fmt.Errorf("nothing is allowed to the supervisor %s by the roles", id)
	}
	envelope := &mplane.Envelope{}
	for _, o := range offers {
		envelope.Messages = append(envelope.Messages, offer(o))
	}
	when, err := mplane.ParseScope("now ... future")
	if err != nil {
		return err
	}
	envelope.Messages = append(envelope.Messages, &mplane.Statement{
		Kind: mplane.Capability, Verb: mplane.Measure, Label: callbackLabel, Registry: offers[0].Registry, When: when, Token: c.token,
	})
	answer, err := c.announce(ctx, envelope)
	if err != nil {
		return err
	}
	for label, a := range answer {
		if a.Registered != "ok" {
			c.Log.Warn("supervisor refused a capability", "capability", label, "reason", a.Reason)
		}
	}
	c.registered, c.offered, c.since, c.seen = true, offers, time.Now(), time.Now()
	c.Log.Info("registered", "supervisor", c.conn.Root(), "identity", id, "capabilities", len(offers))
	return nil
}

// offer returns a copy of a capability to register with the supervisor. The copy has the
// same token and an empty link.
func offer(capability *mplane.Statement) *mplane.Statement {
	o, here := *capability, ""
	o.Link, o.Token = &here, o.ID()
	return &o
}

// applyRoles applies changes to the roles: it registers capabilities that the
// supervisor may now use, and withdraws those that it may no longer use.
func (c *Component) applyRoles(ctx context.Context) error {
	offers := c.jobs.Capabilities(c.supervisor)
	switch {
	case slices.Equal(offers, c.offered):
		return nil
	case len(c.offered) == 0: // the supervisor drops a component that has no capabilities left
		return c.register(ctx)
	}
	envelope := &mplane.Envelope{}
	for _, o := range offers {
		if !slices.Contains(c.offered, o) {
			envelope.Messages = append(envelope.Messages, offer(o))
		}
	}
	for _, o := range c.offered {
		if !slices.Contains(offers, o) {
			envelope.Messages = append(envelope.Messages, o.Notice(mplane.Withdrawal))
		}
	}
	if _, err := c.announce(ctx, envelope); err != nil {
		return err
	}
	c.offered = offers
	c.Log.Info("registered again with the changed roles", "supervisor", c.conn.Root(), "identity", c.supervisor, "capabilities", len(offers))
	return nil
}

// announced is a supervisor's response to one capability or withdrawal.
type announced struct{ Registered, Reason string }

// announce sends e, which contains capabilities or withdrawals. It returns the
// supervisor's responses, keyed by label.
func (c *Component) announce(ctx context.Context, e *mplane.Envelope) (map[string]announced, error) {
	resp, err := c.request(ctx, http.MethodPost, wire.CapabilityPath, e)
	if err != nil {
		return nil, err
	}
	if resp.Status != http.StatusOK {
		return nil, fmt.Errorf("registration answered with status %d: %.200q", resp.Status, resp.Body)
	}
	answer := map[string]announced{}
	if err := json.Unmarshal(resp.Body, &answer); err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	return answer, nil
}

// withdraw withdraws all capabilities, so that clients immediately notice that the
// component has stopped.
func (c *Component) withdraw(ctx context.Context) {
	if !c.registered || len(c.offered) == 0 {
		return
	}
	envelope := &mplane.Envelope{}
	for _, o := range c.offered {
		envelope.Messages = append(envelope.Messages, o.Notice(mplane.Withdrawal))
	}
	if _, err := c.announce(ctx, envelope); err != nil {
		c.Log.Warn("capabilities not withdrawn", "supervisor", c.conn.Root(), "err", err)
	}
}

// receive handles m, which the supervisor sent in response to a poll. If m is an
// envelope, receive handles each message in it.
func (c *Component) receive(m mplane.Message) {
	switch m := m.(type) {
	case *mplane.Envelope:
		for _, e := range m.Messages {
			c.receive(e)
		}
	case *mplane.Statement:
		switch {
		case m.Kind == mplane.Specification && m.Label == callbackLabel:
			// The supervisor does not expect a response.
			d := m.When.Delays(time.Now())
			c.next = min(max(d.End, minCallback), maxCallback)
		case m.Kind == mplane.Specification:
			former := c.jobs.reply(m.ID(), c.supervisor)
			answer := c.jobs.Submit(m, c.supervisor, c.send, c.send)
			if former != nil { // the supervisor may have lost it in a crash
				c.send(former)
			}
			if e, refused := answer.(*mplane.Exception); refused {
				c.recordRefusal(m, e.Message)
			}
		case m.Kind == mplane.Interrupt:
			c.send(c.jobs.Interrupt(m.ID(), c.supervisor))
		default:
			c.send(&mplane.Exception{Token: m.ID(), Message: Unexpected})
		}
	}
}

// recordRefusal counts the refusal of spec in Stats.Refused, and logs a warning if the
// capability is unknown. The reason is the message of the exception.
func (c *Component) recordRefusal(spec *mplane.Statement, reason string) {
	c.mu.Lock()
	c.stats.Refused[cmp.Or(reasons[reason], otherReason)]++
	c.mu.Unlock()
	if reason != NoService {
		return
	}
	c.unknown.Do(func() {
		c.Log.Warn("specification for an unknown capability refused", "capability", mplane.Visible(spec.Label), "supervisor", c.conn.Root(),
			"hint", "use TLS: without it, the supervisor may send a process the specifications of another")
	})
}
