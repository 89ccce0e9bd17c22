package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/registrar"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// stateFormat is the format number of the state file.
const stateFormat = 1

// saved is the content of the state file.
type saved struct {
	Count      int                  `json:"count"`
	Components []registrar.Snapshot `json:"components"`
	Jobs       []savedJob           `json:"jobs"`
}

type savedJob struct {
	Client      string          `json:"client"`
	Component   string          `json:"component"`
	Asked       json.RawMessage `json:"asked"`
	Relayed     json.RawMessage `json:"relayed"`
	Created     time.Time       `json:"created"`
	Accepted    bool            `json:"accepted,omitempty"`
	Interrupted bool            `json:"interrupted,omitempty"`
	Reply       json.RawMessage `json:"reply,omitempty"`
	Ended       time.Time       `json:"ended,omitzero"`
}

// save writes the state if it has changed.
func (s *Supervisor) save() error {
	if s.opt.StateFile == "" {
		return nil
	}
	s.mu.Lock()
	if !s.dirty {
		s.mu.Unlock()
		return nil
	}
	s.dirty = false
	count := s.count
	jobs := make([]job, 0, len(s.relayed))
	for _, b := range s.relayed {
		if !b.delivered { // the client of a delivered job already has the reply
			jobs = append(jobs, *b)
		}
	}
	s.mu.Unlock()
	// Messages are immutable, so they can be written without the lock.
	v, err := s.snapshot(count, jobs)
	if err == nil {
		err = state.Save(s.opt.StateFile, stateFormat, v)
	}
	if err != nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
	}
	return err
}

// snapshot returns the content for the state file: count, jobs, and the registered
// components.
func (s *Supervisor) snapshot(count int, jobs []job) (*saved, error) {
	v := &saved{Count: count}
	var err error
	if v.Components, err = s.registrar.Save(); err != nil {
		return nil, err
	}
	for _, b := range jobs {
		j := savedJob{
			Client: b.client, Component: b.component, Created: b.created,
			Accepted: b.accepted, Interrupted: b.interrupted, Ended: b.ended,
		}
		if j.Asked, err = mplane.Marshal(b.asked); err != nil {
			return nil, err
		}
		if j.Relayed, err = mplane.Marshal(b.relayed); err != nil {
			return nil, err
		}
		if b.reply != nil {
			if j.Reply, err = mplane.Marshal(b.reply); err != nil {
				return nil, err
			}
		}
		v.Jobs = append(v.Jobs, j)
	}
	return v, nil
}

// load loads the state that the previous run of the supervisor saved. It requeues the
// specifications that were not accepted yet, and the interrupts of running jobs.
func (s *Supervisor) load() error {
	if s.opt.StateFile == "" {
		return nil
	}
	var v saved
	if err := state.Load(s.opt.StateFile, stateFormat, &v); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	s.count = v.Count
	if err := s.registrar.Restore(v.Components); err != nil {
		return s.restoreError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range v.Jobs {
		if err := s.restore(j); err != nil {
			return s.restoreError(err)
		}
	}
	return nil
}

// restoreError returns the error for a state file that is intact, but whose content the
// registries do not support. err is the cause.
func (s *Supervisor) restoreError(err error) error {
	return hint.Add(fmt.Errorf("state file %s: %w", s.opt.StateFile, err),
		"name the registries of the last run with `registry`, or remove the state file to forget its jobs")
}

func (s *Supervisor) restore(j savedJob) error {
	b := &job{
		client: j.Client, component: j.Component, created: j.Created, sent: time.Now(),
		accepted: j.Accepted, interrupted: j.Interrupted, ended: j.Ended, acceptance: make(chan struct{}), done: make(chan struct{}),
	}
	for text, dst := range map[*json.RawMessage]**mplane.Statement{&j.Asked: &b.asked, &j.Relayed: &b.relayed} {
		m, err := s.opt.Registries.Parse(*text)
		if err != nil {
			return err
		}
		st, ok := m.(*mplane.Statement)
		if !ok {
			return errors.New("a job has no specification")
		}
		*dst = st
	}
	if len(j.Reply) > 0 {
		m, err := s.opt.Registries.Parse(j.Reply)
		if err != nil {
			return err
		}
		b.reply = m
		b.replyRoom, _ = s.registrar.Room().Reserve(b.component, "", mplane.Size(m), true)
		close(b.done)
	}
	if b.accepted {
		close(b.acceptance)
	}
	b.room, _ = s.registrar.Room().Reserve(b.client, "", jobSize(b), true)
	s.insert(b)
	if b.reply != nil {
		return nil
	}
	// An error means that the component is absent. If the component does not return,
	// checkJob ends the job.
	if !b.accepted {
		_ = s.registrar.Queue(b.component, b.relayed)
	} else if b.interrupted {
		b.stopping = b.relayed.Notice(mplane.Interrupt)
		_ = s.registrar.Queue(b.component, b.stopping)
	}
	return nil
}
