package supervisor

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
)

// differences lists the responses that deviate from those of the reference
// implementation (RI) on purpose: the status, then the required part of the body.
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

// play sends the request of an exchange to a site. It compares the response with the
// captured one, or with the listed difference.
func (x *site) play(tokens exchange.Tokens, e *exchange.Exchange) {
	x.t.Helper()
	url := x.clients.URL
	if strings.HasPrefix(e.Link, "comp-") {
		url = x.components.URL
	}
	status, contentType, body := tokens.Do(x.t, url, e.Request)
	wantType := e.Response.Header["Content-Type"]
	_, wantStatus := e.Response.Line()
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
		x.t.Errorf("%s %s: status %s, want %s; %q, want %q; %s", e.Name, e.Request.Start, status, wantStatus, contentType, wantType, problem)
	}
	e.Played()
}

// TestReplay sends the captured requests of the RI's clients and components.
func TestReplay(t *testing.T) {
	opt := Options{Immediate: time.Nanosecond}
	x := newSite(t, opt)
	tokens := exchange.Tokens{}
	for _, e := range ordered(exchange.Assigned(t, "supervisor", exchange.Answering)) {
		switch e.Name {
		case "a/051":
			x = newSite(t, opt) // the supervisor has forgotten its components
		case "a/054", "a/056":
			x.s.tidy(time.Now().Add(time.Minute)) // the component is silent
		}
		if e.Name == "a/056" {
			x = newSite(t, opt) // the counter in labels restarts
		}
		x.play(tokens, e)
	}
}

// TestReplayResult plays a client that gets its result immediately, and the component.
// In the RI the component waits for supervisors; here it registers.
func TestReplayResult(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Minute})
	tokens := exchange.Tokens{}
	do := func(method, path string, body any) []byte {
		header := map[string]string{"Content-Type": wire.ContentType}
		status, _, answer := exchange.Tokens{}.Do(t, x.components.URL, exchange.Message{Start: method + " " + path, Header: header, Body: body})
		if status != "200" {
			t.Errorf("%s %s: status %s", method, path, status)
		}
		return answer
	}
	all := exchange.Load(t, "b")
	offer := exchange.Between(all, "b/008", "b/008")[0].Response.Body.(map[string]any)
	result := exchange.Between(all, "b/013", "b/013")[0].Response.Body.(map[string]any)
	do("POST", wire.CapabilityPath, map[string]any{"envelope": "message", "version": 1, "contents": []any{offer}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			var got struct{ Contents []map[string]any }
			if err := json.Unmarshal(do("GET", wire.SpecificationPath, ""), &got); err != nil {
				t.Error(err)
			}
			if len(got.Contents) > 0 {
				result["token"] = got.Contents[0]["token"]
				do("POST", wire.ResultPath, result)
				return
			}
		}
	}()
	for _, e := range exchange.Assigned(t, "supervisor", exchange.Answering) {
		x.play(tokens, e)
	}
	<-done
}

// TestReplayWithdrawal plays a component that withdraws a capability and registers it
// again.
func TestReplayWithdrawal(t *testing.T) {
	x := newSite(t, Options{})
	tokens := exchange.Tokens{}
	for _, e := range exchange.Assigned(t, "supervisor", exchange.Answering) {
		x.play(tokens, e)
	}
}

// TestReplayUpstream plays a component whose supervisor, in the RI, serves another
// supervisor. Here the client connects directly.
func TestReplayUpstream(t *testing.T) {
	x := newSite(t, Options{Immediate: time.Nanosecond})
	tokens := exchange.Tokens{}
	for _, e := range exchange.Assigned(t, "supervisor", exchange.Answering) {
		if e.Name == "b/079" {
			above := exchange.Between(exchange.Load(t, "b"), "b/077", "b/077")[0].Response.Body
			ask := e.Request
			ask.Start = "POST / HTTP/1.1"
			ask.Header = map[string]string{"Content-Type": wire.ContentType}
			ask.Body = above.(map[string]any)["contents"].([]any)[0]
			if status, _, body := tokens.Do(t, x.clients.URL, ask); status != "200" || !strings.Contains(string(body), `"receipt"`) {
				t.Errorf("%s %s", status, body)
			}
		}
		x.play(tokens, e)
	}
}

// ordered moves each specification of a client before the poll that delivers it,
// because the capture is in the order of the responses.
func ordered(list []*exchange.Exchange) []*exchange.Exchange {
	pending := 0 // specifications not delivered yet
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
				i++ // skip the poll
				break
			}
		}
	}
	return list
}
