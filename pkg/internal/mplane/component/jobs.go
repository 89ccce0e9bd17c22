// Package component runs a component's capabilities. It schedules the jobs of
// specifications, and offers the capabilities in both workflows.
package component

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Service is a capability with its implementation.
type Service struct {
	Capability *mplane.Statement
	// Run performs a specification and returns the rows of the result, with columns in
	// the order of spec.Results. ctx is done at the end of the scope, on an interrupt,
	// or when the component stops; context.Cause then returns ErrScopeEnd,
	// ErrInterrupted or ErrStopped. These are not failures, so Run must return the rows
	// that it has. With the scope "now", ctx is already done when Run starts.
	Run func(ctx context.Context, spec *mplane.Statement) (rows [][]string, err error)
}

// Cancellation causes of a job's context; see Service.Run.
var (
	ErrScopeEnd    = errors.New("the scope has ended")
	ErrInterrupted = errors.New("interrupted")
	ErrStopped     = errors.New("the component stops")
)

// Exception messages, identical to those of the reference implementation (RI).
const (
	NoService    = "No service registered for specification"
	NoPermission = "User has no permission to request this capability"
	UnknownJob   = "Unknown job"
	Unexpected   = "Unexpected message type"
)

// Limits contains the limits on jobs. A zero field selects the default.
type Limits struct {
	Jobs     int           // maximum number of running and scheduled jobs; 0 means 100
	Keep     time.Duration // how long a finished job is kept; 0 means 1h
	Finished int           // maximum number of finished jobs kept; 0 means 1000
	Results  int           // maximum number of results kept per repeated specification; 0 means 1000
}

func (l *Limits) defaults() {
	l.Jobs = cmp.Or(l.Jobs, 100)
	l.Keep = cmp.Or(l.Keep, time.Hour)
	l.Finished = cmp.Or(l.Finished, 1000)
	l.Results = cmp.Or(l.Results, 1000)
}

// Jobs runs specifications. It is safe for concurrent use.
type Jobs struct {
	services   []Service
	registries *mplane.Registries
	roles      *mplane.Roles
	limits     Limits
	log        *slog.Logger

	file *stateFile // nil if jobs end with the process

	ctx    context.Context // parent of the contexts of all jobs
	cancel context.CancelCauseFunc
	wait   sync.WaitGroup

	mu      sync.Mutex
	jobs    map[string]*job // by token
	active  int             // running and scheduled jobs and runs
	running []*Specification
}

// Specification describes a running specification.
type Specification struct {
	Label string // label of the capability
	Token string
	Since time.Time // start
	Until time.Time // end of the scope; zero if it has no end
}

// Specifications returns the running specifications, in the order of their start times.
// It omits specifications that are scheduled but have not started yet.
func (j *Jobs) Specifications() []Specification {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []Specification
	for _, s := range j.running {
		list = append(list, *s)
	}
	// A resumed specification may have started earlier than those before it in the
	// list.
	slices.SortStableFunc(list, func(a, b Specification) int { return a.Since.Compare(b.Since) })
	return list
}

// runService calls s.Run with spec. Until s.Run returns, Specifications lists spec with
// the times start and end; a zero end means that the run is endless.
func (j *Jobs) runService(ctx context.Context, s Service, spec *mplane.Statement, start, end time.Time) ([][]string, error) {
	run := &Specification{s.Capability.Label, spec.ID(), start, end}
	j.mu.Lock()
	j.running = append(j.running, run)
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.running = slices.DeleteFunc(j.running, func(o *Specification) bool { return o == run })
	}()
	return s.Run(ctx, spec)
}

// job is an accepted specification.
type job struct {
	spec     *mplane.Statement
	owner    string // identity of the sender
	notify   func(mplane.Message)
	ctx      context.Context
	cancel   context.CancelCauseFunc
	finished chan struct{} // closed when the job ends
	accepted time.Time     // the time that "now" in the scope stands for
	resumed  time.Time     // time of the restart that resumed the job; zero if there was none

	// Jobs.mu guards the fields below.
	started     time.Time // zero before the start
	interrupted bool
	delivered   bool             // the owner has received the reply
	results     []mplane.Message // results so far of a repeated specification
	when        mplane.Scope     // scope of the results
	reply       mplane.Message   // nil until the job ends
	ended       time.Time
}

