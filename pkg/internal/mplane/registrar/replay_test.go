package registrar

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// differences lists the responses that deviate from those of the reference
// implementation (RI) on purpose.
var differences = map[string]struct{ status, body, reason string }{
	"b/056": {"200", `"now + 2s"`, "an envelope in an envelope; the RI fails with 500 and loses what is in it"},
}

// TestReplay sends the captured requests of components and supervisors that registered
// at a listening client of the RI.
func TestReplay(t *testing.T) {
	reg := exchange.Registries(t)
	parse := func(m exchange.Message) mplane.Message {
		t.Helper()
		parsed, err := reg.Parse(m.Text())
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	all := exchange.Assigned(t, "registrar", exchange.Answering)
	for _, part := range []struct{ first, last string }{
		{"b/048", "b/052"}, // shell; a result
		{"b/053", "b/062"}, // callback, an envelope in an envelope, several at once
		{"b/070", "b/078"}, // shell; an RI supervisor
	} {
		t.Run(strings.ReplaceAll(part.first, "/", ""), func(t *testing.T) {
			var received received
			l := New(reg, &received, discard)
			srv := httptest.NewServer(l)
			defer srv.Close()
			tokens := exchange.Tokens{}
			var callback mplane.Message
			for _, e := range exchange.Between(all, part.first, part.last) {
				// Queue the specifications that the component gets.
				if e.Response.Kind() == "envelope" {
					for _, m := range parse(e.Response).(*mplane.Envelope).Messages {
						callback = &mplane.Envelope{Messages: []mplane.Message{m}}
						if s := m.(*mplane.Statement); s.Kind == mplane.Specification {
							s.Link = nil
						}
						if err := l.Queue("127.0.0.1", m); err != nil {
							t.Fatal(err)
						}
					}
				}
				if e.Name == "b/056" {
					if err := l.Queue("127.0.0.1", callback); err != nil {
						t.Fatal(err)
					}
				}
				received = nil
				status, contentType, body := tokens.Do(t, srv.URL, e.Request)
				_, wantStatus := e.Response.Line()
				wantType, problem := e.Response.Header["Content-Type"], ""
				if d, ok := differences[e.Name]; ok {
					wantStatus, wantType = d.status, contentType
					if !strings.Contains(string(body), d.body) {
						problem = string(body)
					}
				} else {
					problem = tokens.Compare(body, e.Response)
				}
				if status != wantStatus || contentType != wantType || problem != "" {
					t.Errorf("%s %s: status %s, want %s; %q, want %q; %s", e.Name, e.Request.Start, status, wantStatus, contentType, wantType, problem)
				}
				if strings.Contains(e.Request.Start, "/register/result") {
					if len(received) != 1 {
						t.Errorf("%s: %d messages arrived, want 1", e.Name, len(received))
						continue
					}
					text, err := mplane.Marshal(received[0])
					if err != nil {
						t.Error(err)
					}
					if d := tokens.Compare(text, e.Request); d != "" {
						t.Errorf("%s: what arrived: %s", e.Name, d)
					}
				}
				e.Played()
			}
		})
	}
}
