package component

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// services returns services with the capabilities of a captured registration and the
// function run.
func services(t testing.TB, reg *mplane.Registries, body []byte, run func(context.Context, *mplane.Statement) ([][]string, error)) []Service {
	t.Helper()
	m, err := reg.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	messages := []mplane.Message{m}
	if e, ok := m.(*mplane.Envelope); ok {
		messages = e.Messages
	}
	var list []Service
	for _, m := range messages {
		c := m.(*mplane.Statement)
		if c.Label == callbackLabel {
			continue
		}
		if got := c.ID(); c.Token != got {
			t.Errorf("token %s of %s, want %s", got, c.Label, c.Token)
		}
		c.Token, c.Link = "", nil
		list = append(list, Service{c, run})
	}
	return list
}

// untilEnd is a service that runs to the end of its scope. Its rows are the
// RI's dummies.
func untilEnd(reg *mplane.Registries) func(context.Context, *mplane.Statement) ([][]string, error) {
	return func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
		<-ctx.Done()
		return dummies(reg, spec, time.Now()), nil
	}
}

func dummies(reg *mplane.Registries, spec *mplane.Statement, now time.Time) [][]string {
	if len(spec.Results) == 0 {
		return nil
	}
	var row []string
	for _, name := range spec.Results {
		prim, _ := reg.Type(name)
		row = append(row, map[mplane.Primitive]string{
			mplane.Natural: "0", mplane.Real: "0.0", mplane.String: "hello", mplane.Boolean: "True",
			mplane.Address: "192.168.0.1", mplane.URL: "www.google.com",
			mplane.Time: now.UTC().Format("2006-01-02 15:04:05.000000"),
		}[prim])
	}
	return [][]string{row}
}

// script is an RI supervisor that responds as captured. It compares the component's
// requests with those of the RI's component.
type script struct {
	t      *testing.T
	mu     sync.Mutex
	steps  []*exchange.Exchange
	more   int // number of results that the capture lacks because the RI failed or the capture ended
	tokens exchange.Tokens
	done   chan struct{}
	// withdrawal is a captured withdrawal, with which those at the end are compared.
	withdrawal *exchange.Exchange
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Replies to different specifications may come in any order, but they come before
	// the next poll.
	step, difference := -1, ""
	var learned exchange.Tokens
	for i, e := range s.steps {
		method, path := e.Request.Line()
		if method != r.Method && method == http.MethodGet && step >= 0 {
			break
		}
		if method == http.MethodPost && r.Method == http.MethodGet {
			break
		}
		if method != r.Method || path != r.URL.Path {
			continue
		}
		known := maps.Clone(s.tokens)
		d := ""
		if method == http.MethodPost {
			d = known.Compare(body, e.Request)
		}
		if step < 0 || d == "" {
			step, difference, learned = i, d, known
		}
		if d == "" {
			break
		}
	}
	over := r.URL.Path == wire.ResultPath && !strings.Contains(string(body), `"receipt"`)
	if over && (step < 0 || difference != "") && s.more > 0 {
		s.more--
		wire.Answer(w, http.StatusOK, wire.HTML, nil)
		return
	}
	if step >= 0 {
		e := s.steps[step]
		if difference != "" {
			s.t.Errorf("%s: %s", e.Name, difference)
		}
		if r.Method == http.MethodPost {
			if got, want := r.Header.Get("Content-Type"), wire.ContentType; got != want {
				s.t.Errorf("%s: media type %q, want %q", e.Name, got, want)
			}
		}
		e.Played()
		s.tokens = learned
		s.steps = slices.Delete(s.steps, step, step+1)
		if len(s.steps) == 0 {
			close(s.done)
		}
		status := 0
		_, code := e.Response.Line()
		fmt.Sscan(code, &status)
		wire.Answer(w, status, e.Response.Header["Content-Type"], s.tokens.Rewrite(e.Response.Text()))
		return
	}
	if r.Method == http.MethodGet && r.URL.Path == wire.SpecificationPath {
		wire.Write(w, http.StatusOK, &mplane.Envelope{})
		return
	}
	if r.URL.Path == wire.CapabilityPath && strings.Contains(string(body), "withdrawal") {
		s.withdrawn(body)
		wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{}"))
		return
	}
	s.t.Errorf("unexpected %s %s: %s", r.Method, r.URL.Path, body)
	wire.Answer(w, http.StatusOK, wire.HTML, nil)
}

// withdrawn compares a withdrawal with the captured one.
func (s *script) withdrawn(body []byte) {
	if s.withdrawal == nil {
		return
	}
	var got struct{ Contents []json.RawMessage }
	if err := json.Unmarshal(body, &got); err != nil {
		s.t.Error(err)
	}
	want := s.withdrawal.Request.Body.(map[string]any)["contents"].([]any)[0]
	for _, text := range got.Contents {
		if bytes.Contains(text, []byte(`"`+want.(map[string]any)["label"].(string)+`"`)) {
			if d := s.tokens.Compare(text, exchange.Message{Body: want}); d != "" {
				s.t.Errorf("%s: %s", s.withdrawal.Name, d)
			}
			s.withdrawal.Played()
		}
	}
}

