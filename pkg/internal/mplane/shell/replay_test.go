package shell

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/exchange"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// server responds like a captured RI supervisor. It compares the client's requests with
// those of the RI's client.
type server struct {
	t      *testing.T
	pages  map[string]*exchange.Exchange // by path; the client determines their order
	steps  []*exchange.Exchange          // POST requests, in order
	tokens exchange.Tokens
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	e := s.pages[r.URL.Path]
	if r.Method == http.MethodPost && len(s.steps) > 0 {
		e, s.steps = s.steps[0], s.steps[1:]
	}
	if err != nil || e == nil {
		s.t.Errorf("%s %s: too much, %v", r.Method, r.URL, err)
		wire.Fail(w, http.StatusInternalServerError)
		return
	}
	method, path := e.Request.Line()
	problem := ""
	if r.Method == http.MethodPost {
		problem = s.tokens.Compare(body, e.Request)
	}
	if r.Method != method || r.URL.Path != path || r.Header.Get("Content-Type") != e.Request.Header["Content-Type"] ||
		r.Header.Get(mplane.IdentityHeader) != e.Request.Header["Forged-Mplane-Identity"] || problem != "" {
		s.t.Errorf("%s: %s %s %v, want %s; %s", e.Name, r.Method, r.URL, r.Header, e.Request.Start, problem)
	}
	e.Played()
	status := 0
	_, code := e.Response.Line()
	fmt.Sscan(code, &status)
	wire.Answer(w, status, e.Response.Header["Content-Type"], s.tokens.Rewrite(e.Response.Text()))
}

// TestReplay types the commands that were captured in the RI's shell.
func TestReplay(t *testing.T) {
	reg := exchange.Registries(t)
	all := exchange.Assigned(t, "shell", exchange.Asking)
	for _, part := range []struct {
		first, last string
		typed       []string
		want        []string // parts of the output, in this order
	}{
		{"a/002", "a/003", []string{"listcap"}, nil},
		{"a/025", "a/035", []string{"when now", "runcap repository-collect_log", "showmeas repository-collect_log-0"},
			[]string{"when = now", "repository.url = 127.0.0.1:3000", "ok", "result: measure"}},
		{"a/036", "a/050", []string{"when now + 5s", "runcap repository-collect_streaming mystream-0", "showmeas mystream-0", "showmeas mystream-0",
			"when now ... future", "runcap repository-collect_rrd", "showmeas repository-collect_rrd-1"},
			[]string{"ok", "exception: ", "has no attribute 'timedelta'", "exception: ", "ok", "exception: ", "'res'"}},
		{"a/058", "a/087", []string{"set repository.url localhost:3000", "when now + 1d", "runcap tstat-exporter_log", "listmeas", "listmeas",
			"listmeas", "stopmeas tstat-exporter_log-0", "listmeas", "when now + 4s", "runcap tstat-log_tcp_complete-core", "showmeas tstat-log_tcp_complete-core-1"},
			[]string{"System_ID = 01\nInvoking tstat-exporter_log with parameters {'System_ID': '01', 'repository.url': 'localhost:3000'}\nok", "Receipt tstat-exporter_log-0", "Receipt", "Receipt", "Result  tstat-exporter_log-0", "ok", "result: measure", "resultvalues( 1)"}},
		{"a/088", "a/108", []string{"when repeat now + 25s / 10s { now + 2s }", "runcap tstat-log_rrds", "listmeas", "listmeas", "listmeas", "listmeas"},
			[]string{"ok", "Receipt tstat-log_rrds-0", "Receipt", "Receipt", "Receipt"}},
		{"b/001", "b/004", []string{"when now", "set test.input hello world", "runcap test-loopback", "showmeas test-loopback-0"},
			[]string{"ok", "result: measure", "hello world"}},
		{"b/011", "b/014", []string{"when now", "set test.input abc", "runcap test-loopback", "showmeas test-loopback-0"},
			[]string{"ok", "result: measure", "abc"}},
		{"b/017", "b/023", []string{"when now", "runcap repository-collect_log", "when now + 10s", "runcap repository-collect_rrd", "listmeas"},
			[]string{"ok", "An exception occurred", "Result  repository-collect_log-0", "<Exception: ", "'timedelta'"}},
		{"b/024", "b/044", []string{"set repository.url 1.2.3.4:5", "when now + 1h", "runcap tstat-exporter_log", "listmeas", "stopmeas tstat-exporter_log-0",
			"listmeas", "when now + 2s", "runcap tstat-log_tcp_complete-core", "runcap tstat-exporter_log", "when repeat now + 12s / 5s { now + 1s }",
			"runcap tstat-log_rrds", "showmeas tstat-exporter_log-0", "listmeas", "listmeas"},
			[]string{"ok", "Receipt tstat-exporter_log-0", "Receipt", "ok", "ok", "ok", "result: measure", "Results tstat-log_rrds-3"}},
	} {
		t.Run(strings.ReplaceAll(part.first, "/", ""), func(t *testing.T) {
			s := &server{t: t, tokens: exchange.Tokens{}, pages: map[string]*exchange.Exchange{}}
			pages := exchange.Between(all, part.first, part.last)
			switch part.first {
			case "a/036", "a/058", "a/088": // the RI's client also fetches pages it already knows from a/025 on
				pages = exchange.Between(all, "a/025", part.last)
			case "b/011":
				pages = append(pages, exchange.Between(all, "b/003", "b/003")...)
			}
			for _, e := range pages {
				method, path := e.Request.Line()
				switch {
				case method == http.MethodGet:
					// The RI's client sends no identity with GET requests.
					e.Request.Header["Forged-Mplane-Identity"] = mplane.Anonymous
					s.pages[path] = e
				case e.Name >= part.first:
					s.steps = append(s.steps, e)
				}
			}
			srv := httptest.NewServer(s)
			defer srv.Close()
			c, err := client.Open(wire.Dialer{URL: srv.URL}, reg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var out bytes.Buffer
			sh := &Shell{Session: Session{Client: c, Out: &out, Memory: &Memory{Dir: t.TempDir(), Registries: reg}}}
			if err := sh.Retrieve(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, line := range part.typed {
				if err := sh.Do(t.Context(), line); err != nil {
					t.Fatal(err)
				}
			}
			rest := out.String()
			for _, want := range part.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Errorf("%q is missing in:\n%s", want, out.String())
				}
				rest = after
			}
			if len(s.steps) > 0 {
				t.Errorf("%d requests are missing, first %s", len(s.steps), s.steps[0].Name)
			}
		})
	}
}

