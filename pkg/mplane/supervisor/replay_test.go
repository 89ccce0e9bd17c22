package supervisor

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/mplane/exchange"
)

// differences are the answers that are not those of the reference
// implementation (RI), on purpose: status, then what the body has to contain.
var differences = map[string]struct{ status, body, reason string }{
	"a/007": {"404", "Not Found", "no such capability; the RI fails with 500"},
	"a/008": {"200", "<title>Capabilities</title>", "a slash at the end is the same page; the RI fails with 500"},
	"a/010": {"400", "message is not JSON", "the words are Python's"},
	"a/011": {"415", "Unsupported Media Type", "no mPlane message; the RI fails with 500"},
	"a/017": {"400", "Cannot determine message type", "the rest is Python's way to show the message"},
	"a/018": {"200", "Unexpected message type", "with the token of the message that was not expected"},
	"a/022": {"400", "not JSON", "the RI fails with 500"},
	"a/023": {"400", "not JSON", "the RI fails with 500"},
	"a/054": {"200", "<body></body>", stale},
	"a/058": {"200", "tstat-log_tcp_complete-core", stale},
	"a/059": {"200", "24214de08dae026a393ed3c8f50dab16", stale},
	"a/088": {"200", "tstat-log_tcp_complete-core", stale},
	"a/089": {"200", "24214de08dae026a393ed3c8f50dab16", stale},
}

const stale = "the callback capability of a component that is gone goes too"

// TestReplay plays the part of the RI's clients and components.
func TestReplay(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	var s *Supervisor
	var components, clients *httptest.Server
	start := func() {
		if s, err = New(Options{Registries: reg, Immediate: time.Nanosecond}); err != nil {
			t.Fatal(err)
		}
		components, clients = httptest.NewServer(s.Components()), httptest.NewServer(s.Clients())
		t.Cleanup(components.Close)
		t.Cleanup(clients.Close)
	}
	start()
	tokens := exchange.Tokens{}
	for _, e := range ordered(exchange.Load(t, "a")) {
		switch e.Name {
		case "a/051":
			start() // it has forgotten its components
		case "a/054", "a/056":
			s.tidy(time.Now().Add(time.Minute)) // the component is silent
		}
		if e.Name == "a/056" {
			start() // its counter of labels begins anew
		}
		url := clients.URL
		if e.Link == "comp-sup" {
			url = components.URL
		}
		status, contentType, body := tokens.Do(t, url, e.Request)
		wantStatus, wantType := "", e.Response.Header["Content-Type"]
		_, wantStatus = e.Response.Line()
		problem := ""
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
	}
}

// ordered puts each specification of a client before the poll that it is
// delivered with: the capture has them in the order of their answers.
func ordered(list []*exchange.Exchange) []*exchange.Exchange {
	pending := 0 // specifications that were not delivered yet
	for i := 0; i < len(list); i++ {
		if list[i].Link == "cli-sup" && list[i].Response.Kind() == "receipt" && list[i].Request.Kind() == "specification" {
			pending++
		}
		if list[i].Link != "comp-sup" || !strings.Contains(string(list[i].Response.Text()), `"specification":`) {
			continue
		}
		if pending > 0 {
			pending--
			continue
		}
		for j := i + 1; j < len(list); j++ {
			if list[j].Link == "cli-sup" && list[j].Request.Kind() == "specification" {
				ask := list[j]
				copy(list[i+1:j+1], list[i:j])
				list[i] = ask
				i++ // over the poll
				break
			}
		}
	}
	return list
}
