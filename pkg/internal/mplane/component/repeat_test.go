package component

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestEnvelopeComesAtEndOfScope proves that the envelope of a repeated specification is
// sent at the end that it states: that of the scope, or the time of the interrupt.
func TestEnvelopeComesAtEndOfScope(t *testing.T) {
	for _, c := range []struct {
		when      string
		interrupt time.Duration // 0 means no interrupt
		end       time.Duration // after the start
		results   int
	}{
		{"repeat now + 10s / 3s", 0, 10 * time.Second, 4},
		{"repeat now + 10s / 3s { now + 2s }", 0, 10 * time.Second, 4},
		{"repeat now + 10s / 3s { now + 5s }", 0, 10 * time.Second, 4}, // the last run ends later
		{"repeat now + 1h / 10s", 25 * time.Second, 25 * time.Second, 3},
		{"repeat now + inf / 10s", 25 * time.Second, 25 * time.Second, 3},
		{"repeat now ... future / 10s", 25 * time.Second, 25 * time.Second, 3},
		{"repeat now ... 2000-01-01 00:05:00 / 1m", 0, 5 * time.Minute, 6},
		{"repeat now + 1h cron 0 * * * * *", 90 * time.Second, 90 * time.Second, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			j := newJobs(t, nil, Limits{}, func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
				if d, _ := spec.When.Duration(time.Now()); d > 0 {
					<-ctx.Done()
				}
				return [][]string{{"1"}}, nil
			})
			start := time.Now() // the bubble's clock begins at 2000-01-01
			spec := specify(t, j, c.when)
			var reply mplane.Message
			var came time.Time
			j.Submit(spec, "ann", nil, func(m mplane.Message) { reply, came = m, time.Now() })
			if c.interrupt > 0 {
				time.Sleep(c.interrupt)
				synctest.Wait()
				if e, ok := j.State(spec.ID(), "ann").(*mplane.Envelope); !ok || !e.When.Definite() {
					t.Errorf("%s: while it runs: %v", c.when, e)
				}
				// A supervisor would mistake the results so far for all results.
				if m, ok := j.Interrupt(spec.ID(), "ann").(*mplane.Statement); !ok || m.Kind != mplane.Receipt {
					t.Errorf("%s: the interrupt is not answered with a receipt", c.when)
				}
			}
			j.Wait(t.Context(), spec.ID())
			e, ok := reply.(*mplane.Envelope)
			if !ok {
				t.Fatalf("%s: reply %v", c.when, reply)
			}
			from, to := e.When.Times(time.Time{})
			if !from.Equal(start) || !to.Equal(start.Add(c.end)) || came.Before(to) || len(e.Messages) != c.results {
				t.Errorf("%s: %d results, %s, at %s", c.when, len(e.Messages), e.When, came)
			}
		})
	}
}

// TestRepeatWithoutResult proves that the reply is an exception if no run has a result,
// because RI supervisors do not relay envelopes without results.
func TestRepeatWithoutResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJobs(t, nil, Limits{}, func(context.Context, *mplane.Statement) ([][]string, error) {
			return nil, errors.New("disk on fire")
		})
		token, _ := submit(t, j, "repeat now + 3s / 1s")
		j.Wait(t.Context(), token)
		if got := message(j.State(token, "ann")); got != "None of 4 runs has a result; the last one: disk on fire" {
			t.Error(got)
		}
		token, _ = submit(t, j, "repeat 2999-01-01 + 1h / 1m")
		j.Interrupt(token, "ann")
		j.Wait(t.Context(), token)
		if got := message(j.State(token, "ann")); got != "There was no run" {
			t.Error(got)
		}
	})
}

// riSupervisor relays like supervisors of the RI: it has a single queue for all
// components without TLS, and drops envelopes whose end is in the future.
type riSupervisor struct {
	t      *testing.T
	reg    *mplane.Registries
	behind time.Duration // by how much its clock is behind

	mu      sync.Mutex
	queue   []mplane.Message
	replies chan mplane.Message // messages that reach the client, including receipts
}