// TestReplay runs our component against the captured responses of RI supervisors and
// listening clients.
func TestReplay(t *testing.T) {
	reg := exchange.Registries(t)
	all := exchange.Assigned(t, "component", exchange.Asking)
	for _, part := range []struct {
		name, last string // first and last exchange
		skip       string // skip exchanges before this one, except the registration
		more       int
		withdrawal string
	}{
		{"a/004", "a/053", "", 2, ""},      // repository: scopes now, with a length, without end; supervisor restarted
		{"a/056", "a/087", "", 0, ""},      // tstat: interrupted, ended
		{"a/056", "a/104", "a/102", 1, ""}, // tstat: repeated; the RI never sends the results
		{"b/048", "b/052", "", 0, ""},      // listening shell of the RI
		{"b/053", "b/062", "", 2, ""},      // callback, a failure, several at once, unknown specifications
		{"b/063", "b/064", "", 0, "b/065"}, // registration, withdrawal
		{"b/072", "b/080", "", 1, ""},      // supervisor below another client
	} {
		t.Run(strings.ReplaceAll(part.name+part.skip, "/", ""), func(t *testing.T) {
			t.Parallel()
			s := &script{t: t, more: part.more, tokens: exchange.Tokens{}, done: make(chan struct{})}
			s.steps = exchange.Between(all, part.name, part.last)
			if part.skip != "" {
				s.steps = append(s.steps[:1:1], exchange.Between(all, part.skip, part.last)...)
			}
			if part.withdrawal != "" {
				s.withdrawal = exchange.Between(all, part.withdrawal, part.withdrawal)[0]
			}
			srv := httptest.NewServer(s)
			defer srv.Close()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			offered := services(t, reg, s.steps[0].Request.Text(), untilEnd(reg))
			c, err := New(Options{Services: offered, Registries: reg, Supervisor: wire.Dialer{URL: srv.URL}, Poll: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- c.Run(ctx) }()
			select {
			case <-s.done:
			case <-time.After(time.Minute):
				s.mu.Lock()
				t.Errorf("%d steps are left, first %s", len(s.steps), s.steps[0].Name)
				s.mu.Unlock()
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.more != 0 {
				t.Errorf("%d results are missing", s.more)
			}
		})
	}
}

// TestReplayServer plays the client of the client-initiated workflow.
func TestReplayServer(t *testing.T) {
	reg := exchange.Registries(t)
	list := exchange.Assigned(t, "component", exchange.Answering)
	// differences lists the responses that deviate from the RI's on purpose, with the
	// expected kind and the reason.
	differences := map[string]struct{ kind, reason string }{
		"b/023": {"receipt", "the RI fails on every length; ours goes on"},
	}
	for _, part := range []struct {
		first, last string
		run         func(context.Context, *mplane.Statement) ([][]string, error)
	}{
		{"b/001", "b/016", func(_ context.Context, spec *mplane.Statement) ([][]string, error) {
			text, _ := spec.Parameters.Get("test.input")
			return [][]string{{text}}, nil
		}},
		{"b/017", "b/023", untilEnd(reg)},
		{"b/024", "b/047", untilEnd(reg)},
	} {
		t.Run(part.first[2:], func(t *testing.T) {
			t.Parallel()
			var offered []Service
			seen := map[string]bool{}
			list := exchange.Between(list, part.first, part.last)
			for _, e := range list {
				if _, path := e.Request.Line(); e.Response.Kind() == "capability" && !seen[path] {
					seen[path] = true
					offered = append(offered, services(t, reg, e.Response.Text(), part.run)...)
				}
			}
			jobs := NewJobs(offered, reg, nil, Limits{}, slog.New(slog.DiscardHandler))
			defer jobs.cancel(ErrStopped)
			srv := httptest.NewServer(&wire.Server{Registries: reg, Backend: impatient{jobs}})
			defer srv.Close()
			tokens := exchange.Tokens{}
			for _, e := range list {
				if e.Name >= "b/042" {
					hasten(t, e)
				}
				var status, contentType, problem string
				var body []byte
				want := e.Response.Header["Content-Type"]
				_, code := e.Response.Line()
				// The RI's response may have been slow; ours may come sooner or a
				// little later.
				for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
					status, contentType, body = tokens.Do(t, srv.URL, e.Request)
					if d, ok := differences[e.Name]; ok {
						problem = ""
						if !strings.Contains(string(body), `"`+d.kind+`"`) {
							problem = string(body)
						}
					} else {
						problem = compareState(tokens, body, e)
					}
					if problem == "" && status == code && contentType == want || time.Now().After(deadline) {
						break
					}
				}
				if status != code || contentType != want || problem != "" {
					t.Errorf("%s %s: status %s, want %s; %q, want %q; %s", e.Name, e.Request.Start, status, code, contentType, want, problem)
				}
				e.Played()
			}
		})
	}
}

// hasten shortens the repeated specification of an exchange. It also gives the third
// run its own token, which the RI forgets.
func hasten(t *testing.T, e *exchange.Exchange) {
	for _, m := range []*exchange.Message{&e.Request, &e.Response} {
		text := strings.NewReplacer("now + 12s / 5s { now + 1s }", "now + 2s / 1s { now + 1s }", " / 5s", " / 1s").Replace(string(m.Text()))
		if err := json.Unmarshal([]byte(text), &m.Body); err != nil {
			t.Fatal(err)
		}
		if contents, ok := m.Body.(map[string]any)["contents"].([]any); ok {
			contents[2].(map[string]any)["token"] = "of the third run"
		}
	}
}

// compareState compares a response. After an interrupt it accepts both a receipt and a
// result, because the RI takes some time to notice an interrupt.
func compareState(tokens exchange.Tokens, body []byte, e *exchange.Exchange) string {
	problem := tokens.Compare(body, e.Response)
	if problem == "" || e.Response.Kind() != "receipt" || e.Name < "b/038" {
		return problem
	}
	var got map[string]any
	if json.Unmarshal(body, &got) == nil && got["result"] != nil {
		return ""
	}
	return problem
}

// impatient is a Jobs that waits only briefly for results.
type impatient struct{ *Jobs }

func (i impatient) Answer(ctx context.Context, identity string, m mplane.Message) mplane.Message {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	return i.Jobs.Answer(ctx, identity, m)
}
