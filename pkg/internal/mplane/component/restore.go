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

// savedJobs is the content of the state file. The jobs are in the order in which they
// were accepted.
type savedJobs struct {
	Jobs []savedJob `json:"jobs"`
}

// savedJob is a job in the state file. Its messages have the same form as on the wire.
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
	Delivered     bool              `json:"told,omitempty"`
}

// stateFile is the file that preserves jobs across restarts.
type stateFile struct {
	path string
	mu   sync.Mutex // guards the file; must be locked before Jobs.mu
}

// Exception messages for jobs that cannot continue after a restart.
const (
	endedWhileDown       = "The component was down when the scope ended"
	interruptedWhileDown = "Interrupted; the component went down before it had stopped"
)

// resumedKey is the key of a context value that is present only in the contexts of
// resumed jobs.
type resumedKey struct{}

// Resumed reports whether ctx belongs to a job resumed after a restart. Such a job has
// already started once, so a missing resource is probably temporary.
func Resumed(ctx context.Context) bool { return ctx.Value(resumedKey{}) != nil }

// repeatedKey is the key of a context value that is present only in the contexts of runs
// of repeated specifications.
type repeatedKey struct{}

// Repeated reports whether ctx belongs to a run of a repeated specification. The start of
// its scope is the time at which the run was due, and not a time that the client chose.
func Repeated(ctx context.Context) bool { return ctx.Value(repeatedKey{}) != nil }

// Restore restores the jobs from a state file, and makes j save all jobs there from now
// on. Jobs whose scope is not over run again, with the same tokens and owners.
// notify, which may be nil, replaces the notify function of Submit: it is called with
// the receipts of resumed jobs, and with replies that are not marked as delivered.
// Restore must be called before any other method.
//
// With a state file, stopping the component does not end its jobs.
func (j *Jobs) Restore(path string, notify func(mplane.Message)) error {
	var saved savedJobs
	if err := state.Load(path, jobsFormat, &saved); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.file = &stateFile{path: path}
	now := time.Now()
	for _, s := range saved.Jobs {
		b := &job{
			owner: s.Owner, notify: notify, finished: make(chan struct{}), cancel: func(error) {},
			accepted: s.Accepted, started: s.Started, resumed: now, interrupted: s.Interrupted, ended: s.Ended, delivered: s.Delivered,
		}
		service, end := j.restoreJob(s, b, now)
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
		if notify != nil && !b.delivered {
			notify(end)
		}
	}
	return j.save()
}

// restoreJob fills b from s. If the job can continue, restoreJob returns the service that
// runs it. Otherwise, it returns the job's final reply.
func (j *Jobs) restoreJob(s savedJob, b *job, now time.Time) (service Service, end mplane.Message) {
	fail := func(text string) (Service, mplane.Message) {
		return Service{}, &mplane.Exception{Token: s.Token, Message: text}
	}
	m, err := j.registries.Parse(s.Specification)
	spec, ok := m.(*mplane.Statement)
	if err != nil || !ok { // the registries have changed
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
		return fail(interruptedWhileDown)
	case s.Interrupted:
		b.when = spec.When.Anchored(s.Accepted)
		return Service{}, b.finalReply(now)
	case !spec.When.Repeated() && hasEnded(spec, s.Accepted, now):
		return fail(endedWhileDown)
	}
	service, refusal := j.service(spec, s.Owner, s.Accepted)
	if refusal != "" {
		return fail(refusal)
	}
	return service, nil
}

// hasEnded reports whether the scope of spec ended before the given time (the parameter
// now). The parameter accepted is the time that "now" in the scope stands for.
func hasEnded(spec *mplane.Statement, accepted, now time.Time) bool {
	if spec.When.Repeated() {
		_, end := spec.When.Anchored(accepted).Times(accepted)
		return !end.IsZero() && end.Before(now)
	}
	d := spec.When.Delays(accepted)
	return spec.Verb != mplane.Query && !d.Endless && accepted.Add(d.End).Before(now)
}

// suspended reports whether a run of spec, which had the context ctx, ended only because
// the component is stopping. Such a run must continue after a restart. The parameter
// accepted is the time that "now" in the scope stands for.
func (j *Jobs) suspended(ctx context.Context, spec *mplane.Statement, accepted time.Time) bool {
	return j.file != nil && errors.Is(context.Cause(ctx), ErrStopped) && !hasEnded(spec, accepted, time.Now())
}

// isDone reports whether to skip the run of b that has the specification spec and is due
// at the given time. A run that was due before b was resumed is skipped if it already has
// a result, or if its scope ended before b was resumed. Later runs are never skipped.
func (j *Jobs) isDone(b *job, spec *mplane.Statement, at time.Time) bool {
	if !at.Before(b.resumed) {
		return false
	}
	if hasEnded(spec, at, b.resumed) {
		return true
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(b.results, func(m mplane.Message) bool { return m.ID() == spec.ID() })
}

// MarkDelivered records that a job's owner has received the job's reply m.
func (j *Jobs) MarkDelivered(m mplane.Message) {
	j.mu.Lock()
	b, ok := j.jobs[m.ID()]
	changed := ok && b.reply == m && !b.delivered
	if changed {
		b.delivered = true
	}
	j.mu.Unlock()
	if changed {
		j.saveOrLog()
	}
}

// saveOrLog saves the jobs. It logs errors instead of returning them, because the jobs
// can run even if they cannot be saved.
func (j *Jobs) saveOrLog() {
	if err := j.save(); err != nil {
		j.log.Error("specifications not saved, a restart would end them", "err", err)
	}
}

// save writes all jobs to the state file. It does nothing without a state file.
func (j *Jobs) save() error {
	if j.file == nil {
		return nil
	}
	j.file.mu.Lock()
	defer j.file.mu.Unlock()
	j.mu.Lock()
	jobs := make([]job, 0, len(j.jobs))
	for _, b := range j.jobs {
		c := job{
			spec: b.spec, owner: b.owner, accepted: b.accepted, started: b.started, interrupted: b.interrupted,
			results: slices.Clone(b.results), reply: b.reply, ended: b.ended, delivered: b.delivered,
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
	return state.Save(j.file.path, jobsFormat, saved)
}

// saved returns the job in the form that the state file stores.
func (b *job) saved() (s savedJob, err error) {
	s = savedJob{
		Token: b.spec.ID(), Owner: b.owner, Accepted: b.accepted, Started: b.started, Interrupted: b.interrupted,
		Ended: b.ended, Delivered: b.delivered,
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
	// Save only the latest results that fit into one message, because more could not be
	// delivered.
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
