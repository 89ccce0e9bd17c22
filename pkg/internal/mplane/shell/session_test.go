package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

const stamp = "2006-01-02 15:04:05.000000"

// TestWaitCollectsEnvelope checks that Wait redeems a repeated specification until its
// last run has ended. If the peer has forgotten the job, the results received before
// remain.
func TestWaitCollectsEnvelope(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	const capability = `"label": "tstat-exporter_log", "registry": "` + mplane.TstatRegistry + `", "parameters": {"repository.url": "h:1"}`
	for _, c := range []struct {
		name   string
		ends   time.Duration // end of the scope, from now on
		when   string
		gone   bool // the peer has dropped the job
		asked  int
		result int // number of results at the end
	}{
		{"until the end", time.Hour, "repeat now ... future / 10s { now + 10s }", false, 3, 4},
		{"forgotten", time.Hour, "repeat now ... future / 10s { now + 10s }", true, 1, 1},
		{"over", -2 * time.Minute, "repeat now ... future / 10s { now + 10s }", false, 0, 1},
		{"last run", -2 * time.Minute, "repeat now ... future / 10s { now + 1h }", false, 3, 4},
		{"all there", time.Hour, "repeat now + 1d / 1000d { now + 10s }", false, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked []map[string]any
			now := time.Now().UTC()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var m map[string]any
				text, _ := io.ReadAll(r.Body)
				if err := json.Unmarshal(text, &m); err != nil {
					t.Error(err)
				}
				end := now.Add(c.ends)
				if m["specification"] == nil {
					if asked = append(asked, m); c.gone {
						wire.Write(w, 200, &mplane.Exception{Token: m["token"].(string), Message: "Unknown job"})
						return
					}
				}
				if len(asked) == 3 { // now the envelope is complete
					end = now.Add(-3 * time.Hour)
				}
				results := ""
				for range len(asked) + 1 {
					results += fmt.Sprintf(`, {"result": "measure", "when": "2015-07-10 00:00:00", %s}`, capability)
				}
				wire.Answer(w, 200, wire.ContentType, fmt.Appendf(nil, `{"envelope": "message", "token": %q, "label": "x", "when": "%s ... %s / 10s", "contents": [%s]}`,
					m["token"], now.Add(-2*time.Hour).Format(stamp), end.Format(stamp), results[1:]))
			}))
			defer srv.Close()
			cl, err := client.Open(wire.Dialer{URL: srv.URL}, reg)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			when, err := mplane.ParseScope(c.when)
			if err != nil {
				t.Fatal(err)
			}
			s := &Session{Client: cl, Out: new(bytes.Buffer), When: &when, Memory: &Memory{Dir: t.TempDir(), Registries: reg}}
			m, err := reg.Parse([]byte(`{"capability": "measure", "when": "past ... future", ` + capability + `}`))
			if err != nil {
				t.Fatal(err)
			}
			spec, err := s.Specify(m.(*mplane.Statement), "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Run(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			last, err := s.Wait(t.Context(), spec.ID())
			if err != nil {
				t.Fatal(err)
			}
			e, ok := last.(*mplane.Envelope)
			if !ok || len(e.Messages) != c.result || len(asked) != c.asked {
				t.Errorf("%T with %v, asked %d times; want %d results, %d times", last, e, len(asked), c.result, c.asked)
			}
			for _, m := range asked {
				if m["redemption"] != "measure" || m["token"] != spec.ID() || m["when"] != spec.When.String() || m["parameters"] == nil {
					t.Errorf("redeemed with %v", m)
				}
			}
			jobs, err := s.Memory.Jobs(cl.Root())
			if err != nil || len(jobs) != 1 {
				t.Fatalf("%v, %v", jobs, err)
			}
			if e, ok := jobs[0].Message.(*mplane.Envelope); !ok || len(e.Messages) != c.result {
				t.Errorf("savedJob %v", jobs[0].Message)
			}
		})
	}
}

// TestWaitEndsAfterInterrupt checks that Wait does not wait for the end of the scope of
// an interrupted job, which has no further runs.
func TestWaitEndsAfterInterrupt(t *testing.T) {
	when, err := mplane.ParseScope("repeat now ... future / 1d")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	receipt := &mplane.Statement{Kind: mplane.Receipt, When: when}
	envelope := &mplane.Envelope{When: when.Anchored(now), Messages: []mplane.Message{&mplane.Exception{}}}
	var j Job
	for _, step := range []struct {
		k       mplane.Kind
		after   time.Duration
		m       mplane.Message
		pending bool
	}{
		{mplane.Specification, 0, receipt, true},
		{mplane.Redemption, time.Hour, envelope, true},
		{mplane.Interrupt, 2 * time.Hour, envelope, true},
		{mplane.Redemption, 2*time.Hour + grace/2, envelope, true},
		{mplane.Redemption, 2*time.Hour + 2*grace, envelope, false},
	} {
		if j.reply(step.m, step.k, receipt, now.Add(step.after)); j.Pending() != step.pending {
			t.Errorf("after %v: pending %v", step.after, j.Pending())
		}
	}
	// The end of the scope shows that the envelope is complete.
	envelope.When = envelope.When.EndedAt(now.Add(2 * time.Hour))
	j = Job{}
	j.reply(receipt, mplane.Interrupt, receipt, now.Add(2*time.Hour))
	if j.reply(envelope, mplane.Redemption, receipt, now.Add(2*time.Hour+time.Second)); j.Pending() {
		t.Error("an envelope that ended with an interrupt is pending")
	}
}

