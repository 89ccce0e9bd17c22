package shell

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/state"
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
	// Receipt is what to redeem while an envelope has not all results; nil if
	// it is not known.
	Receipt *mplane.Statement
}

// Pending tells whether more can come of a job: the result of a receipt, or
// results for an envelope until the end of its scope and of the run that was
// started last.
func (j Job) Pending(now time.Time) bool {
	switch m := j.Message.(type) {
	case *mplane.Statement:
		return m.Kind == mplane.Receipt
	case *mplane.Envelope:
		start, end := m.When.Times(now)
		if j.Receipt != nil {
			for at, run := range j.Receipt.When.Occurrences(start) {
				length, _ := run.Duration(at)
				return end.IsZero() || now.Before(end.Add(length))
			}
		}
		return end.IsZero() || now.Before(end)
	}
	return false
}

// remembered is a job in the state file.
type remembered struct {
	Supervisor string          `json:"supervisor"`
	Token      string          `json:"token"`
	Label      string          `json:"label"`
	Message    json.RawMessage `json:"message"`
	Receipt    json.RawMessage `json:"receipt,omitempty"`
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
	r := remembered{supervisor, j.Token, j.Label, text, nil}
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
		// What is of a registry that this call does not know cannot be shown.
		msg, err := m.Registries.Parse(r.Message)
		if err != nil {
			continue
		}
		j := Job{Token: r.Token, Label: r.Label, Message: msg}
		if receipt, err := m.Registries.Parse(r.Receipt); err == nil {
			j.Receipt, _ = receipt.(*mplane.Statement)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
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
