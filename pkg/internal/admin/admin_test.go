package admin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// handler returns a handler that serves a fixed state.
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
