package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// run is the function of a service.
type run = func(context.Context, *mplane.Statement) ([][]string, error)

func newJobs(t *testing.T, roles *mplane.Roles, limits Limits, f run) *Jobs {
	t.Helper()
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	m, err := reg.Parse([]byte(`{"capability": "measure", "label": "x", "registry": "` + mplane.TstatRegistry + `",
		"when": "past ... future", "parameters": {"repository.url": "*"}, "results": ["rrdValue"]}`))
	if err != nil {
		t.Fatal(err)
	}
	j := NewJobs([]Service{{m.(*mplane.Statement), f}}, reg, roles, limits, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		j.Stop(ctx)
	})
	return j
}

// specify returns a specification of the capability.
func specify(t *testing.T, j *Jobs, when string) *mplane.Statement {
	t.Helper()
	spec := j.services[0].Capability.Specification()
	spec.Label = "x-0"
	var err error
	if spec.When, err = mplane.ParseScope(when); err == nil {
		err = spec.SetParameter("repository.url", "a:1")
	}
	if err != nil {
		t.Fatal(err)
	}
	spec.SetToken()
	return spec
}

// submit submits a specification with a scope and returns its token and the response.
func submit(t *testing.T, j *Jobs, when string) (token string, answer mplane.Message) {
	t.Helper()
	spec := specify(t, j, when)
	return spec.Token, j.Submit(spec, "ann", nil, nil)
}

// wait waits for a job to end and returns its reply.
func wait(t *testing.T, j *Jobs, token string) mplane.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	j.Wait(ctx, token)
	m := j.State(token, "ann")
	if s, ok := m.(*mplane.Statement); ok && s.Kind == mplane.Receipt {
		t.Fatal("it does not end")
	}
	return m
}

func message(m mplane.Message) string {
	if e, ok := m.(*mplane.Exception); ok {
		return e.Message
	}
	return fmt.Sprintf("%T", m)
}

// TestContextCauseTellsWhyJobEnds checks the cause of the context's end that a service
// sees.
func TestContextCauseTellsWhyJobEnds(t *testing.T) {
	j := newJobs(t, nil, Limits{}, func(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	ended, _ := submit(t, j, "now + 0s")
	if got := message(wait(t, j, ended)); got != ErrScopeEnd.Error() {
		t.Error(got)
	}
	interrupted, _ := submit(t, j, "now ... future")
	j.Interrupt(interrupted, "bob") // bob does not own the job
	j.Interrupt(interrupted, "ann")
	if got := message(wait(t, j, interrupted)); got != ErrInterrupted.Error() {
		t.Error(got)
	}
	later, _ := submit(t, j, "2999-01-01 + 1h")
	j.Interrupt(later, "ann")
	if got := message(wait(t, j, later)); !strings.Contains(got, "before its start") {
		t.Error(got)
	}
	stopped, _ := submit(t, j, "now ... future")
	j.Stop(t.Context())
	if got := message(wait(t, j, stopped)); got != ErrStopped.Error() {
		t.Error(got)
	}
	if _, answer := submit(t, j, "now"); message(answer) != "The component stops" {
		t.Error(message(answer))
	}
}

// TestSubmitRefusesImpossibleJobs checks that Submit refuses specifications that cannot
// run.
func TestSubmitRefusesImpossibleJobs(t *testing.T) {
	roles := new(mplane.Roles)
	roles.Grant("x", "guest")
	roles.Assign("ann", "guest")
	j := newJobs(t, roles, Limits{Jobs: 1}, func(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
		<-ctx.Done()
		return [][]string{{"no number"}}, nil
	})
	if _, answer := submit(t, j, "2001-01-01 ... 2001-01-02"); !strings.Contains(message(answer), "is over") {
		t.Error(message(answer))
	}
	roles.Assign("ann", "")
	if _, answer := submit(t, j, "now"); message(answer) != NoPermission {
		t.Error(message(answer))
	}
	roles.Assign("ann", "guest")
	token, _ := submit(t, j, "now ... future")
	if _, answer := submit(t, j, "now"); !strings.Contains(message(answer), "Too many jobs") {
		t.Error(message(answer))
	}
	j.Interrupt(token, "ann")
	// Peers could not read this result.
	if got := message(wait(t, j, token)); !strings.Contains(got, "not a number") {
		t.Error(got)
	}
	other := j.services[0].Capability.Specification()
	other.Results = nil
	if got := message(j.Submit(other, "ann", nil, nil)); got != NoService {
		t.Error(got)
	}
	if got := message(j.State("nothing", "ann")); got != UnknownJob {
		t.Error(got)
	}
	if got := message(j.Answer(t.Context(), "ann", &mplane.Envelope{})); got != Unexpected {
		t.Error(got)
	}
}

// TestRepeatedJobKeepsResults checks the results of all runs, up to the limit, and that
// an interrupt also cancels future runs.
func TestRepeatedJobKeepsResults(t *testing.T) {
	n := 0
	j := newJobs(t, nil, Limits{Results: 2}, func(context.Context, *mplane.Statement) ([][]string, error) {
		if n++; n == 2 {
			return nil, errors.New("second")
		}
		return [][]string{{fmt.Sprint(n)}}, nil
	})
	token, _ := submit(t, j, "repeat now + 2s / 1s")
	e, ok := wait(t, j, token).(*mplane.Envelope)
	if !ok || n != 3 || len(e.Messages) != 2 || message(e.Messages[0]) != "second" || e.Token != token || e.Label != "x-0" || !e.When.Definite() {
		t.Errorf("%d runs, %+v", n, e)
	}
	token, _ = submit(t, j, "repeat now ... future / 1h")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if e, ok := j.State(token, "ann").(*mplane.Envelope); ok && len(e.Messages) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no result of the first run")
		}
	}
	j.Interrupt(token, "ann")
	if e, ok := wait(t, j, token).(*mplane.Envelope); !ok || len(e.Messages) != 1 {
		t.Errorf("%+v", e)
	}
}