// TestLabelsIdentifyJobs checks that jobs have different labels, although each call of
// runcap is a separate session.
func TestLabelsIdentifyJobs(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	memory := &Memory{Dir: t.TempDir(), Registries: reg}
	run := func(supervisor, label, parameter string) string {
		cl, err := client.Open(wire.Dialer{URL: supervisor}, reg)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		when := mplane.For(time.Hour)
		m, err := reg.Parse([]byte(`{"capability": "measure", "label": "tstat-exporter_log", "registry": "` + mplane.TstatRegistry + `", "when": "now ... future", "parameters": {"repository.url": "*"}}`))
		if err != nil {
			t.Fatal(err)
		}
		s := &Session{Client: cl, Out: &bytes.Buffer{}, When: &when, Values: map[string]string{"repository.url": parameter}, Memory: memory}
		spec, err := s.Specify(m.(*mplane.Statement), label)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.remember(Job{Token: spec.ID(), Label: spec.Label, Message: spec.Notice(mplane.Receipt)}); err != nil {
			t.Fatal(err)
		}
		if j, err := s.find(spec.Label); err != nil || j.Token != spec.ID() {
			t.Errorf("%s: %+v, %v", spec.Label, j, err)
		}
		return spec.Label
	}
	for _, c := range []struct{ supervisor, label, parameter, want string }{
		{"http://a:1/", "", "h:1", "tstat-exporter_log-0"},
		{"http://a:1/", "", "h:2", "tstat-exporter_log-1"},
		{"http://b:1/", "", "h:1", "tstat-exporter_log-0"}, // of another supervisor
		{"http://a:1/", "tstat-exporter_log-2", "h:3", "tstat-exporter_log-2"},
		{"http://a:1/", "", "h:4", "tstat-exporter_log-3"},
	} {
		if got := run(c.supervisor, c.label, c.parameter); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// TestUnansweredSpecificationIsSaved checks that a specification whose response the user
// did not wait for is saved, so that the user can stop its job. A specification that
// could not be sent is not.
func TestUnansweredSpecificationIsSaved(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := wire.ReadMessage(r, reg)
		if s, ok := m.(*mplane.Statement); err == nil && ok && s.Kind == mplane.Interrupt {
			wire.Write(w, 200, s.Notice(mplane.Receipt))
			return
		}
		interrupt()
		<-r.Context().Done()
	}))
	defer srv.Close()
	dir := t.TempDir()
	run := func(url string) (*Session, error) {
		cl, err := client.Open(wire.Dialer{URL: url}, reg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		spec := &mplane.Statement{Kind: mplane.Specification, Verb: mplane.Measure, Label: "x-0", Registry: mplane.TstatRegistry, When: mplane.For(time.Hour)}
		spec.SetToken()
		s := &Session{Client: cl, Out: new(bytes.Buffer), Memory: &Memory{Dir: dir, Registries: reg}}
		_, err = s.Run(ctx, spec)
		return s, err
	}
	s, err := run("http://127.0.0.1:1")
	if err == nil {
		t.Error("sent to nobody")
	}
	if jobs, err := s.Memory.Jobs(s.Client.Root()); err != nil || len(jobs) > 0 {
		t.Errorf("%v, %v", jobs, err)
	}
	if s, err = run(srv.URL); !errors.Is(err, context.Canceled) || hint.Of(err) == "" {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
	if m, err := s.Stop(t.Context(), "x-0"); err != nil {
		t.Errorf("%v, %v", m, err)
	}
}

// TestUnsavedSpecificationIsNotSent checks that runcap starts no job whose token it could
// not save, for example because the disk is full: nobody could stop the job.
func TestUnsavedSpecificationIsNotSent(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	status, sent := http.StatusForbidden, 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := wire.ReadMessage(r, reg)
		if err != nil {
			t.Error(err)
		}
		if sent++; status != http.StatusOK {
			wire.Fail(w, status)
			return
		}
		now := time.Now()
		wire.Write(w, 200, m.(*mplane.Statement).Result(now, now, nil))
	}))
	defer srv.Close()
	cl, err := client.Open(wire.Dialer{URL: srv.URL}, reg)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	spec := &mplane.Statement{Kind: mplane.Specification, Verb: mplane.Measure, Label: "x-0", Registry: mplane.TstatRegistry, When: mplane.Between(start, start)}
	spec.SetToken()
	s := &Session{Client: cl, Out: new(bytes.Buffer), Memory: &Memory{Dir: file, Registries: reg}}
	if _, err := s.Run(t.Context(), spec); err == nil || sent > 0 {
		t.Errorf("%v, sent %d times", err, sent)
	}
	// A refused request leaves the saved jobs as they were.
	s.Memory.Dir = t.TempDir()
	for _, c := range []struct {
		status int
		want   mplane.Kind // of the saved job; "" means none
	}{{http.StatusForbidden, ""}, {http.StatusOK, mplane.Result}, {http.StatusForbidden, mplane.Result}} {
		status = c.status
		if _, err := s.Run(t.Context(), spec); (err == nil) != (status == http.StatusOK) {
			t.Errorf("%d: %v", status, err)
		}
		jobs, err := s.Memory.Jobs(cl.Root())
		got := mplane.Kind("")
		if len(jobs) == 1 {
			got = jobs[0].Message.(*mplane.Statement).Kind
		}
		if err != nil || got != c.want {
			t.Errorf("%d: saved %v, %v", status, jobs, err)
		}
	}
}
