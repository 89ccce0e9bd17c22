// Package admin serves the administration listener of a repository or probe: a
// status page, the same status as JSON, metrics for Prometheus, and health checks.
// All of it is read-only.
package admin

import (
	"bytes"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options configures Handler.
type Options struct {
	// State returns a snapshot for a request. It may be called concurrently.
	State func() *State
	// Gatherer provides /metrics; see NewCollector.
	Gatherer prometheus.Gatherer
	// Ready returns an error if the service is not ready. If Ready is nil, the
	// service is always ready. The page and /-/ready show the error to all clients.
	Ready func() error
}

// maxScrapes is the maximum number of concurrent requests for metrics.
const maxScrapes = 4

// Handler serves
//
//	/           the page: status, problems and hints; JSON for clients that
//	            prefer application/json, see Keys
//	/metrics    metrics for Prometheus
//	/-/healthy  200 if the process responds
//	/-/ready    200, or 503 and the reason
//
// It only accepts GET and HEAD.
func Handler(opt Options) http.Handler {
	if opt.Ready == nil {
		opt.Ready = func() error { return nil }
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", &page{opt: opt, now: time.Now})
	mux.Handle("GET /metrics", promhttp.HandlerFor(opt.Gatherer, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "healthy")
	})
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := opt.Ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	return secured(mux)
}

// policy is the Content-Security-Policy of the page. It forbids scripts, frames and all
// external resources. The style and the icon are embedded, and the form may only be
// submitted to the same server.
var policy = "default-src 'none'; style-src '" + styleHash + "'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secured returns a handler that calls next and adds security headers to all responses.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// answer sends a one-line text response.
func answer(w http.ResponseWriter, status int, text string) {
	send(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // the client may have disconnected
}

// page is the handler of the status page.
type page struct {
	opt Options
	now func() time.Time
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := newView(p.opt.State(), p.opt.Ready(), p.now(), r.URL.Query())
	w.Header().Set("Vary", "Accept")
	if wantsJSON(r.Header.Values("Accept")) {
		text, err := marshal(v)
		if err != nil {
			answer(w, http.StatusInternalServerError, "status: "+err.Error())
			return
		}
		send(w, http.StatusOK, "application/json", text)
		return
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, v); err != nil {
		answer(w, http.StatusInternalServerError, "page: "+err.Error())
		return
	}
	send(w, http.StatusOK, "text/html; charset=utf-8", b.Bytes())
}
