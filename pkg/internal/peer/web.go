package peer

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Reasons for refusing requests from web pages. Any web page can make a browser send
// requests to the user's machine and networks (CSRF). guard recognizes most such requests
// by headers that only browsers send.
var (
	errHost = hint.New("request under a foreign name, perhaps of a web page",
		"call a listener on the loopback address localhost, by its number, or as the setting for its address does")
	errOrigin = hint.New("request of a web page", "only programs may send requests to this listener; open its pages by their address")
	// ErrHTTP is the reason for refusing HTTP where lines are expected.
	ErrHTTP = hint.New("HTTP on a listener for lines of logs, perhaps of a web page", "send lines here, and HTTP to the listener that speaks it")
)

// maxShown is the maximum number of bytes to log from a header.
const maxShown = 80

// guard refuses requests forged by web pages (CSRF). On the loopback address without
// TLS, it also refuses unknown host names, to prevent DNS rebinding. With TLS the
// browser checks the name. On other addresses any name may be valid.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l, _ := r.Context().Value(listenerKey{}).(*Listener)
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		var status int
		var cause error
		var attr, value string
		site := r.Header.Get("Sec-Fetch-Site")
		switch {
		case r.TLS == nil && isLoopback(local) && !l.isOwnName(r.Host):
			status, cause, attr, value = http.StatusMisdirectedRequest, errHost, "host", r.Host
		case len(r.Header["Origin"]) > 0:
			status, cause, attr, value = http.StatusForbidden, errOrigin, "origin", r.Header.Get("Origin")
		case (site == "cross-site" || site == "same-site") && !(s.Linkable && r.Header.Get("Sec-Fetch-Mode") == "navigate"):
			status, cause, attr, value = http.StatusForbidden, errOrigin, "site", site
		default:
			next.ServeHTTP(w, r)
			return
		}
		l.Refuse(textAddr(r.RemoteAddr), cause, attr, value[:min(len(value), maxShown)])
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		io.WriteString(w, cause.Error()+": "+hint.Of(cause)+"\n") // the peer may have gone
	})
}

// listenerKey is the key of the Listener in a request's context.
type listenerKey struct{}

// textAddr is a net.Addr with a textual address, such as http.Request.RemoteAddr.
type textAddr string

func (a textAddr) Network() string { return "tcp" }
func (a textAddr) String() string  { return string(a) }

func isLoopback(a net.Addr) bool {
	if a == nil {
		return false
	}
	at, err := netip.ParseAddrPort(a.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// isOwnName reports whether a Host header names the listener in a way that excludes DNS
// rebinding: by IP address, as localhost, by the name of this machine, or by the name in
// Options.Addr.
func (l *Listener) isOwnName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || host == strings.ToLower(l.host) {
		return true
	}
	if own, err := os.Hostname(); err == nil && host == strings.ToLower(own) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// httpRequest matches the start of an HTTP request: a common method and a space, or a
// complete request line with any method.
var httpRequest = regexp.MustCompile(`^(?:(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) |[^/# \r\n]+ [^\n]* HTTP/[0-9.]+\r?\n)`)

// IsHTTP reports whether the first bytes of a connection are the start of an HTTP
// request. It recognizes uncommon methods only in a complete request line.
func IsHTTP(head []byte) bool {
	return httpRequest.Match(bytes.TrimLeft(head, "\r\n"))
}
