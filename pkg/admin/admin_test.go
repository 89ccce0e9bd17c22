package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// handler serves a state.
func handler(t *testing.T, s *State, ready error) http.Handler {
	t.Helper()
	reg := prometheus.NewRegistry()
	state := func() *State { return s }
	reg.MustRegister(NewCollector(state))
	return Handler(Options{State: state, Gatherer: reg, Ready: func() error { return ready }})
}

func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestPaths(t *testing.T) {
	h := handler(t, busy(), nil)
	down := handler(t, busy(), errors.New("endpoint collect-log is not open"))
	for _, c := range []struct {
		h            http.Handler
		method, path string
		status       int
		contentType  string
		has          string
	}{
		{h, "GET", "/", 200, "text/html; charset=utf-8", "<!DOCTYPE html>"},
		{h, "HEAD", "/", 200, "text/html; charset=utf-8", ""},
		{h, "GET", "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "tstatrepo_import_rows_total{"},
		{h, "GET", "/-/healthy", 200, "text/plain; charset=utf-8", "healthy\n"},
		{h, "GET", "/-/ready", 200, "text/plain; charset=utf-8", "ready\n"},
		{down, "GET", "/-/ready", 503, "text/plain; charset=utf-8", "not ready: endpoint collect-log is not open\n"},
		{down, "GET", "/-/healthy", 200, "text/plain; charset=utf-8", "healthy\n"},
		{h, "GET", "/index.html", 404, "text/plain; charset=utf-8", ""},
		{h, "GET", "/-/", 404, "text/plain; charset=utf-8", ""},
		{h, "GET", "/debug/pprof/", 404, "text/plain; charset=utf-8", ""},
		{h, "POST", "/", 405, "text/plain; charset=utf-8", ""},
		{h, "POST", "/-/ready", 405, "text/plain; charset=utf-8", ""},
		{h, "DELETE", "/metrics", 405, "text/plain; charset=utf-8", ""},
	} {
		w := get(c.h, c.method, c.path)
		if w.Code != c.status || w.Header().Get("Content-Type") != c.contentType || !strings.Contains(w.Body.String(), c.has) {
			t.Errorf("%s %s: %d %q, want %d %q with %q; body %.200q", c.method, c.path, w.Code, w.Header().Get("Content-Type"), c.status, c.contentType, c.has, w.Body)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, got, want)
			}
		}
	}
}

// TestNames: on the loopback address only names that cannot be bound to it by
// somebody else are answered.
func TestNames(t *testing.T) {
	h := handler(t, busy(), nil)
	for _, c := range []struct {
		local, host string
		status      int
	}{
		{"127.0.0.1:9099", "localhost:9099", 200},
		{"127.0.0.1:9099", "LOCALHOST", 200},
		{"127.0.0.1:9099", "repo.localhost:9099", 200},
		{"127.0.0.1:9099", "127.0.0.1:9099", 200},
		{"[::1]:9099", "[::1]:9099", 200},
		{"[::1]:9099", "[::1]", 200},
		{"[::ffff:127.0.0.1]:9099", "evil.example", 421},
		{"127.0.0.1:9099", "evil.example:9099", 421},
		{"127.0.0.1:9099", "localhost.evil.example:9099", 421},
		{"127.0.0.1:9099", "notlocalhost", 421},
		{"[::1]:9099", "evil.example", 421},
		{"10.0.0.1:9099", "repository.polito.it:9099", 200},
	} {
		local, err := net.ResolveTCPAddr("tcp", c.local)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/", "/metrics", "/-/ready"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = c.host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
			if w.Code != c.status {
				t.Errorf("%s as %s at %s: %d, want %d", path, c.host, c.local, w.Code, c.status)
			}
		}
	}
}