func newRISupervisor(t *testing.T, behind time.Duration) (*riSupervisor, string) {
	s := &riSupervisor{t: t, reg: exchange.Registries(t), behind: behind, replies: make(chan mplane.Message, 100)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func (s *riSupervisor) push(m ...mplane.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, m...)
}

func (s *riSupervisor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now().Add(-s.behind)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	switch r.URL.Path {
	case wire.CapabilityPath:
		wire.Answer(w, http.StatusOK, wire.ContentType, []byte("{}"))
	case wire.SpecificationPath:
		s.mu.Lock()
		e := &mplane.Envelope{Messages: s.queue}
		s.queue = nil
		s.mu.Unlock()
		wire.Write(w, http.StatusOK, e)
	case wire.ResultPath:
		text, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		m, err := s.reg.Parse(text)
		if err != nil {
			s.t.Errorf("%v: %s", err, text)
		}
		if e, ok := m.(*mplane.Envelope); ok {
			switch _, end := e.When.Times(now); {
			case end.IsZero(): // None < datetime: TypeError
				wire.Fail(w, http.StatusInternalServerError)
				return
			case !end.Before(now):
				s.t.Errorf("envelope of %s came at %s and is dropped", e.When, now)
			}
		}
		s.replies <- m
		wire.Answer(w, http.StatusOK, wire.HTML, nil)
	}
}

// next returns the next reply that reaches the client.
func (s *riSupervisor) next() mplane.Message {
	s.t.Helper()
	select {
	case m := <-s.replies:
		return m
	case <-time.After(time.Minute):
		s.t.Fatal("no reply reaches the client")
		return nil
	}
}

// component runs a component at the supervisor until the test ends.
func (s *riSupervisor) component(url string, opt Options) (c *Component, stop func()) {
	j := newJobs(s.t, nil, Limits{}, func(context.Context, *mplane.Statement) ([][]string, error) { return [][]string{{"1"}}, nil })
	opt.Services, opt.Registries, opt.Poll = j.services, s.reg, 10*time.Millisecond
	opt.Supervisor = wire.Dialer{URL: url}
	c, err := New(opt)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	s.t.Cleanup(stop)
	return c, stop
}

// TestRepeatAtRISupervisor proves that the results of repeated specifications reach the
// clients of an RI supervisor, even if its clock is behind.
func TestRepeatAtRISupervisor(t *testing.T) {
	for _, c := range []struct {
		name, when string
		behind     time.Duration
		end        func(s *riSupervisor, spec *mplane.Statement, stop func())
	}{
		{"ends", "repeat now + 2s / 3s", 0, nil},
		{"clock behind", "repeat now + 1s / 3s", 2 * time.Second, nil},
		{"clock ahead", "repeat now + 1s / 3s", -time.Hour, nil},
		{"interrupted", "repeat now + inf / 1h", 0, func(s *riSupervisor, spec *mplane.Statement, _ func()) { s.push(spec.Notice(mplane.Interrupt)) }},
		{"without end, interrupted", "repeat now ... future / 1h", 0, func(s *riSupervisor, spec *mplane.Statement, _ func()) { s.push(spec.Notice(mplane.Interrupt)) }},
		{"stopped", "repeat now ... future / 1h", time.Second, func(_ *riSupervisor, _ *mplane.Statement, stop func()) { stop() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, url := newRISupervisor(t, c.behind)
			_, stop := s.component(url, Options{})
			spec := specify(t, newJobs(t, nil, Limits{}, nil), c.when)
			s.push(spec)
			m := s.next()
			if r, ok := m.(*mplane.Statement); !ok || r.Kind != mplane.Receipt {
				t.Fatalf("first comes %v", m)
			}
			if c.end != nil {
				go c.end(s, spec, stop)
			}
			for {
				m := s.next()
				if r, ok := m.(*mplane.Statement); ok && r.Kind == mplane.Receipt { // the receipt of the interrupt
					continue
				}
				e, ok := m.(*mplane.Envelope)
				if !ok || len(e.Messages) != 1 || e.Token != spec.ID() {
					t.Fatalf("got %s", m.Show())
				}
				return
			}
		})
	}
}

// TestDelayedEnvelopeDelaysNoOtherReply proves that replies overtake an envelope that
// waits for its end.
func TestDelayedEnvelopeDelaysNoOtherReply(t *testing.T) {
	now := time.Now()
	early := &mplane.Envelope{When: mplane.Between(now, now.Add(time.Hour))}
	late := &mplane.Exception{Token: "x"}
	c := &Component{outbox: []mplane.Message{early, late}}
	if m, _ := c.due(now); m != late {
		t.Errorf("first comes %v", m)
	}
	c.outbox, c.ahead = []mplane.Message{early}, time.Minute
	if m, wait := c.due(now); m != nil || wait < time.Hour || wait > time.Hour {
		t.Errorf("%v in %s", m, wait)
	}
	early.When = mplane.Between(now, now.Add(time.Minute))
	if m, wait := c.due(now); m != nil || wait < 2*time.Minute || wait > 2*time.Minute+time.Second {
		t.Errorf("%v in %s", m, wait)
	}
	if m, _ := c.due(now.Add(2*time.Minute + time.Millisecond)); m != early {
		t.Errorf("got %v", m)
	}
}

// TestUnknownCapability proves that specifications for another component, which a
// supervisor without TLS may send us, are refused and counted. A warning appears about
// once a minute.
func TestUnknownCapability(t *testing.T) {
	s, url := newRISupervisor(t, 0)
	var log strings.Builder
	c, stop := s.component(url, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, label := range []string{"other\x1b[2J-0", "other-1", "other-2"} {
		m, err := s.reg.Parse([]byte(`{"specification": "measure", "label": "other", "registry": "` + mplane.TstatRegistry + `", "when": "now", "results": ["rrdtimestamp"]}`))
		if err != nil {
			t.Fatal(err)
		}
		spec := m.(*mplane.Statement)
		spec.Label, spec.Token = label, label
		s.push(spec)
	}
	for range 3 {
		if got := message(s.next()); got != NoService {
			t.Errorf("answer %q", got)
		}
	}
	stop()
	if got := c.Stats().Refused; got["unknown capability"] != 3 || got["permission"] != 0 || got["other"] != 0 {
		t.Errorf("refused: %v", got)
	}
	if got := log.String(); strings.Count(got, "unknown capability") != 1 || !strings.Contains(got, "other") || strings.Contains(got, "\x1b") ||
		!strings.Contains(got, "supervisor="+url) {
		t.Errorf("log: %s", got)
	}
}

// TestReplyIsSentAgain checks that a supervisor that sends the specification of an ended
// job again, because it has lost the reply in a crash, gets the reply and not only a
// receipt. Otherwise it would take the job for a running one.
func TestReplyIsSentAgain(t *testing.T) {
	s, url := newRISupervisor(t, 0)
	s.component(url, Options{})
	spec := specify(t, newJobs(t, nil, Limits{}, nil), "now + 0s")
	for range 2 {
		s.push(spec)
		for _, want := range []mplane.Kind{mplane.Receipt, mplane.Result} {
			if m, ok := s.next().(*mplane.Statement); !ok || m.Kind != want || m.Token != spec.ID() {
				t.Errorf("got %v, want a %s", m, want)
			}
		}
	}
}

// TestCallbackLeavesPause checks that a supervisor cannot make a component poll without
// any pause.
func TestCallbackLeavesPause(t *testing.T) {
	reg := exchange.Registries(t)
	c := &Component{jobs: newJobs(t, nil, Limits{}, nil)}
	for when, want := range map[string]time.Duration{"now": 100 * time.Millisecond, "now ... future": 100 * time.Millisecond, "now + 5s": 5 * time.Second, "now + 2d": maxCallback} {
		m, err := reg.Parse([]byte(`{"specification": "measure", "label": "callback", "registry": "` + mplane.TstatRegistry + `", "when": "` + when + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		c.receive(m)
		if c.next != want {
			t.Errorf("%s: the next poll is in %v, want %v", when, c.next, want)
		}
	}
}