// TestPruneRemovesOldJobs checks that jobs are removed some time after their end.
func TestPruneRemovesOldJobs(t *testing.T) {
	j := newJobs(t, nil, Limits{Keep: time.Nanosecond}, func(context.Context, *mplane.Statement) ([][]string, error) { return nil, nil })
	token, _ := submit(t, j, "now")
	wait(t, j, token)
	submit(t, j, "now")
	if got := message(j.State(token, "ann")); got != UnknownJob {
		t.Error(got)
	}
}

// TestPruneKeepsLatestJobs checks that only the latest of many finished jobs are kept.
func TestPruneKeepsLatestJobs(t *testing.T) {
	j := newJobs(t, nil, Limits{Finished: 3}, func(context.Context, *mplane.Statement) ([][]string, error) { return nil, nil })
	var tokens []string
	for i := range 6 {
		token, _ := submit(t, j, fmt.Sprintf("now + %ds", i+1))
		wait(t, j, token)
		tokens = append(tokens, token)
	}
	for i, token := range tokens { // the last job was submitted after the others were counted
		if got := message(j.State(token, "ann")); (got == UnknownJob) != (i < 2) {
			t.Errorf("job %d of %d: %s", i+1, len(tokens), got)
		}
	}
}

// TestServiceMatchesOriginOfSpecification checks which of several matching capabilities
// is used: the one with the same metadata, else the one with the same label, else the
// first.
func TestServiceMatchesOriginOfSpecification(t *testing.T) {
	reg := exchange.Registries(t)
	var services []Service
	var ran []string
	for _, c := range []struct{ label, system, url string }{
		{"repository-collect_log", "repository", "localhost:3000"},
		{"tstat-exporter_log", "tStat", "*"},
		{"tstat-exporter_log-2", "tStat", "*"},
	} {
		m, err := reg.Parse(fmt.Appendf(nil, `{"capability": "measure", "label": %q, "registry": %q, "when": "past ... future",
			"metadata": {"System_type": %q}, "parameters": {"repository.url": %q}}`, c.label, mplane.TstatRegistry, c.system, c.url))
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, Service{m.(*mplane.Statement), func(context.Context, *mplane.Statement) ([][]string, error) {
			ran = append(ran, c.label)
			return nil, nil
		}})
	}
	for _, c := range []struct{ label, system, url, want string }{
		{"tstat-exporter_log-0", "tStat", "localhost:3000", "tstat-exporter_log"},
		{"tstat-exporter_log-2-17", "tStat", "localhost:3000", "tstat-exporter_log-2"},
		{"repository-collect_log-0", "repository", "localhost:3000", "repository-collect_log"},
		{"mine-0", "tStat", "localhost:3000", "tstat-exporter_log"},
		{"mine-0", "repository", "localhost:3000", "repository-collect_log"},
		{"tstat-exporter_log-0", "", "localhost:3000", "tstat-exporter_log"},
		{"mine-0", "", "localhost:3000", "repository-collect_log"},
		{"repository-collect_log-0", "repository", "elsewhere:1", "tstat-exporter_log"},
	} {
		ran = nil
		j := NewJobs(services, reg, nil, Limits{}, slog.New(slog.DiscardHandler))
		metadata := ""
		if c.system != "" {
			metadata = fmt.Sprintf(`"metadata": {"System_type": %q},`, c.system)
		}
		m, err := reg.Parse(fmt.Appendf(nil, `{"specification": "measure", "label": %q, "registry": %q, "when": "now", %s "parameters": {"repository.url": %q}}`,
			c.label, mplane.TstatRegistry, metadata, c.url))
		if err != nil {
			t.Fatal(err)
		}
		spec := m.(*mplane.Statement)
		j.Submit(spec, "ann", nil, nil)
		wait(t, j, spec.ID())
		if len(ran) != 1 || ran[0] != c.want {
			t.Errorf("%+v: %v ran", c, ran)
		}
	}
}

