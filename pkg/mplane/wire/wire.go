// Package wire carries mPlane messages over HTTP, as both workflows do it: the
// media type, bounded bodies, who the peer is, and the pages by which
// capabilities are found.
package wire

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/dest"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// ContentType is the media type of messages. The reference implementation
// (RI) compares it as it is, so there are no parameters.
const ContentType = "application/x-mplane+json"

// Paths of the component-initiated workflow.
const (
	CapabilityPath    = "/register/capability"
	SpecificationPath = "/show/specification"
	ResultPath        = "/register/result"
)

// HTML is the media type of the RI's pages of errors and of its empty answers.
const HTML = "text/html; charset=UTF-8"

// Read reads a body of at most mplane.MaxMessage bytes.
func Read(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, mplane.MaxMessage+1))
	if err == nil && len(text) > mplane.MaxMessage {
		err = fmt.Errorf("more than %d bytes", mplane.MaxMessage)
	}
	return text, err
}

// Write answers with a message.
func Write(w http.ResponseWriter, status int, m mplane.Message) {
	text, err := mplane.Marshal(m)
	if err != nil { // what a peer sent may be readable and yet not valid
		text, _ = mplane.Marshal(&mplane.Exception{Message: err.Error()})
	}
	Answer(w, status, ContentType, text)
}

// Answer writes an answer with a length.
func Answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body) // a peer that went away needs no answer
}

// Fail answers with the RI's page of an error.
func Fail(w http.ResponseWriter, status int) {
	text := fmt.Sprintf("%d: %s", status, http.StatusText(status))
	Answer(w, status, HTML, fmt.Appendf(nil, "<html><title>%s</title><body>%s</body></html>", text, text))
}

// Identity returns who sent a request: by its certificate; without one by what
// it says of itself, unless that is the RI's default; else its address.
func Identity(r *http.Request) (string, error) {
	id, err := peer.IdentityOf(r.TLS)
	if err != nil || id != "" {
		return id, err
	}
	if id := r.Header.Get(mplane.IdentityHeader); id != "" && id != mplane.Anonymous {
		if len(id) > 256 {
			return "", errors.New("identity of more than 256 bytes")
		}
		return id, nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return cmp.Or(host, r.RemoteAddr), err
}

// Link returns the root of the server as the peer of a request names it: RI
// components deliver results only where scheme, host and port are those of
// their own configuration.
func Link(r *http.Request) string {
	u := url.URL{Scheme: "http", Host: r.Host, Path: "/"}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return u.String()
}

// Backend answers clients of the client-initiated workflow. Its methods are
// called from several goroutines.
type Backend interface {
	// Capabilities returns what an identity may use.
	Capabilities(identity string) []*mplane.Statement
	// Capability returns the capability or withdrawal with a token, nil if
	// there is none that the identity may use.
	Capability(identity, token string) *mplane.Statement
	// Answer serves a message.
	Answer(ctx context.Context, identity string, m mplane.Message) mplane.Message
}

// Server is the HTTP side of a Backend.
type Server struct {
	Registries *mplane.Registries
	Backend    Backend
}

// ServeHTTP serves /, /capability and /capability/TOKEN.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := Identity(r)
	if err != nil {
		Fail(w, http.StatusBadRequest)
		return
	}
	token, single := strings.CutPrefix(r.URL.Path, "/capability/")
	switch {
	case r.URL.Path == "/" && r.Method == http.MethodPost:
		s.message(w, r, id)
	case r.URL.Path != "/" && r.URL.Path != "/capability" && !single:
		Fail(w, http.StatusNotFound)
	case r.Method != http.MethodGet:
		Fail(w, http.StatusMethodNotAllowed)
	case r.URL.Path == "/":
		s.root(w, r, id)
	case single && token != "":
		c := s.Backend.Capability(id, token)
		if c == nil {
			Fail(w, http.StatusNotFound)
			return
		}
		Write(w, http.StatusOK, linked(c, r))
	default:
		var b bytes.Buffer
		b.WriteString("<html><head><title>Capabilities</title></head><body>")
		for _, c := range s.Backend.Capabilities(id) {
			fmt.Fprintf(&b, "<a href='/capability/%s'>%s</a><br/>", html.EscapeString(url.PathEscape(c.ID())), html.EscapeString(c.ID()))
		}
		b.WriteString("</body></html>")
		Answer(w, http.StatusOK, "text/html", b.Bytes())
	}
}

// linked returns a capability with the link to this server.
func linked(c *mplane.Statement, r *http.Request) *mplane.Statement {
	l := *c
	if l.Kind == mplane.Capability {
		link := Link(r)
		l.Link = &link
	}
	l.Token = c.ID()
	return &l
}

// maxShown is how many capabilities the first page shows, which is for people.
// The page of links has them all.
const maxShown = 100

func (s *Server) root(w http.ResponseWriter, r *http.Request, id string) {
	var b bytes.Buffer
	b.WriteString("<html><head><title>mplane.httpsrv</title></head><body>This is a client-initiated mPlane component. " +
		"POST mPlane messages to this URL to use.<br/><a href='/capability'>Capabilities</a> provided by this server:<br/>")
	list := s.Backend.Capabilities(id)
	for _, c := range list[:min(len(list), maxShown)] {
		if text, err := mplane.Marshal(linked(c, r)); err == nil {
			fmt.Fprintf(&b, "<br/><pre>%s", html.EscapeString(string(text)))
		}
	}
	if len(list) > maxShown {
		fmt.Fprintf(&b, "<br/>and %d more.", len(list)-maxShown)
	}
	b.WriteString("</body></html>")
	Answer(w, http.StatusOK, "text/html", b.Bytes())
}

