package component

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// restored returns Jobs with a restored state file. notify is called with messages for
// owners.
func restored(t *testing.T, file string, notify func(mplane.Message), f run) *Jobs {
	t.Helper()
	j := newJobs(t, nil, Limits{}, f)
	if err := j.Restore(file, notify); err != nil {
		t.Fatal(err)
	}
	return j
}

func stop(t *testing.T, j *Jobs) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if j.Stop(ctx); ctx.Err() != nil {
		t.Fatal("jobs do not stop")
	}
}

// untilStop returns a run function that sends the value of Resumed to runs when it
// starts.
func untilStop(runs chan<- bool) run {
	return func(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
		runs <- Resumed(ctx)
		<-ctx.Done()
		return [][]string{{"1"}}, nil
	}
}

// TestRestoreResumesJob checks that a job continues after a restart for the same owner,
// and that its result has the original start.
func TestRestoreResumesJob(t *testing.T) {
	file := filepath.Join(t.TempDir(), "component.state")
	runs := make(chan bool, 1)
	j := restored(t, file, nil, untilStop(runs))
	before := time.Now()
	token, _ := submit(t, j, "now ... future")
	if <-runs {
		t.Error("it is not resumed")
	}
	after := time.Now()
	for range 3 {
		stop(t, j)
		if m, ok := j.State(token, "ann").(*mplane.Statement); !ok || m.Kind != mplane.Receipt {
			t.Errorf("the end of the component ended the job: %v", m)
		}
		var replies []mplane.Message
		j = restored(t, file, func(m mplane.Message) { replies = append(replies, m) }, untilStop(runs))
		if !<-runs {
			t.Error("it is resumed")
		}
		if len(replies) != 1 || replies[0].(*mplane.Statement).Kind != mplane.Receipt || replies[0].(*mplane.Statement).ID() != token {
			t.Errorf("replies %v", replies)
		}
	}
	if got := message(j.State(token, "bob")); got != UnknownJob {
		t.Error(got)
	}
	j.Interrupt(token, "ann")
	m := wait(t, j, token).(*mplane.Statement)
	start, end := m.When.Times(time.Time{})
	if m.Kind != mplane.Result || len(m.Rows) != 1 || start.Before(before.Truncate(time.Microsecond)) || start.After(after) || end.Before(after) {
		t.Errorf("%s, begun between %s and %s", m.Show(), before, after)
	}
}

// TestUndeliveredReplyIsResent checks that a restart resends a reply until it is
// delivered.
func TestUndeliveredReplyIsResent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "component.state")
	ends := func(context.Context, *mplane.Statement) ([][]string, error) { return nil, errors.New("failed") }
	never := func(context.Context, *mplane.Statement) ([][]string, error) {
		t.Error("it runs again")
		return nil, nil
	}
	j := restored(t, file, nil, ends)
	token, _ := submit(t, j, "now")
	wait(t, j, token)
	stop(t, j)
	for i := range 4 {
		var replies []mplane.Message
		j := restored(t, file, func(m mplane.Message) { replies = append(replies, m) }, never)
		if want := 1; i < 3 {
			if len(replies) != want || message(replies[0]) != "failed" || message(j.State(token, "ann")) != "failed" {
				t.Fatalf("replies %v", replies)
			}
		} else if len(replies) != 0 {
			t.Errorf("replies again: %v", replies)
		}
		if i == 2 {
			j.MarkDelivered(replies[0])
		}
		stop(t, j)
	}
}

