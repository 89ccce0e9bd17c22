// Package admin is the administration listener of a repository or probe: a
// page for people, metrics for Prometheus, and answers for those who watch
// whether the process lives. It only reads: nothing can be changed through it.
package admin

import (
	"bytes"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options say what Handler shows.
type Options struct {
	// State makes a snapshot for a request. It is called concurrently.
	State func() *State
	// Gatherer has what /metrics tells: see NewCollector.
	Gatherer prometheus.Gatherer
	// Ready returns nil when all is open that should be, else what is not.
	// nil: always ready. The reason is shown to everybody who asks.
	Ready func() error
}

// maxScrapes bounds the requests for metrics at a time.
const maxScrapes = 4

// Handler serves
//
//	/           the page: how is everything, and what to do about it
//	/metrics    metrics for Prometheus
//	/-/healthy  200 as long as the process answers
//	/-/ready    200, or 503 and the reason
//
// to GET and HEAD. Everything else is 404 or 405.
//
// A web page that somebody on this machine looks at cannot read from here,
// although the browser reaches the loopback address: a request that came to a
// loopback address has to call it localhost or by its number, so that a name
// that was bound to 127.0.0.1 afterwards (DNS rebinding) gets 421. On other
// addresses certificates or networks keep strangers out, and any name is
// good.
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
	return guard(mux)
}

// policy lets the page load nothing from anywhere, run nothing, and stand in
// no frame. Its style and its icon are in the page itself, and its form asks
// the page itself.
var policy = "default-src 'none'; style-src '" + styleHash + "'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guard refuses requests under foreign names and sets the headers that all
// answers have.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !named(r) {
			answer(w, http.StatusMisdirectedRequest, "this is a listener on the loopback address: call it localhost")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// named tells whether the request names the listener in a way that it may be
// named.
func named(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true // no listener
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}

// answer sends a line of text.
func answer(w http.ResponseWriter, status int, text string) {
	send(w, status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // the peer may have gone
}

// page serves the page.
type page struct {
	opt Options
	now func() time.Time
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, newView(p.opt.State(), p.opt.Ready(), p.now(), r.URL.Query())); err != nil {
		answer(w, http.StatusInternalServerError, "page: "+err.Error())
		return
	}
	send(w, http.StatusOK, "text/html; charset=utf-8", b.Bytes())
}
