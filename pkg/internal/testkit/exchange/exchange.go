// Package exchange provides HTTP exchanges captured between the programs of the reference
// implementation (RI). Tests replay them against tstatrepo's programs.
package exchange

import (
	"bufio"
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

//go:embed testdata/*.jsonl
var captured embed.FS

// Exchange is a request with its response. Its Name is SCENARIO/NUMBER.
type Exchange struct {
	Name string
	// Link names the sender and the receiver of the request:
	//
	//	comp-sup            component to supervisor
	//	cli-sup             client to supervisor
	//	cli-comp, cli-repo  client to component
	//	comp-cli            component to listening client or supervisor
	//	sup-upstream        supervisor to listening client
	Link              string
	Request, Response Message

	played atomic.Bool
}

// Message is the request or the response of an exchange.
type Message struct {
	Start  string            // request or status line
	Header map[string]string // Host, Content-Type and Forged-Mplane-Identity
	Body   any               // decoded JSON, or a string
}

// Load returns the exchanges of the given scenario, "a" or "b".
func Load(t testing.TB, scenario string) []*Exchange {
	t.Helper()
	text, err := captured.ReadFile("testdata/" + scenario + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var list []*Exchange
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := new(Exchange)
		if err := json.Unmarshal(lines.Bytes(), e); err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// Line returns the first two fields of the start line: method and path of a
// request, or protocol and status of a response.
func (m Message) Line() (first, second string) {
	f := strings.Fields(m.Start)
	return f[0], f[1]
}

// Text returns the body of m. A JSON body is encoded again, so its whitespace may differ
// from that of the captured body.
func (m Message) Text() []byte {
	if s, ok := m.Body.(string); ok {
		return []byte(s)
	}
	text, err := json.Marshal(m.Body)
	if err != nil {
		panic(err) // it was decoded from JSON
	}
	return text
}

// Kind returns the key that names the kind of an mPlane message, or "" if the message is
// not an mPlane message.
func (m Message) Kind() string {
	o, _ := m.Body.(map[string]any)
	for _, k := range []string{"capability", "specification", "result", "receipt", "redemption", "withdrawal", "interrupt", "exception", "envelope"} {
		if _, ok := o[k]; ok {
			return k
		}
	}
	return ""
}

// Tokens maps tokens in the capture to tokens in a replay. The tokens differ,
// but messages that share a token in the capture must share one in the replay.
type Tokens map[string]string

// Rewrite returns body with the capture's tokens replaced by the replay's.
func (t Tokens) Rewrite(body []byte) []byte {
	s := string(body)
	for _, old := range slices.Sorted(maps.Keys(t)) {
		s = strings.ReplaceAll(s, `"`+old+`"`, `"`+t[old]+`"`)
	}
	return []byte(s)
}

var times = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}( \.\.\. \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})?`)

// Compare describes how got differs from the body of want. It returns "" if they differ
// only in tokens and times. It also adds captured tokens that t does not have yet.
func (t Tokens) Compare(got []byte, want Message) string {
	if _, text := want.Body.(string); text {
		g, w := html.UnescapeString(string(got)), string(t.Rewrite(want.Text()))
		for old, new := range t {
			w = strings.ReplaceAll(w, old, new)
		}
		for i := range w {
			if i >= len(g) || g[i] != w[i] {
				from := max(i-50, 0)
				return fmt.Sprintf("…%.100q, want …%.100q", g[min(from, len(g)):], w[from:])
			}
		}
		if len(g) > len(w) {
			return fmt.Sprintf("%.100q is too much", g[len(w):])
		}
		return ""
	}
	var v any
	if err := json.Unmarshal(got, &v); err != nil {
		return fmt.Sprintf("%v: %s", err, got)
	}
	return t.differ("", v, want.Body)
}

func (t Tokens) differ(path string, got, want any) string {
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if _, ok := g[k]; !ok {
				return fmt.Sprintf("%s/%s is missing in %v", path, k, got)
			}
			if d := t.differ(path+"/"+k, g[k], w[k]); d != "" {
				return d
			}
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				return fmt.Sprintf("%s/%s is too much: %v", path, k, g[k])
			}
		}
		return ""
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			return fmt.Sprintf("%s has %d elements, want %d: %v", path, len(g), len(w), got)
		}
		for i := range w {
			if d := t.differ(fmt.Sprintf("%s/%d", path, i), g[i], w[i]); d != "" {
				return d
			}
		}
		return ""
	case string:
		g, _ := got.(string)
		if strings.HasSuffix(path, "/token") || strings.HasSuffix(path, "/exception") {
			if _, ok := t[w]; !ok && g != "" {
				t[w] = g
			}
			w = t[w]
		}
		if times.ReplaceAllString(g, "TIME") != times.ReplaceAllString(w, "TIME") {
			return fmt.Sprintf("%s is %q, want %q", path, g, w)
		}
		return ""
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Sprintf("%s is %v, want %v", path, got, want)
	}
	return ""
}

// Do sends the captured request m to the server at url, with tokens replaced according
// to t. It returns the status, media type and body of the response.
func (t Tokens) Do(tb testing.TB, url string, m Message) (status, contentType string, body []byte) {
	tb.Helper()
	method, path := m.Line()
	for old, new := range t {
		path = strings.ReplaceAll(path, old, new)
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, url+path, bytes.NewReader(t.Rewrite(m.Text())))
	if err != nil {
		tb.Fatal(err)
	}
	for k, v := range m.Header {
		if k == "Host" {
			req.Host = v
		} else {
			req.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		tb.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode), resp.Header.Get("Content-Type"), body
}
