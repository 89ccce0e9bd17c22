package client

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// serve starts a server with handler h and returns its client.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := Open(wire.Dialer{URL: srv.URL}, reg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestCapabilitiesOfHostileServer checks that the client follows no links to other
// servers, and skips unreadable capabilities.
func TestCapabilitiesOfHostileServer(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("went to %s", r.Host) }))
	defer elsewhere.Close()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			wire.Answer(w, 200, "text/html; charset=UTF-8", fmt.Appendf(nil,
				`<a href='/'>again</a><A HREF="capability">list</A><a href='%s/x'>x</a><a href='//%s/y'>y</a><a href='javascript:z'>z</a>`,
				elsewhere.URL, strings.TrimPrefix(elsewhere.URL, "http://")))
		case "/capability":
			wire.Answer(w, 200, "text/html", []byte(`<a href='/capability/a'>a</a><a href='/capability/b%20c'>b c</a><a href='/gone'>gone</a>`))
		case "/capability/a":
			wire.Answer(w, 200, wire.ContentType, []byte(`{"capability": "measure", "label": "x", "registry": "`+mplane.TstatRegistry+`", "when": "now"}`))
		case "/capability/b c":
			wire.Answer(w, 200, wire.ContentType, []byte(`{"capability": "measure", "registry": "http://127.0.0.1/none", "when": "now"}`))
		default:
			wire.Fail(w, http.StatusNotFound)
		}
	})
	list, unread, err := c.Capabilities(t.Context())
	if err != nil || len(list) != 1 || list[0].Label != "x" || unread == nil || !strings.Contains(unread.Error(), "Invalid Registry uri") {
		t.Errorf("%v, %v, %v", list, unread, err)
	}
}

// TestSendRejectsOtherResponses checks the errors for responses that are not mPlane
// messages.
func TestSendRejectsOtherResponses(t *testing.T) {
	const receipt = `{"receipt": "measure", "registry": "` + mplane.CoreRegistry + `", "when": "now"}`
	for name, a := range map[string]struct {
		status      int
		contentType string
		body        string
		want        string // part of the error; "" if none is expected
	}{
		"receipt":        {200, wire.ContentType, receipt, ""},
		"exception":      {400, wire.ContentType, `{"exception": null, "message": "x"}`, ""},
		"with parameter": {200, wire.ContentType + "; charset=utf-8", receipt, "not with an mPlane message"},
		"page":           {200, "text/html", "hello", "not with an mPlane message"},
		"not found":      {404, wire.HTML, "", "404 Not Found"},
		"redirect":       {302, wire.HTML, "", "302 Found"},
		"not JSON":       {200, wire.ContentType, "{", "not JSON"},
		"too large":      {200, wire.ContentType, strings.Repeat(" ", mplane.MaxMessage+1), "more than"},
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			wire.Answer(w, a.status, a.contentType, []byte(a.body))
		})
		m, err := c.Send(t.Context(), &mplane.Exception{Message: "x"})
		if a.want == "" && (err != nil || m == nil) || a.want != "" && (err == nil || !strings.Contains(err.Error(), a.want)) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	for _, url := range []string{"", "ftp://x", "http://", "http://user:secret@host/", "http://host/?q", "%"} {
		_, err := Open(wire.Dialer{URL: url}, nil)
		if !hint.IsUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestCapabilitiesBeyondLimits checks that the client returns the capabilities within
// the limits, and reports the rest, if a server has too many capabilities or too long a
// page.
func TestCapabilitiesBeyondLimits(t *testing.T) {
	var page strings.Builder
	for i := 0; page.Len() <= mplane.MaxMessage; i++ {
		fmt.Fprintf(&page, "<a href='/capability/%d'>%d</a><br/>", i, i)
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			wire.Answer(w, 200, "text/html", []byte(page.String()))
			return
		}
		wire.Answer(w, 200, wire.ContentType, []byte(`{"capability": "measure", "label": "x", "registry": "`+mplane.TstatRegistry+`", "when": "now"}`))
	})
	c.max = 20
	list, unread, err := c.Capabilities(t.Context())
	if err != nil || len(list) != 20 || unread == nil || !strings.Contains(unread.Error(), "offers more than 20") || !strings.Contains(unread.Error(), "bytes of the page") {
		t.Errorf("%d, %v, %v", len(list), unread, err)
	}
}
