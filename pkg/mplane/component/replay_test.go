package component

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/wire"
)

// registries returns the built-in ones and that of the RI's loopback
// component.
func registries(t testing.TB) *mplane.Registries {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loopback.json")
	text := `{"registry-format": "mplane-0", "registry-revision": 0, "registry-uri": "http://mplane.corvid.ch/registry/loopback",
		"elements": [{"name": "test.input", "prim": "string"}, {"name": "test.output", "prim": "string"}]}`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	reg, err := mplane.NewRegistries(path)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

// services returns the capabilities of a captured registration, run by a
// function.
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

// script is a supervisor of the RI that answers as captured and holds the
// component to what the RI's component sent.
type script struct {
	t      *testing.T
	mu     sync.Mutex
	steps  []*exchange.Exchange
	more   int // results that the capture lacks: the RI failed, or the capture ended
	tokens exchange.Tokens
	done   chan struct{}
}

// skipReply are replies of the RI that a fixed component does not send.
var skipReply = map[string]string{
	"a/044": "the RI fails on every length; ours returns a result",
	"a/049": "the RI fails on every end in the future; ours runs until it is interrupted",
	"b/059": "the RI fails on every length; ours returns a result",
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := wire.Read(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Replies to different specifications have no order among them, but they
	// come before the next request for specifications.
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
	if strings.Contains(string(body), `"result"`) && (step < 0 || difference != "") && s.more > 0 {
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
		wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{}"))
		return
	}
	s.t.Errorf("unexpected %s %s: %s", r.Method, r.URL.Path, body)
	wire.Answer(w, http.StatusOK, wire.HTML, nil)
}

// TestReplay runs our component against captured answers of RI supervisors
// and listening clients.
func TestReplay(t *testing.T) {
	reg := registries(t)
	for _, part := range []struct {
		scenario, first, last string
		more                  int
	}{
		{"a", "004", "053", 2}, // repository: now, a length, without end; supervisor restarted
		{"a", "056", "087", 0}, // tstat: interrupted, ended
		{"b", "053", "062", 2}, // callback, several at once, unknown ones
	} {
		t.Run(part.scenario+part.first, func(t *testing.T) {
			t.Parallel()
			s := &script{t: t, more: part.more, tokens: exchange.Tokens{}, done: make(chan struct{})}
			for _, e := range exchange.Load(t, part.scenario) {
				number := e.Name[2:]
				// b/056 is the RI's 500 for an envelope in an envelope.
				if number < part.first || number > part.last || e.Link != "comp-sup" && e.Link != "comp-cli" || skipReply[e.Name] != "" ||
					e.Name < "a/025" && e.Name > "a/005" || e.Name == "b/056" {
					continue
				}
				s.steps = append(s.steps, e)
			}
			srv := httptest.NewServer(s)
			defer srv.Close()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				ended <- Run(ctx, Options{
					Services:   services(t, reg, s.steps[0].Request.Text(), untilEnd(reg)),
					Registries: reg, Supervisor: wire.Dialer{URL: srv.URL}, Poll: 20 * time.Millisecond,
				})
			}()
			select {
			case <-s.done:
			case <-time.After(30 * time.Second):
				s.mu.Lock()
				t.Errorf("%d steps are left, first %s", len(s.steps), s.steps[0].Name)
				s.mu.Unlock()
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReplayServer plays the client of the client-initiated workflow.
func TestReplayServer(t *testing.T) {
	reg := registries(t)
	list := exchange.Load(t, "b")
	differences := map[string]string{
		"b/023": "the RI fails on every length; ours goes on",
	}
	for _, part := range []struct {
		first, last string
		run         func(context.Context, *mplane.Statement) ([][]string, error)
	}{
		{"001", "005", func(_ context.Context, spec *mplane.Statement) ([][]string, error) {
			text, _ := spec.Parameters.Get("test.input")
			return [][]string{{text}}, nil
		}},
		{"017", "023", untilEnd(reg)},
		{"024", "047", untilEnd(reg)},
	} {
		t.Run(part.first, func(t *testing.T) {
			t.Parallel()
			var offered []Service
			for _, e := range list {
				if n := e.Name[2:]; n >= part.first && n <= part.last && e.Response.Kind() == "capability" {
					offered = append(offered, services(t, reg, e.Response.Text(), part.run)...)
				}
			}
			jobs := NewJobs(offered, reg, nil, Limits{}, slog.New(slog.DiscardHandler))
			defer jobs.cancel(ErrStopped)
			srv := httptest.NewServer(&wire.Server{Registries: reg, Backend: impatient{jobs}})
			defer srv.Close()
			tokens := exchange.Tokens{}
			for _, e := range list {
				if n := e.Name[2:]; n < part.first || n > part.last || e.Link != "cli-comp" && e.Link != "cli-repo" || differences[e.Name] != "" {
					continue
				}
				if e.Name >= "b/042" {
					hasten(t, e)
				}
				var status, contentType, problem string
				var body []byte
				want := e.Response.Header["Content-Type"]
				_, code := e.Response.Line()
				// What the RI was slow with may be there at once, or a little later.
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					status, contentType, body = tokens.Do(t, srv.URL, e.Request)
					problem = compareState(tokens, body, e)
					if problem == "" && status == code && contentType == want || time.Now().After(deadline) {
						break
					}
				}
				if status != code || contentType != want || problem != "" {
					t.Errorf("%s %s: status %s, want %s; %q, want %q; %s", e.Name, e.Request.Start, status, code, contentType, want, problem)
				}
			}
		})
	}
}

// hasten makes the repeated specification of an exchange quick, and gives the
// third run the token of its own that the RI forgets.
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

// compareState compares an answer, where a receipt and a result are both right
// after an interrupt, for the RI takes a while to notice it.
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

// impatient waits for results a short time only.
type impatient struct{ *Jobs }

func (i impatient) Answer(ctx context.Context, identity string, m mplane.Message) mplane.Message {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	return i.Jobs.Answer(ctx, identity, m)
}