func (s *Server) message(w http.ResponseWriter, r *http.Request, id string) {
	if r.Header.Get("Content-Type") != ContentType {
		Fail(w, http.StatusUnsupportedMediaType)
		return
	}
	text, err := Read(r.Body)
	var m mplane.Message
	if err == nil {
		m, err = s.Registries.Parse(text)
	}
	if err != nil {
		Write(w, http.StatusBadRequest, &mplane.Exception{Message: err.Error()})
		return
	}
	Write(w, http.StatusOK, s.Backend.Answer(r.Context(), id, m))
}

// NewServer returns a server for a handler of messages, within bounds that
// suit both workflows. Requests in hand see the end of its context, since they
// may wait for a result.
func NewServer(h http.Handler, log *slog.Logger) *peer.Server {
	return &peer.Server{
		Handler: http.MaxBytesHandler(h, mplane.MaxMessage+1), MaxConns: 8192,
		WriteTimeout: 2 * time.Minute, Grace: 5 * time.Second, Interrupt: true, Log: log,
	}
}

// Dialer is how messages are sent to a peer.
type Dialer struct {
	URL      string   // of the peer's root: http or https
	TLS      peer.TLS // files are read again for each connection
	Identity string   // what to call oneself where there is no certificate
	// Timeout bounds a request with its answer; 0: 30s.
	Timeout time.Duration
}

// Conn sends requests to one peer. It is safe for concurrent use.
type Conn struct {
	root     *url.URL
	identity string
	http     *http.Client
	dialer   *peer.Dialer
}

func usage(format string, args ...any) error {
	return hint.Usage(fmt.Sprintf(format, args...), "give a URL like http://127.0.0.1:8890/")
}

// Open returns the connection of d; nothing is sent yet.
func (d Dialer) Open() (*Conn, error) {
	text := d.URL
	if !strings.Contains(text, "://") {
		scheme := "http://"
		if d.TLS.Enabled() {
			scheme = "https://"
		}
		text = scheme + text
	}
	u, err := dest.Parse(text)
	var path string
	if err == nil {
		if _, err = u.Addrs("80"); err == nil {
			path, err = url.PathUnescape(u.Path)
		}
	}
	switch {
	case err != nil:
		return nil, usage("%q is not a URL", dest.Redact(d.URL))
	case u.Scheme != "http" && u.Scheme != "https" || strings.Contains(u.Hosts, ",") || u.User != nil || len(u.Options) > 0 || strings.Contains(u.Path, "#"):
		return nil, usage("%q is not the URL of an mPlane peer", dest.Redact(text))
	case u.Scheme == "http" && d.TLS.Enabled():
		return nil, usage("%s is without TLS, but certificates are given", dest.Redact(text))
	}
	if _, err := d.TLS.Client(); err != nil {
		return nil, err
	}
	root := &url.URL{Scheme: u.Scheme, Host: u.Hosts, Path: strings.TrimSuffix("/"+path, "/")}
	timeout := cmp.Or(d.Timeout, 30*time.Second)
	dialer := &peer.Dialer{TLS: d.TLS, Timeout: min(timeout, 10*time.Second)}
	return &Conn{root, cmp.Or(d.Identity, mplane.Anonymous), &http.Client{
		Timeout: timeout, Transport: dialer.Transport(), CheckRedirect: peer.NoRedirect,
	}, dialer}, nil
}

// Root returns the URL of the peer, with a slash at its end.
func (c *Conn) Root() string { return c.root.String() + "/" }

// Response is an answer, read to its end.
type Response struct {
	Status   int
	Type     string // media type
	Body     []byte
	Identity string    // of the peer's certificate, "" without
	Date     time.Time // of the peer's clock, in whole seconds; zero if it does not say
}

// Do sends a request for a path, which is escaped already, with a message as
// its body if there is one.
func (c *Conn) Do(ctx context.Context, method, path string, m mplane.Message) (*Response, error) {
	var body io.Reader
	if m != nil {
		text, err := mplane.Marshal(m)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.root.String()+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "tstatrepo")
	if m != nil {
		req.Header.Set("Content-Type", ContentType)
	}
	if c.root.Scheme == "http" {
		req.Header.Set(mplane.IdentityHeader, c.identity)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := Read(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", req.URL, err)
	}
	id, err := peer.IdentityOf(resp.TLS)
	if err != nil {
		return nil, err
	}
	date, _ := http.ParseTime(resp.Header.Get("Date")) // zero without
	return &Response{resp.StatusCode, resp.Header.Get("Content-Type"), text, id, date}, nil
}

// PeerIdentity opens a connection to look at the peer's certificate. Without
// TLS the peer is anonymous.
func (c *Conn) PeerIdentity(ctx context.Context) (string, error) {
	if c.root.Scheme == "http" {
		return mplane.Anonymous, nil
	}
	conn, err := c.dialer.DialTLS(ctx, "tcp", net.JoinHostPort(c.root.Hostname(), cmp.Or(c.root.Port(), "443")))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	secured, ok := conn.(*tls.Conn)
	if !ok {
		return "", errors.New("connection without TLS")
	}
	state := secured.ConnectionState()
	return peer.IdentityOf(&state)
}

// Close closes idle connections.
func (c *Conn) Close() { c.http.CloseIdleConnections() }