// NewJobs returns a Jobs that runs services. roles restricts which identities may use
// each service; nil allows all.
func NewJobs(services []Service, registries *mplane.Registries, roles *mplane.Roles, limits Limits, log *slog.Logger) *Jobs {
	limits.defaults()
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Jobs{services: services, registries: registries, roles: roles, limits: limits, log: log, ctx: ctx, cancel: cancel, jobs: map[string]*job{}}
}

// Submit starts a job for spec and returns a receipt, or an exception if it refuses spec.
// If the peer with the given identity already has a job with the same token, Submit
// returns a receipt but starts no job. It calls accepted with the response before the job
// starts. When the job ends, notify is called with the result, envelope or exception.
// Both functions may be nil.
func (j *Jobs) Submit(spec *mplane.Statement, identity string, accepted, notify func(mplane.Message)) mplane.Message {
	b, service, answer := j.accept(spec, identity, notify)
	if b != nil {
		j.saveOrLog() // the receipt promises a result, even after a restart
	}
	if accepted != nil {
		accepted(answer)
	}
	// Start the job only after it is saved and its receipt is queued, so that the
	// result of a fast job cannot overtake the receipt.
	if b != nil {
		j.start(b, service)
	}
	return answer
}

// accept returns the response to spec. If spec needs a new job, accept also returns the
// job, which is not yet started, and the service that it uses. Otherwise the job is nil.
func (j *Jobs) accept(spec *mplane.Statement, identity string, notify func(mplane.Message)) (*job, Service, mplane.Message) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.prune()
	token := spec.ID()
	receipt := spec.Notice(mplane.Receipt)
	if old, ok := j.jobs[token]; ok {
		if old.owner != identity {
			return nil, Service{}, &mplane.Exception{Token: token, Message: NoPermission}
		}
		return nil, Service{}, old.spec.Notice(mplane.Receipt) // spec was not checked
	}
	now := time.Now()
	service, refusal := j.service(spec, identity, now)
	if err := spec.Check(); err != nil && refusal == "" {
		refusal = err.Error()
	}
	if size := mplane.Size(spec); refusal == "" && size > maxSpecification {
		refusal = fmt.Sprintf("The specification has about %d bytes, more than %d", size, maxSpecification)
	}
	if refusal == "" && j.active >= j.limits.Jobs {
		refusal = fmt.Sprintf("Too many jobs: %d are running", j.active)
	}
	if refusal == "" && spec.Verb != mplane.Query && spec.When.Delays(now).Never {
		refusal = fmt.Sprintf("The scope %s is over", spec.When)
	}
	if refusal == "" && j.ctx.Err() != nil {
		refusal = "The component stops"
	}
	if refusal != "" {
		return nil, Service{}, &mplane.Exception{Token: token, Message: refusal}
	}
	b := &job{spec: spec, owner: identity, notify: notify, finished: make(chan struct{}), accepted: now}
	if spec.When.Delays(now).Start <= 0 || spec.Verb == mplane.Query {
		b.started = now
	}
	b.ctx, b.cancel = context.WithCancelCause(j.ctx)
	j.jobs[token] = b
	j.active++
	return b, service, receipt
}

// start runs the accepted job b in a new goroutine.
func (j *Jobs) start(b *job, service Service) {
	j.wait.Go(func() {
		defer b.cancel(nil)
		defer close(b.finished)
		reply := j.run(b.ctx, b, service)
		j.mu.Lock()
		j.active--
		suspended := j.suspended(b.ctx, b.spec, b.accepted)
		if !suspended {
			b.reply, b.ended = reply, time.Now()
		}
		j.mu.Unlock()
		if suspended {
			return
		}
		j.saveOrLog()
		if b.notify != nil {
			b.notify(reply)
		}
	})
}

