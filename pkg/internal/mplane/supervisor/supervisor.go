// Package supervisor implements a small mPlane supervisor for one site. Components
// register their capabilities on one port, and clients use them on another.
package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/registrar"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Options configures a supervisor.
type Options struct {
	// Components is the listener for components. Clients is the listener for clients,
	// /metrics and /-/healthy.
	Components, Clients peer.Options

	Registries *mplane.Registries
	// Roles restricts the capabilities that clients may use; nil allows all.
	Roles *mplane.Roles
	// StateFile is the file that preserves components and jobs across restarts; ""
	// disables it.
	StateFile string
	// Immediate is how long a client waits for a result before it gets a receipt
	// instead; 0 means 1s.
	Immediate time.Duration
	// Keep is how long a result is kept for its client; 0 means 1h.
	Keep time.Duration
	Log  *slog.Logger // may be nil
}

// Limits on jobs, and the times after which the supervisor acts on a job.
const (
	maxJobs       = 100000
	maxClientJobs = 10000                  // unfinished jobs of one client
	afterAccepted = 200 * time.Millisecond // how long to wait for a job's result after its receipt
	keepDelivered = 10 * time.Second       // how long a result is kept after its delivery
	resendAfter   = 30 * time.Second       // after which a delivered specification without a response is resent
	maxResend     = 3                      // how often a specification is resent
	lostAfter     = 10 * time.Minute       // after which an absent component's jobs end
	lateAfter     = 10 * time.Minute       // after which a job without a result ends, counted from the end of its scope
)

// Supervisor relays requests from clients to components. It is safe for concurrent use.
type Supervisor struct {
	opt       Options
	log       *slog.Logger
	open      []*peer.Listener // for components and for clients, in this order
	started   time.Time
	registrar *registrar.Registrar
	metrics   *metrics
	noRoom    rate.Sometimes // limits log lines about dropped results

	mu      sync.Mutex
	asked   map[key]*job   // by client and the client's token
	relayed map[key]*job   // by component and the token sent to it
	running map[string]int // unfinished jobs by client
	count   int            // number of relayed specifications, used for labels
	dirty   bool           // the state has changed since the last save
}

// key identifies a job by a token and the identity to which the token belongs.
type key struct{ identity, token string }

// job is a client's specification that the supervisor relays to a component.
type job struct {
	client      string
	component   string
	asked       *mplane.Statement // as sent by the client
	relayed     *mplane.Statement // as sent to the component
	created     time.Time
	sent        time.Time // when the specification or interrupt was last queued
	resent      int
	accepted    bool          // the component has confirmed it
	acceptance  chan struct{} // closed when accepted
	interrupted bool
	stopping    *mplane.Statement // the queued interrupt
	reply       mplane.Message    // nil until the job ends
	ended       time.Time
	delivered   bool // the client has received the reply
	done        chan struct{}

	room, replyRoom registrar.Lease // memory reserved for the specifications and for the reply
}

// New returns a supervisor that is already listening and has the state that its previous
// run saved.
func New(opt Options) (*Supervisor, error) {
	s, err := load(opt)
	if err == nil {
		s.open, err = peer.ListenAll([]peer.Options{opt.Components, opt.Clients}, s.log)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// load returns a supervisor that has the state saved by its previous run, but no
// listeners yet.
func load(opt Options) (*Supervisor, error) {
	opt.Immediate = cmp.Or(opt.Immediate, time.Second)
	opt.Keep = cmp.Or(opt.Keep, time.Hour)
	opt.Log = cmp.Or(opt.Log, slog.New(slog.DiscardHandler))
	s := &Supervisor{opt: opt, log: opt.Log, started: time.Now(), asked: map[key]*job{}, relayed: map[key]*job{}, running: map[string]int{}, noRoom: rate.Sometimes{First: 5, Interval: 10 * time.Second}}
	s.registrar = registrar.New(opt.Registries, s, opt.Log)
	s.metrics = newMetrics(s)
	return s, s.load()
}

// Addrs returns the addresses of the listeners for components and for clients.
func (s *Supervisor) Addrs() []string { return peer.Addrs(s.open) }

// Run serves until ctx is done.
func (s *Supervisor) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range []http.Handler{s.Components(), s.Clients()} {
		g.Go(func() error { return wire.NewServer(h, s.log).Serve(ctx, s.open[i]) })
	}
	s.maintain(ctx)
	return errors.Join(g.Wait(), s.save())
}

// Components returns the handler for requests from components.
func (s *Supervisor) Components() http.Handler { return s.registrar }

// Clients returns the handler for requests from clients.
func (s *Supervisor) Clients() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", &wire.Server{Registries: s.opt.Registries, Backend: s})
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		wire.Answer(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	})
	return mux
}

