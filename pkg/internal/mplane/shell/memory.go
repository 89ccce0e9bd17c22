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

// memoryFormat is the number of the format of the state file.
const memoryFormat = 1

// Limits of what is remembered; the oldest goes first.
const (
	maxRemembered      = 1000
	maxRememberedBytes = 32 << 20 // the newest is kept, however large
)

// Memory keeps receipts and results in the state folder, so that a later call
// can ask for them. A supervisor of the RI gives a result away only once.
type Memory struct {
	Dir        string // the state folder
	Registries *mplane.Registries
}

// Job is what is known of a specification.
type Job struct {
	Token, Label string
	Message      mplane.Message // receipt, result, envelope or exception
	// Receipt is what to redeem for the results that an envelope lacks; nil if
	// it lacks none.
	Receipt *mplane.Statement
	// Until is when the last of them must have come; zero: never.
	Until time.Time
}

// late is how much later than their runs results may come.
const late = time.Minute

// Pending reports whether more can come of a job: the result of a receipt, or
// further results for an envelope.
func (j *Job) Pending() bool {
	s, ok := j.Message.(*mplane.Statement)
	return ok && s.Kind == mplane.Receipt || j.Receipt != nil
}

// reply takes the answer to a message of kind k that was sent at the time
// sent. An envelope may have the results of the runs so far only, and does not
// say so; the end of one that was interrupted is when that was, and no later
// runs are to be expected.
func (j *Job) reply(m mplane.Message, k mplane.Kind, receipt *mplane.Statement, sent time.Time) {
	j.Message, j.Receipt = m, nil
	until := func(t time.Time) {
		if j.Until.IsZero() || t.Before(j.Until) {
			j.Until = t
		}
	}
	if k == mplane.Interrupt {
		until(sent.Add(late))
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
		until(end.Add(length + late))
	}
	if runs > len(e.Messages) && (j.Until.IsZero() || sent.Before(j.Until)) {
		j.Receipt = receipt
	}
}

// remembered is a job in the state file.
type remembered struct {
	Supervisor string          `json:"supervisor"`
	Token      string          `json:"token"`
	Label      string          `json:"label"`
	Message    json.RawMessage `json:"message"`
	Receipt    json.RawMessage `json:"receipt,omitempty"`
	Until      time.Time       `json:"until,omitzero"`
}

func (m *Memory) path() string { return filepath.Join(m.Dir, "runcap.state") }

func (m *Memory) load() ([]remembered, error) {
	var list []remembered
	err := state.Load(m.path(), memoryFormat, &list)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return list, err
}

// Put remembers the state of a job at a supervisor.
func (m *Memory) Put(supervisor string, j Job) error {
	text, err := mplane.Marshal(j.Message)
	if err != nil {
		return err
	}
	r := remembered{supervisor, j.Token, j.Label, text, nil, j.Until}
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
	if i := slices.IndexFunc(list, func(e remembered) bool { return e.Supervisor == supervisor && e.Token == j.Token }); i >= 0 {
		list[i] = r
	} else {
		list = append(list, r)
	}
	return state.Save(m.path(), memoryFormat, newest(list))
}

// newest returns the end of list that is within the limits.
func newest(list []remembered) []remembered {
	first, size := len(list), 0
	for first > 0 && len(list)-first < maxRemembered {
		if size += len(list[first-1].Message) + len(list[first-1].Receipt); size > maxRememberedBytes && first < len(list) {
			break
		}
		first--
	}
	return list[first:]
}

// lock waits for other calls that write: they are done in a moment.
func (m *Memory) lock() (unlock func(), err error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		unlock, err = state.Lock(m.Dir, m.path())
		if !errors.Is(err, state.ErrLocked) || time.Now().After(deadline) {
			return unlock, err
		}
	}
}

// Jobs returns what is known of a supervisor's jobs, the oldest first.
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
		// Elements of a registry that this call does not know cannot be shown.
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

// Labels returns the labels of a supervisor's jobs.
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

// Forget drops the jobs of a supervisor.
func (m *Memory) Forget(supervisor string) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	list, err := m.load()
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(r remembered) bool { return r.Supervisor == supervisor })
	return state.Save(m.path(), memoryFormat, list)
}