// service returns the service for spec. If spec fulfills several capabilities at the time
// t, the best match wins. Among equal matches, a service that the client may use wins,
// then the one listed first. If no service is found or the client may not use it,
// refusal is the message for the client.
func (j *Jobs) service(spec *mplane.Statement, identity string, t time.Time) (found Service, refusal string) {
	best := -1
	refusal = NoService
	for _, s := range j.services {
		if !spec.Fulfills(s.Capability, t) {
			continue
		}
		allowed := j.roles.Allowed(s.Capability.Label, identity)
		rank := 2 * spec.Agreement(s.Capability)
		if allowed {
			rank++
		}
		if rank <= best {
			continue
		}
		best, found, refusal = rank, s, ""
		if !allowed {
			refusal = NoPermission
		}
	}
	return found, refusal
}

// run runs b with the service s until the job ends, and returns the reply to its owner.
func (j *Jobs) run(ctx context.Context, b *job, s Service) mplane.Message {
	if b.spec.When.Repeated() {
		return j.repeat(ctx, b, s, b.accepted)
	}
	return j.once(ctx, s, b.spec, b.accepted, func() time.Time {
		j.mu.Lock()
		first := b.started.IsZero()
		if first {
			b.started = time.Now()
		}
		j.mu.Unlock()
		if first {
			j.saveOrLog()
		}
		return b.started
	})
}

// once performs one run of spec with the service s, and returns the result or an
// exception. The parameter now is the time that "now" in the scope of spec stands for.
// When the run starts, once calls started, which returns the start time for the result.
func (j *Jobs) once(ctx context.Context, s Service, spec *mplane.Statement, now time.Time, started func() time.Time) mplane.Message {
	d := spec.When.Delays(now)
	if spec.Verb == mplane.Query { // the scope is the time that the data covers
		d = mplane.Delays{Endless: true}
	}
	if d.Start > 0 && retry.Sleep(ctx, time.Until(now.Add(d.Start))) != nil {
		return &mplane.Exception{Token: spec.ID(), Message: fmt.Sprintf("Stopped before its start: %v", context.Cause(ctx))}
	}
	var end time.Time
	if !d.Endless {
		end = now.Add(d.End)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, end, ErrScopeEnd)
		defer cancel()
	}
	start := started()
	rows, err := j.runService(ctx, s, spec, start, end)
	if err != nil {
		return &mplane.Exception{Token: spec.ID(), Message: fmt.Sprintf("%.*s", maxFailure, err)}
	}
	result := spec.Result(start, time.Now(), rows)
	// Validate the result, because peers could not read values of the wrong type.
	text, err := mplane.Marshal(result)
	if err == nil {
		_, err = j.registries.Parse(text)
	}
	if err != nil {
		j.log.Error("capability returned an invalid result", "specification", spec.Label, "err", err)
		return &mplane.Exception{Token: spec.ID(), Message: err.Error()}
	}
	return result
}

// repeat performs the runs of b, whose specification is repeated, and returns the reply.
// A run may start before an earlier run has ended, as far as the limit on jobs allows.
func (j *Jobs) repeat(ctx context.Context, b *job, s Service, now time.Time) mplane.Message {
	j.mu.Lock()
	b.when = b.spec.When.Anchored(now)
	j.mu.Unlock()
	ctx = context.WithValue(ctx, repeatedKey{}, true)
	var runs sync.WaitGroup
	for at, when := range b.spec.When.Occurrences(now) {
		if retry.Sleep(ctx, time.Until(at)) != nil {
			break
		}
		spec := b.spec.Run(when)
		if j.isDone(b, spec, at) {
			continue
		}
		if !j.reserveSlot() {
			j.addResult(b, &mplane.Exception{Token: spec.ID(), Message: fmt.Sprintf("Too many jobs: left out the run of %s", when)})
			continue
		}
		runs.Go(func() {
			defer j.releaseSlot()
			result := j.once(ctx, s, spec, at, func() time.Time {
				if at.Before(b.resumed) {
					return at
				}
				return time.Now()
			})
			if !j.suspended(ctx, spec, at) {
				j.addResult(b, result)
			}
		})
	}
	runs.Wait()
	// RI supervisors drop an envelope whose end is in the future.
	if _, end := b.spec.When.Times(now); !end.IsZero() {
		retry.Sleep(ctx, time.Until(end))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return b.finalReply(time.Now())
}

// finalReply returns the reply to a repeated specification that ended at t: an envelope,
// or an exception if no run has a result. RI supervisors would not relay an envelope
// without results.
func (b *job) finalReply(t time.Time) mplane.Message {
	failure := "There was no run"
	for _, m := range b.results {
		e, failed := m.(*mplane.Exception)
		if !failed {
			all := b.envelope()
			all.When = all.When.EndedAt(t)
			return all
		}
		failure = fmt.Sprintf("None of %d runs has a result; the last one: %s", len(b.results), e.Message)
	}
	return &mplane.Exception{Token: b.spec.ID(), Message: failure}
}

func (j *Jobs) reserveSlot() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active >= j.limits.Jobs {
		return false
	}
	j.active++
	return true
}

