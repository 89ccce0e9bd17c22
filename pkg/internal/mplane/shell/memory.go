package shell

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// memoryFormat is the format number of the state file.
const memoryFormat = 1

// Limits on the saved jobs. The oldest jobs are dropped first.
const (
	maxSaved      = 1000
	maxSavedBytes = 32 << 20 // the newest job is kept even if it is larger
)

// Memory saves receipts and results in the state folder, where later runs of the program
// can read them. Results must be saved, because an RI supervisor delivers each one only
// once.
type Memory struct {
	Dir        string // the state folder
	Registries *mplane.Registries
}

// Job is a job that a specification started, with its last known state.
type Job struct {
	Token, Label string
	Message      mplane.Message // receipt, result, envelope or exception
	// Receipt is the receipt for requesting the results that the envelope in Message
	// still lacks. It is nil if no more results are expected.
	Receipt *mplane.Statement
	// Until is the deadline for the missing results, or zero without a deadline.
	Until time.Time
}

// grace is how long after the end of a run the result of that run may still arrive.
const grace = time.Minute

// Pending reports whether the supervisor may still send messages for the job. It returns
// true if the last message is a receipt, or an envelope that lacks results.
func (j *Job) Pending() bool {
	s, ok := j.Message.(*mplane.Statement)
	return ok && s.Kind == mplane.Receipt || j.Receipt != nil
}

// reply updates j with m, the response to a message of kind k that was sent at the given
// time. An envelope does not say whether it is complete, so reply compares the number of
// messages in the envelope with the number of runs in the scope of the receipt. If
// results are missing and may still arrive, reply sets j.Receipt. No run starts after an
// interrupt, so an interrupt limits j.Until to sent + grace.
func (j *Job) reply(m mplane.Message, k mplane.Kind, receipt *mplane.Statement, sent time.Time) {
	j.Message, j.Receipt = m, nil
	until := func(t time.Time) {
		if j.Until.IsZero() || t.Before(j.Until) {
			j.Until = t
		}
	}
	if k == mplane.Interrupt {
		until(sent.Add(grace))
	}
	e, ok := m.(*mplane.Envelope)
	if !ok {
		return
	}
	start, end := e.When.Times(sent)
	runs, length := 0, time.Duration(0)
	for at, run := range receipt.When.Occurrences(start) {
		if !end.IsZero() && at.After(end) {
			break
		}
		length, _ = run.Duration(at)
		if runs++; runs > len(e.Messages) {
			break
		}
	}
	if !end.IsZero() {
		until(end.Add(length + grace))
	}
	if runs > len(e.Messages) && (j.Until.IsZero() || sent.Before(j.Until)) {
		j.Receipt = receipt
	}
}

// savedJob is a job in the state file.
type savedJob struct {
	Supervisor string          `json:"supervisor"`
	Token      string          `json:"token"`
	Label      string          `json:"label"`
	Message    json.RawMessage `json:"message"`
	Receipt    json.RawMessage `json:"receipt,omitempty"`
	Until      time.Time       `json:"until,omitzero"`
}

func (m *Memory) path() string { return filepath.Join(m.Dir, "runcap.state") }

func (m *Memory) load() ([]savedJob, error) {
	var list []savedJob
	err := state.Load(m.path(), memoryFormat, &list)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return list, err
}

// Put saves the state of j, a job of the given supervisor.
func (m *Memory) Put(supervisor string, j Job) error {
	text, err := mplane.Marshal(j.Message)
	if err != nil {
		return err
	}
	r := savedJob{supervisor, j.Token, j.Label, text, nil, j.Until}
	if j.Receipt != nil {
		if r.Receipt, err = mplane.Marshal(j.Receipt); err != nil {
			return err
		}
	}
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	list, err := m.load()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(list, func(e savedJob) bool { return e.Supervisor == supervisor && e.Token == j.Token }); i >= 0 {
		list[i] = r
	} else {
		list = append(list, r)
	}
	return state.Save(m.path(), memoryFormat, newest(list))
}

// newest returns as many jobs from the end of list as maxSaved and maxSavedBytes allow.
func newest(list []savedJob) []savedJob {
	first, size := len(list), 0
	for first > 0 && len(list)-first < maxSaved {
		if size += len(list[first-1].Message) + len(list[first-1].Receipt); size > maxSavedBytes && first < len(list) {
			break
		}
		first--
	}
	return list[first:]
}

// lock locks the state file. It waits up to 5 s for other processes, which only hold
// the lock briefly.
func (m *Memory) lock() (unlock func(), err error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		unlock, err = state.Lock(m.Dir, m.path())
		if !errors.Is(err, state.ErrLocked) || time.Now().After(deadline) {
			return unlock, err
		}
	}
}

// Jobs returns a supervisor's saved jobs, oldest first.
func (m *Memory) Jobs(supervisor string) ([]Job, error) {
	list, err := m.load()
	if err != nil {
		return nil, err
	}
	var jobs []Job
	for _, r := range list {
		if r.Supervisor != supervisor {
			continue
		}
		// Skip messages with elements from an unknown registry, because they cannot be
		// shown.
		msg, err := m.Registries.Parse(r.Message)
		if err != nil {
			continue
		}
		j := Job{Token: r.Token, Label: r.Label, Message: msg, Until: r.Until}
		if receipt, err := m.Registries.Parse(r.Receipt); err == nil {
			j.Receipt, _ = receipt.(*mplane.Statement)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// Labels returns the labels of a supervisor's saved jobs.
func (m *Memory) Labels(supervisor string) ([]string, error) {
	list, err := m.load()
	if err != nil {
		return nil, err
	}
	var labels []string
	for _, r := range list {
		if r.Supervisor == supervisor {
			labels = append(labels, r.Label)
		}
	}
	return labels, nil
}

// Forget removes a supervisor's saved jobs.
func (m *Memory) Forget(supervisor string) error {
	return m.remove(func(r savedJob) bool { return r.Supervisor == supervisor })
}

// Remove removes a supervisor's job with the given token.
func (m *Memory) Remove(supervisor, token string) error {
	return m.remove(func(r savedJob) bool { return r.Supervisor == supervisor && r.Token == token })
}

func (m *Memory) remove(selected func(savedJob) bool) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	list, err := m.load()
	if err != nil {
		return err
	}
	return state.Save(m.path(), memoryFormat, slices.DeleteFunc(list, selected))
}