// TestSpecificationsListsRunning checks that Specifications lists running
// specifications with start and end, in the order of their starts, and no others.
func TestSpecificationsListsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		j := newJobs(t, nil, Limits{}, func(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
			<-ctx.Done()
			return nil, nil
		})
		check := func(want ...Specification) {
			t.Helper()
			synctest.Wait()
			if got := j.Specifications(); !slices.Equal(got, want) {
				t.Errorf("running:\n%v\nwant\n%v", got, want)
			}
		}
		check()
		endless, _ := submit(t, j, "now ... future")
		first := Specification{Label: "x", Token: endless, Since: start}
		later := start.Add(time.Hour)
		waiting, _ := submit(t, j, later.UTC().Format("2006-01-02 15:04:05")+" + 1h")
		check(first)
		time.Sleep(90 * time.Minute)
		check(first, Specification{Label: "x", Token: waiting, Since: later, Until: later.Add(time.Hour)})
		time.Sleep(time.Hour)
		check(first)
		j.Interrupt(endless, "ann")
		check()
	})
}

// TestResumedSpecificationKeepsItsTimes checks that a restart changes neither the
// listed start nor the listed end.
func TestResumedSpecificationKeepsItsTimes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	runs := make(chan bool, 2)
	j := restored(t, file, nil, untilStop(runs))
	submit(t, j, "now + 1h")
	<-runs
	before := j.Specifications()
	stop(t, j)
	j = restored(t, file, nil, untilStop(runs))
	<-runs
	after := j.Specifications()
	stop(t, j)
	if len(before) != 1 || len(after) != 1 || !after[0].Since.Equal(before[0].Since) || !after[0].Until.Equal(before[0].Until) {
		t.Errorf("%v before and %v after the restart", before, after)
	}
}

// TestReceiptOfKnownJobCanBeSent checks that an invalid specification with the token of a
// running job is answered with a valid receipt. A component could not send any other, and
// all replies behind it would wait forever.
func TestReceiptOfKnownJobCanBeSent(t *testing.T) {
	j := newJobs(t, nil, Limits{}, func(ctx context.Context, _ *mplane.Statement) ([][]string, error) {
		<-ctx.Done()
		return nil, nil
	})
	token, _ := submit(t, j, "now + 1h")
	spec := j.services[0].Capability.Specification()
	spec.Token = token
	if _, err := mplane.Marshal(j.Submit(spec, "ann", nil, nil)); err != nil {
		t.Error(err)
	}
}

// TestJobsOfPeersAreSmall checks that a component neither accepts large specifications
// nor keeps long reasons of failures, because it keeps many of both.
func TestJobsOfPeersAreSmall(t *testing.T) {
	j := newJobs(t, nil, Limits{}, func(_ context.Context, spec *mplane.Statement) ([][]string, error) {
		return nil, errors.New(strings.Repeat("x", 1<<20))
	})
	spec := specify(t, j, "now + 1h")
	spec.Parameters[0].Text = strings.Repeat("x", 1<<20)
	if got := message(j.Submit(spec, "ann", nil, nil)); !strings.Contains(got, "The specification has about") {
		t.Errorf("%.100q", got)
	}
	token, _ := submit(t, j, "now + 1h")
	if got := message(wait(t, j, token)); len(got) > 4000 {
		t.Errorf("a reason of %d bytes", len(got))
	}
}