// TestTranscript compares the output with that of the RI's shell.
func TestTranscript(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Open(wire.Dialer{URL: "http://127.0.0.1:1/"}, reg)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sh := &Shell{Session: Session{Client: c, Out: &out, Memory: &Memory{Dir: t.TempDir(), Registries: reg}},
		Open: func(url string) (*client.Client, error) { return client.Open(wire.Dialer{URL: url}, reg) }}
	for _, e := range exchange.Load(t, "a") {
		if e.Name >= "a/060" && e.Name <= "a/070" {
			m, err := reg.Parse(e.Response.Text())
			if err != nil {
				t.Fatal(err)
			}
			sh.capabilities = append(sh.capabilities, m.(*mplane.Statement))
		}
	}
	for _, l := range []struct{ line, want string }{
		{"when", "when = None\n"},
		{"when nonsense", "Invalid temporal scope nonsense\n"},
		{"when now + 90s", "when = now + 1m30s\n"},
		{"set repository.url 127.0.0.1:3000", "repository.url = 127.0.0.1:3000\n"},
		{"show", "   1 defaults\nrepository.url = 127.0.0.1:3000\n"},
		{"show nope", "No such default nope\n"},
		{"runcap", "Usage: runcap [label-or-token] ([relabel])\n"},
		{"runcap nosuchcap", "An exception occurred:\nno capability for token or label nosuchcap\n"},
		{"showcap nosuchcap", "Usage: showcap [label-or-token]\n"},
		{"showmeas", "Usage: showmeas [label-or-token]\n"},
		{"stopmeas nosuch", "An exception occurred:\nno such token or label nosuch\n"},
		{"unset nope", "Couldn't unset default(s) nope\n"},
		{"unset repository.url", "ok\n"},
		{"unset when", "ok\n"}, // the RI does not support this
		{"when now", "when = now\n"},
		{"unset", "ok\n"},
		{"when", "when = None\n"},
		{"seturl", "Usage: seturl [url]\n"},
		{"getcap foo", "Bad format for url\n"},
		{"frobnicate", "*** Unknown syntax: frobnicate\n"},
		{"", "*** Unknown syntax: frobnicate\n"}, // an empty line repeats the last command
		{"weblogs on", ""},
		{"tbenable", ""},
		{"seturl http://127.0.0.1:1/", ""},
		{"show \x1b[2J", "No such default \\x1b[2J\n"},
		{"showcap tstat-exporter_log", `capability: measure
    label       : tstat-exporter_log
    link        : http://127.0.0.1:18900/
    token       : 4f823bb30e892d19f2fac69d93c7902c
    when        : past ... future
    registry    : ` + mplane.TstatRegistry + `
    parameters  ( 2): 
                               System_ID: 01
                          repository.url: *
    metadata    ( 3): 
                               System_ID: tStat-Proxy-01
                             System_type: tStat
                          System_version: 0.1

`},
	} {
		out.Reset()
		if err := sh.Do(t.Context(), l.line); err != nil || out.String() != l.want {
			t.Errorf("%s: %v\n%s\nwant:\n%s", l.line, err, &out, l.want)
		}
	}
	for line, want := range map[string]string{
		"ru":                      "runcap",
		"runcap tstat-exporter_r": "tstat-exporter_rrd",
		"showcap 4f8":             "4f823bb30e892d19f2fac69d93c7902c",
		"set repo":                "repository.url",
	} {
		if got := sh.Complete(line); !slices.Equal(got, []string{want}) {
			t.Errorf("%q is completed to %q", line, got)
		}
	}
	for _, line := range []string{"resetclient", "listcap", "listmeas"} {
		out.Reset()
		if err := sh.Do(t.Context(), line); err != nil || out.Len() > 0 {
			t.Errorf("%s: %v, %s", line, err, &out)
		}
	}
}
