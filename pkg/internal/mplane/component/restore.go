package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// jobsFormat is the format number of the state file.
const jobsFormat = 1

// savedJobs are what a component must not forget, in the order in which they
// were accepted.
type savedJobs struct {
	Jobs []savedJob `json:"jobs"`
}

// savedJob is a specification. Messages are as on the wire.
type savedJob struct {
	Token         string            `json:"token"`
	Specification json.RawMessage   `json:"specification"`
	Owner         string            `json:"owner"`
	Accepted      time.Time         `json:"accepted"`
	Started       time.Time         `json:"started,omitzero"`
	Interrupted   bool              `json:"interrupted,omitempty"`
	Results       []json.RawMessage `json:"results,omitempty"`
	Reply         json.RawMessage   `json:"reply,omitempty"`
	Ended         time.Time         `json:"ended,omitzero"`
	Told          bool              `json:"told,omitempty"`
}

// keeper saves jobs.
type keeper struct {
	path string
	mu   sync.Mutex // of the file; taken before Jobs.mu
}

// Texts of exceptions for jobs that cannot continue after a restart.
const (
	endedMeanwhile = "The component was down when the scope ended"
	neverStopped   = "Interrupted; the component went down before it had stopped"
)

// resumedKey is the key of the context value that marks a resumed job.
type resumedKey struct{}

// Resumed reports whether the context belongs to a job resumed after a restart.
// The job started once before, so a missing resource is probably temporary.
func Resumed(ctx context.Context) bool { return ctx.Value(resumedKey{}) != nil }

// Restore keeps the jobs in a state file from now on, and takes those back
// that it has: so they survive the process. Jobs whose scope is not over are
// run again, with their tokens and for who asked. notify is what Submit had:
// it gets the receipts of these and the replies that Told was not called for;
// nil: nobody waits for them. To be called before anything else.
//
// With a state file, the end of the component does not end jobs.
func (j *Jobs) Restore(path string, notify func(mplane.Message)) error {
	var saved savedJobs
	if err := state.Load(path, jobsFormat, &saved); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.keep = &keeper{path: path}
	now := time.Now()
	for _, s := range saved.Jobs {
		b := &job{
			owner: s.Owner, notify: notify, finished: make(chan struct{}), cancel: func(error) {},
			accepted: s.Accepted, started: s.Started, resumed: now, interrupted: s.Interrupted, ended: s.Ended, told: s.Told,
		}
		service, end := j.take(s, b, now)
		j.jobs[s.Token] = b
		if end == nil {
			if notify != nil {
				notify(b.spec.Notice(mplane.Receipt))
			}
			j.log.Info("specification resumed after a restart", "specification", b.spec.Label, "token", s.Token)
			j.active++
			b.ctx, b.cancel = context.WithCancelCause(context.WithValue(j.ctx, resumedKey{}, true))
			j.start(b, service)
			continue
		}
		if b.reply = end; b.ended.IsZero() {
			b.ended = now
			j.log.Warn("specification not resumed after a restart", "token", s.Token, "reply", end.Show())
		}
		close(b.finished)
		if notify != nil && !b.told {
			notify(end)
		}
	}
	return j.save()
}

// take reads a saved job into b. It returns the service to run it with, or its
// reply if it has ended.
func (j *Jobs) take(s savedJob, b *job, now time.Time) (service Service, end mplane.Message) {
	fail := func(text string) (Service, mplane.Message) {
		return Service{}, &mplane.Exception{Token: s.Token, Message: text}
	}
	m, err := j.registries.Parse(s.Specification)
	spec, ok := m.(*mplane.Statement)
	if err != nil || !ok { // a registry has changed
		b.spec = &mplane.Statement{Kind: mplane.Specification, Token: s.Token}
		return fail(fmt.Sprintf("The specification is not understood any more: %v", err))
	}
	b.spec = spec
	b.spec.Token = s.Token
	if s.Reply != nil {
		if m, err = j.registries.Parse(s.Reply); err != nil {
			return fail(fmt.Sprintf("The result is not understood any more: %v", err))
		}
		return Service{}, m
	}
	for _, text := range s.Results {
		if m, err := j.registries.Parse(text); err == nil {
			b.results = append(b.results, m)
		}
	}
	switch {
	case s.Interrupted && !spec.When.Repeated():
		return fail(neverStopped)
	case s.Interrupted:
		b.when = spec.When.Anchored(s.Accepted)
		return Service{}, b.final(now)
	case !spec.When.Repeated() && over(spec, s.Accepted, now):
		return fail(endedMeanwhile)
	}
	service, refusal := j.service(spec, s.Owner, s.Accepted)
	if refusal != "" {
		return fail(refusal)
	}
	return service, nil
}