// Capabilities returns the capabilities that the given identity may use.
func (s *Supervisor) Capabilities(identity string) []*mplane.Statement {
	var list []*mplane.Statement
	for _, c := range s.registrar.Offers() {
		if s.opt.Roles.Allowed(c.Label, identity) {
			list = append(list, c)
		}
	}
	return list
}

// Capability returns the capability with the given token, or its withdrawal. It returns
// nil if the token is unknown or the identity may not use the capability.
func (s *Supervisor) Capability(identity, token string) *mplane.Statement {
	c := s.registrar.Offer(token)
	if c == nil || !s.opt.Roles.Allowed(c.Label, identity) {
		return nil
	}
	return c
}

// Answer returns the response to a message from a client.
func (s *Supervisor) Answer(ctx context.Context, identity string, m mplane.Message) mplane.Message {
	ask, ok := m.(*mplane.Statement)
	if !ok {
		return &mplane.Exception{Message: component.Unexpected}
	}
	switch ask.Kind {
	case mplane.Specification:
		b, refusal := s.submit(identity, wire.HostOf(ctx), ask)
		if b == nil {
			s.metrics.refused.Inc()
			return refusal
		}
		s.await(ctx, b)
		return s.state(identity, ask.ID())
	case mplane.Redemption:
		return s.state(identity, ask.ID())
	case mplane.Interrupt:
		s.interrupt(identity, ask.ID())
		return s.state(identity, ask.ID())
	}
	return &mplane.Exception{Token: ask.ID(), Message: component.Unexpected}
}

// await waits until b has ended. It gives up when ctx is done, when Options.Immediate has
// passed, or when afterAccepted has passed since the component accepted b.
func (s *Supervisor) await(ctx context.Context, b *job) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.Immediate)
	defer cancel()
	select {
	case <-b.done:
		return
	case <-ctx.Done():
		return
	case <-b.acceptance:
	}
	t := time.NewTimer(afterAccepted)
	defer t.Stop()
	select {
	case <-b.done:
	case <-ctx.Done():
	case <-t.C:
	}
}