// TestUnresumableJobFails checks that jobs that cannot continue get a reply with the
// reason.
func TestUnresumableJobFails(t *testing.T) {
	spec := func(label, element, when string) string {
		return fmt.Sprintf(`{"specification": "measure", "version": 1, "label": "%s", "registry": "%s", "token": "t", "when": "%s",
			"parameters": {"%s": "a:1"}, "results": ["rrdValue"]}`, label, mplane.TstatRegistry, when, element)
	}
	for _, c := range []struct {
		job  savedJob
		want string
	}{
		{savedJob{Specification: json.RawMessage(spec("x-0", "repository.url", "now + 1h"))}, endedWhileDown},
		{savedJob{Specification: json.RawMessage(spec("x-0", "repository.url", "now ... future")), Interrupted: true}, interruptedWhileDown},
		{savedJob{Specification: json.RawMessage(spec("x-0", "log.folder", "now ... future"))}, NoService},
		{savedJob{Specification: json.RawMessage(spec("x-0", "no.such.element", "now ... future"))}, "is not understood any more"},
		{savedJob{Specification: json.RawMessage(spec("x-0", "repository.url", "now + 1h")), Reply: json.RawMessage(`{"result": 1}`), Ended: time.Now()}, "is not understood any more"},
		{savedJob{Specification: json.RawMessage(spec("x-0", "repository.url", "repeat now + 1h / 10m")), Interrupted: true}, "There was no run"},
		{savedJob{Specification: json.RawMessage(spec("x-0", "repository.url", "repeat now + 1h / 10m"))}, "There was no run"},
	} {
		file := filepath.Join(t.TempDir(), "component.state")
		c.job.Token, c.job.Owner, c.job.Accepted = "t", "ann", time.Now().Add(-2*time.Hour)
		if err := state.Save(file, jobsFormat, savedJobs{[]savedJob{c.job}}); err != nil {
			t.Fatal(err)
		}
		j := restored(t, file, func(mplane.Message) {}, func(context.Context, *mplane.Statement) ([][]string, error) {
			t.Errorf("%s: it runs", c.want)
			return nil, nil
		})
		if got := message(wait(t, j, "t")); !strings.Contains(got, c.want) {
			t.Errorf("%s, want %s", got, c.want)
		}
		stop(t, j)
	}
}

// TestDamagedStateFile checks that a damaged state file is an error, not an empty
// state.
func TestDamagedStateFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "component.state")
	if err := os.WriteFile(file, []byte("rubbish"), 0o644); err != nil {
		t.Fatal(err)
	}
	j := newJobs(t, nil, Limits{}, nil)
	err := j.Restore(file, nil)
	if !strings.Contains(hint.Of(err), "backup") {
		t.Error(err)
	}
	c, err := New(Options{StateFile: file, Registries: j.registries, Supervisor: wire.Dialer{URL: "http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !strings.Contains(hint.Of(err), "backup") {
		t.Error(err)
	}
}

// TestRestoreRepeated checks that a restart does not repeat finished runs, repeats the
// interrupted run, and continues with future runs.
func TestRestoreRepeated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "component.state")
	var mu sync.Mutex
	var runs []string
	began := make(chan bool, 100)
	f := func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
		mu.Lock()
		runs = append(runs, spec.When.String())
		mu.Unlock()
		began <- true
		<-ctx.Done()
		return [][]string{{"1"}}, nil
	}
	j := restored(t, file, nil, f)
	token, _ := submit(t, j, "repeat now + 1h / 59m { now + 1s }")
	<-began
	results := func() int {
		if e, ok := j.State(token, "ann").(*mplane.Envelope); ok {
			return len(e.Messages)
		}
		return 0
	}
	for deadline := time.Now().Add(20 * time.Second); results() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no result of the first run")
		}
	}
	stop(t, j)
	j = restored(t, file, nil, f)
	if results() != 1 {
		t.Errorf("%d results of the first run", results())
	}
	cut, _ := submit(t, j, "repeat now + 1h / 59m { now + 50m }")
	<-began
	stop(t, j)
	j = restored(t, file, nil, f)
	<-began
	mu.Lock()
	if len(runs) != 3 || runs[1] != runs[2] || runs[0] == runs[1] {
		t.Errorf("runs %q", runs)
	}
	mu.Unlock()
	j.Interrupt(cut, "ann")
	if e, ok := wait(t, j, cut).(*mplane.Envelope); !ok || len(e.Messages) != 1 {
		t.Errorf("%+v", e)
	}
	j.Interrupt(token, "ann")
	if e, ok := wait(t, j, token).(*mplane.Envelope); !ok || len(e.Messages) != 1 {
		t.Errorf("%+v", e)
	}
}

// site is a supervisor that delivers queued messages and records replies.
type site struct {
	mu      sync.Mutex
	away    bool
	queue   []mplane.Message
	replies []mplane.Message
	reg     *mplane.Registries
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil || s.away:
		wire.Fail(w, http.StatusServiceUnavailable)
		if hijack, _, err := http.NewResponseController(w).Hijack(); err == nil {
			hijack.Close() // simulate an unreachable supervisor
		}
	case r.URL.Path == wire.CapabilityPath:
		wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{}"))
	case r.URL.Path == wire.SpecificationPath:
		wire.Write(w, http.StatusOK, &mplane.Envelope{Messages: s.queue})
		s.queue = nil
	case r.URL.Path == wire.ResultPath:
		if m, err := s.reg.Parse(body); err == nil {
			s.replies = append(s.replies, m)
		}
		wire.Answer(w, http.StatusOK, wire.HTML, nil)
	}
}