func (j *Jobs) releaseSlot() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.active--
}

func (j *Jobs) addResult(b *job, m mplane.Message) {
	j.mu.Lock()
	b.results = append(b.results, m)
	if n := len(b.results) - j.limits.Results; n > 0 {
		b.results = slices.Delete(b.results, 0, n)
	}
	j.mu.Unlock()
	j.saveOrLog()
}

// envelope returns an envelope with the results that b has so far.
func (b *job) envelope() *mplane.Envelope {
	return &mplane.Envelope{Token: b.spec.ID(), Label: b.spec.Label, When: b.when, Messages: slices.Clone(b.results)}
}

// State returns the response to a redemption of the job with the given token: the job's
// reply if it has ended, the results so far if there are any, or else a receipt. If the
// job is unknown or belongs to another identity, the response is an exception.
func (j *Jobs) State(token, identity string) mplane.Message {
	j.mu.Lock()
	defer j.mu.Unlock()
	b, ok := j.jobs[token]
	switch {
	case !ok || b.owner != identity:
		return &mplane.Exception{Token: token, Message: UnknownJob}
	case b.reply != nil:
		return b.reply
	case len(b.results) > 0:
		return b.envelope()
	}
	return b.spec.Notice(mplane.Receipt)
}

// Interrupt asks the job with the given token to stop. It returns a receipt, or the job's
// reply if the job has already ended. It does not return the partial results of a running
// job, because the client would mistake them for the complete results.
func (j *Jobs) Interrupt(token, identity string) mplane.Message {
	j.mu.Lock()
	b, ok := j.jobs[token]
	stop := ok && b.owner == identity && b.reply == nil
	if stop {
		b.interrupted = true
	}
	j.mu.Unlock()
	if stop {
		j.saveOrLog()
		b.cancel(ErrInterrupted)
		return b.spec.Notice(mplane.Receipt)
	}
	return j.State(token, identity)
}

// Wait waits until the job with the given token has ended or ctx is done. It returns
// immediately if the job is unknown.
func (j *Jobs) Wait(ctx context.Context, token string) {
	j.mu.Lock()
	b, ok := j.jobs[token]
	j.mu.Unlock()
	if !ok {
		return
	}
	select {
	case <-b.finished:
	case <-ctx.Done():
	}
}

// prune removes jobs that ended more than Limits.Keep ago, and the oldest ended jobs
// beyond Limits.Finished. With a state file, it keeps jobs with a reply that must still
// be delivered. The caller holds j.mu.
func (j *Jobs) prune() {
	var finished []string
	for token, b := range j.jobs {
		switch {
		case b.reply == nil || j.file != nil && b.notify != nil && !b.delivered:
		case time.Since(b.ended) > j.limits.Keep:
			delete(j.jobs, token)
		default:
			finished = append(finished, token)
		}
	}
	if n := len(finished) - j.limits.Finished; n > 0 {
		slices.SortFunc(finished, func(a, b string) int { return j.jobs[a].ended.Compare(j.jobs[b].ended) })
		for _, token := range finished[:n] {
			delete(j.jobs, token)
		}
	}
}

// Stop stops all jobs, and waits until they have stopped or ctx is done. With a state
// file, unfinished jobs report no results, because Restore resumes them after a restart.
func (j *Jobs) Stop(ctx context.Context) {
	j.cancel(ErrStopped)
	done := make(chan struct{})
	go func() {
		j.wait.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		j.mu.Lock()
		defer j.mu.Unlock()
		j.log.Warn("jobs did not stop in time", "jobs", j.active)
	}
}