// submit relays a client's specification to a component and returns the job. If the
// client has already sent the specification, submit returns the existing job. If it
// refuses the specification, it returns nil and the message for the client.
func (s *Supervisor) submit(identity, host string, ask *mplane.Statement) (*job, mplane.Message) {
	token := ask.ID()
	refuse := func(text string) (*job, mplane.Message) {
		return nil, &mplane.Exception{Token: token, Message: text}
	}
	if err := wire.CheckRelayed(ask); err != nil {
		return refuse(err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.asked[key{identity, token}]; ok {
		return b, nil // a repeated request
	}
	offer, withdrawn, denied := s.registrar.Find(ask, func(label string) bool { return s.opt.Roles.Allowed(label, identity) })
	switch {
	case denied:
		return refuse(component.NoPermission)
	case withdrawn != nil:
		return nil, withdrawn.Capability.Notice(mplane.Withdrawal)
	case offer == nil:
		return refuse(component.NoService)
	case s.running[identity] >= maxClientJobs || len(s.relayed) >= maxJobs:
		return refuse("Too many jobs")
	}
	spec := offer.Capability.Specification()
	for _, f := range ask.Parameters {
		if err := spec.SetParameter(f.Name, f.Text); err != nil {
			return refuse(err.Error())
		}
	}
	spec.When = ask.When
	// An RI supervisor may relay to this one, and splits the label at its last hyphen.
	spec.Label = fmt.Sprintf("%s-%d", offer.Capability.Label, s.count)
	spec.SetUniqueToken()
	if err := wire.CheckRelayed(spec); err != nil {
		return refuse(err.Error())
	}
	s.count++
	now := time.Now()
	b := &job{
		client: identity, component: offer.Identity, asked: ask, relayed: spec,
		created: now, sent: now, acceptance: make(chan struct{}), done: make(chan struct{}),
	}
	var fits bool
	if b.room, fits = s.registrar.Room().Reserve(identity, host, jobSize(b), false); !fits {
		return refuse("Too many jobs")
	}
	if err := s.registrar.Queue(b.component, spec); err != nil {
		s.registrar.Room().Release(b.room)
		return refuse(err.Error())
	}
	s.insert(b)
	s.metrics.specifications.Inc()
	return b, nil
}

// jobSize estimates the size of a job in bytes, excluding its reply.
func jobSize(b *job) int { return 768 + mplane.Size(b.asked) + mplane.Size(b.relayed) }

// insert adds a job. It counts the job as running unless the job has a reply.
func (s *Supervisor) insert(b *job) {
	s.asked[key{b.client, b.asked.ID()}] = b
	s.relayed[key{b.component, b.relayed.ID()}] = b
	if b.reply == nil {
		s.running[b.client]++
	}
	s.dirty = true
}

// state returns the reply to a client's job and marks the job as delivered. It returns a
// receipt if the job is still running, or an exception if the job is unknown.
func (s *Supervisor) state(identity, token string) mplane.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.asked[key{identity, token}]
	switch {
	case !ok:
		return &mplane.Exception{Token: token, Message: component.UnknownJob}
	case b.reply == nil:
		return b.asked.Notice(mplane.Receipt)
	}
	if !b.delivered {
		b.delivered, b.ended, s.dirty = true, time.Now(), true
	}
	return b.reply
}

// NotDelivered keeps the reply to a client's job as long as if the client had not asked
// for it.
func (s *Supervisor) NotDelivered(identity string, reply mplane.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.asked[key{identity, reply.ID()}]; ok && b.reply == reply {
		b.delivered, s.dirty = false, true
	}
}

// interrupt asks the component to stop a client's job. If the component has not sent a
// receipt for the job yet, it may not know the job. In this case, Receive queues the
// interrupt when the receipt arrives.
func (s *Supervisor) interrupt(identity, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.asked[key{identity, token}]
	if !ok || b.reply != nil || b.interrupted {
		return
	}
	b.interrupted, s.dirty = true, true
	if b.accepted {
		s.queueInterrupt(b)
	}
}

// queueInterrupt queues an interrupt of b for the component's next poll. If that fails,
// for example because the component has not registered since a restart of the supervisor,
// checkJob tries again later.
func (s *Supervisor) queueInterrupt(b *job) {
	b.sent, b.stopping = time.Now(), b.relayed.Notice(mplane.Interrupt)
	if err := s.registrar.Queue(b.component, b.stopping); err != nil {
		s.log.Debug("interrupt not queued", "component", b.component, "err", err)
	}
}

// Receive handles m, a component's message about a job. A receipt means that the
// component has accepted the job. Any other message ends the job and becomes its reply.
func (s *Supervisor) Receive(identity string, m mplane.Message) {
	token := m.ID()
	st, ok := m.(*mplane.Statement)
	receipt := ok && st.Kind == mplane.Receipt
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.relayed[key{identity, token}]
	switch {
	case !ok:
		s.metrics.replies.WithLabelValues("unknown").Inc()
		s.log.Debug("reply without a job ignored", "component", identity, "token", token)
	case b.reply != nil:
	case receipt:
		s.metrics.replies.WithLabelValues("receipt").Inc()
		if !b.accepted {
			b.accepted, s.dirty = true, true
			close(b.acceptance)
			if b.interrupted {
				s.queueInterrupt(b)
			}
		}
	default:
		s.finish(b, m)
	}
}

// finish ends b with the reply m. In the reply, it replaces the label and token of the
// relayed specification with those of the client's specification.
func (s *Supervisor) finish(b *job, m mplane.Message) {
	if err := wire.CheckRelayed(m); err != nil {
		m = &mplane.Exception{Message: err.Error()}
	}
	size := mplane.Size(m)
	var fits bool
	if b.replyRoom, fits = s.registrar.ReserveFor(b.component, size); !fits {
		s.metrics.noRoom.Inc()
		s.noRoom.Do(func() {
			s.log.Warn("result dropped: no room", "component", b.component, "client", b.client, "bytes", size)
		})
		m = &mplane.Exception{Message: fmt.Sprintf("No room for a result of %d bytes of component %s", size, b.component)}
	}
	token := b.asked.ID()
	kind := "result"
	switch r := m.(type) {
	case *mplane.Statement:
		named := *r
		named.Label, named.Token, named.Link = b.asked.Label, token, nil
		m = &named
	case *mplane.Exception:
		kind = "exception"
		m = &mplane.Exception{Token: token, Message: r.Message}
	case *mplane.Envelope:
		named := *r
		named.Token = token
		m = &named
	}
	s.metrics.replies.WithLabelValues(kind).Inc()
	b.reply, b.ended, s.dirty = m, time.Now(), true
	if s.running[b.client]--; s.running[b.client] == 0 {
		delete(s.running, b.client)
	}
	close(b.done)
}

// Registered is called after each registration of the component with the given identity.
// It resends the specifications that the component may have lost. A component that was
// restarted starts the jobs again. Any other component recognizes the tokens of the jobs
// that it already has.
func (s *Supervisor) Registered(identity string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
	for _, b := range s.relayed {
		switch {
		case b.component != identity || b.reply != nil || s.registrar.IsQueued(identity, b.relayed):
		case !b.accepted:
			s.resend(b)
		case !b.interrupted:
			if err := s.registrar.Queue(identity, b.relayed); err != nil {
				s.log.Warn("running specification not resent to a component that registered again", "component", identity, "err", err)
			}
		}
	}
}