// count returns the number of replies of a kind.
func (s *site) count(k mplane.Kind) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.replies {
		if m, ok := m.(*mplane.Statement); ok && m.Kind == k {
			n++
		}
	}
	return n
}

// TestMain runs the test binary as a component if TEST_COMPONENT is set.
func TestMain(m *testing.M) {
	if url := os.Getenv("TEST_COMPONENT"); url != "" {
		fmt.Fprintln(os.Stderr, child(url, os.Getenv("TEST_STATE"), os.Getenv("TEST_RUNS")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func child(url, file, runs string) error {
	reg, err := mplane.NewRegistries()
	if err != nil {
		return err
	}
	m, err := reg.Parse([]byte(`{"capability": "measure", "label": "x", "registry": "` + mplane.TstatRegistry + `",
		"when": "past ... future", "parameters": {"repository.url": "*"}, "results": ["rrdValue"]}`))
	if err != nil {
		return err
	}
	c, err := New(Options{
		Registries: reg, Supervisor: wire.Dialer{URL: url}, Poll: 20 * time.Millisecond, StateFile: file,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Services: []Service{{m.(*mplane.Statement), func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
			f, err := os.OpenFile(runs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			if err != nil {
				return nil, err
			}
			fmt.Fprintln(f, spec.ID(), Resumed(ctx))
			f.Close()
			<-ctx.Done()
			return [][]string{{"1"}}, nil
		}}},
	})
	if err != nil {
		return err
	}
	return c.Run(context.Background())
}

// TestComponentSurvivesKill checks that a killed component resumes its specifications,
// and delivers its results when the supervisor is reachable again.
func TestComponentSurvivesKill(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{reg: reg}
	server := httptest.NewServer(s)
	defer server.Close()
	dir := t.TempDir()
	runs := filepath.Join(dir, "runs")
	start := func() (kill func()) {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TEST_COMPONENT="+server.URL, "TEST_STATE="+filepath.Join(dir, "state"), "TEST_RUNS="+runs)
		var log strings.Builder
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		kill = func() {
			once.Do(func() {
				cmd.Process.Kill()
				cmd.Wait() // returns an error because of the kill
			})
		}
		t.Cleanup(func() {
			kill()
			if t.Failed() {
				t.Log(log.String())
			}
		})
		return kill
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("timeout: no %s", what)
			}
		}
	}
	lines := func() int {
		text, _ := os.ReadFile(runs) // the file may not exist yet
		return strings.Count(string(text), "\n")
	}
	j := newJobs(t, nil, Limits{}, nil)
	spec := j.services[0].Capability.Specification()
	spec.Label = "x-0"
	if spec.When, err = mplane.ParseScope("now + inf"); err == nil {
		err = spec.SetParameter("repository.url", "a:1")
	}
	if err != nil {
		t.Fatal(err)
	}
	spec.SetToken()
	link := ""
	spec.Link = &link
	give := func(m mplane.Message) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.queue = append(s.queue, m)
	}
	kill := start()
	give(spec)
	const rounds = 5
	for i := range rounds {
		until("a run", func() bool { return lines() == i+1 })
		until("a receipt", func() bool { return s.count(mplane.Receipt) > i })
		kill()
		kill = start()
	}
	until("a run", func() bool { return lines() == rounds+1 })
	// Kill the component when it has a result and the supervisor is unreachable.
	interrupt := spec.Notice(mplane.Interrupt)
	give(interrupt)
	until("delivered interrupt", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.queue) == 0 {
			s.away = true
			return true
		}
		return false
	})
	until("saved result", func() bool {
		var saved savedJobs
		return state.Load(filepath.Join(dir, "state"), jobsFormat, &saved) == nil && saved.Jobs[0].Reply != nil
	})
	kill()
	s.mu.Lock()
	s.away = false
	s.mu.Unlock()
	kill = start()
	until("result", func() bool { return s.count(mplane.Result) >= 1 })
	until("delivered result", func() bool {
		var saved savedJobs
		return state.Load(filepath.Join(dir, "state"), jobsFormat, &saved) == nil && saved.Jobs[0].Delivered
	})
	kill()
	results := s.count(mplane.Result)
	kill = start()
	receipts := s.count(mplane.Receipt)
	give(spec) // a repeated request gets the receipt and the result, and starts no job
	until("a receipt", func() bool { return s.count(mplane.Receipt) > receipts })
	until("the result again", func() bool { return s.count(mplane.Result) > results })
	kill()
	if s.count(mplane.Result) != results+1 || lines() != rounds+1 {
		t.Errorf("%d results, before %d; %d runs", s.count(mplane.Result), results, lines())
	}
}