// over reports whether the scope of a specification accepted at a time has
// ended.
func over(spec *mplane.Statement, accepted, now time.Time) bool {
	if spec.When.Repeated() {
		_, end := spec.When.Anchored(accepted).Times(accepted)
		return !end.IsZero() && end.Before(now)
	}
	d := spec.When.Delays(accepted)
	return spec.Verb != mplane.Query && !d.Endless && accepted.Add(d.End).Before(now)
}

// suspended reports whether a run ended because the component stops, and must
// continue after a restart.
func (j *Jobs) suspended(ctx context.Context, spec *mplane.Statement, accepted time.Time) bool {
	return j.keep != nil && errors.Is(context.Cause(ctx), ErrStopped) && !over(spec, accepted, time.Now())
}

// done reports whether a run of a resumed repeated specification already has
// its result, or can no longer have one.
func (j *Jobs) done(b *job, spec *mplane.Statement, at time.Time) bool {
	if !at.Before(b.resumed) {
		return false
	}
	if over(spec, at, b.resumed) {
		return true
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(b.results, func(m mplane.Message) bool { return m.ID() == spec.ID() })
}

// Told records that the reply to a job has reached its owner.
func (j *Jobs) Told(m mplane.Message) {
	j.mu.Lock()
	b, ok := j.jobs[m.ID()]
	changed := ok && b.reply == m && !b.told
	if changed {
		b.told = true
	}
	j.mu.Unlock()
	if changed {
		j.saveOrTell()
	}
}

// saveOrTell saves the jobs, or logs the error: the jobs run all the same.
func (j *Jobs) saveOrTell() {
	if err := j.save(); err != nil {
		j.log.Error("specifications not saved, a restart would end them", "err", err)
	}
}

// save writes the state file, if there is one.
func (j *Jobs) save() error {
	if j.keep == nil {
		return nil
	}
	j.keep.mu.Lock()
	defer j.keep.mu.Unlock()
	j.mu.Lock()
	jobs := make([]job, 0, len(j.jobs))
	for _, b := range j.jobs {
		c := job{
			spec: b.spec, owner: b.owner, accepted: b.accepted, started: b.started, interrupted: b.interrupted,
			results: slices.Clone(b.results), reply: b.reply, ended: b.ended, told: b.told,
		}
		jobs = append(jobs, c)
	}
	j.mu.Unlock()
	slices.SortFunc(jobs, func(a, b job) int { return a.accepted.Compare(b.accepted) })
	var saved savedJobs
	for i := range jobs {
		s, err := jobs[i].saved()
		if err != nil {
			return fmt.Errorf("specification %s: %w", jobs[i].spec.ID(), err)
		}
		saved.Jobs = append(saved.Jobs, s)
	}
	return state.Save(j.keep.path, jobsFormat, saved)
}

// saved returns the saved form of a job.
func (b *job) saved() (s savedJob, err error) {
	s = savedJob{
		Token: b.spec.ID(), Owner: b.owner, Accepted: b.accepted, Started: b.started, Interrupted: b.interrupted,
		Ended: b.ended, Told: b.told,
	}
	spec := *b.spec
	spec.Token = s.Token
	if s.Specification, err = mplane.Marshal(&spec); err != nil {
		return s, err
	}
	if b.reply != nil {
		s.Reply, err = mplane.Marshal(b.reply)
		return s, err
	}
	// As many as fit into one message, because more could not be delivered.
	size := 0
	for _, m := range slices.Backward(b.results) {
		text, err := mplane.Marshal(m)
		if err != nil {
			return s, err
		}
		if size += len(text); size > mplane.MaxMessage {
			break
		}
		s.Results = append(s.Results, text)
	}
	slices.Reverse(s.Results)
	return s, nil
}
