// Package wire transports mPlane messages over HTTP, for both the client-initiated and
// the component-initiated workflow. It defines the media type, the limits on body
// sizes, the identity of a peer, and the pages that list capabilities.
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
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// ContentType is the media type of messages. The reference implementation (RI)
// compares it literally, so parameters are not allowed.
const ContentType = "application/x-mplane+json"

// Paths of the component-initiated workflow.
const (
	CapabilityPath    = "/register/capability"
	SpecificationPath = "/show/specification"
	ResultPath        = "/register/result"
)

// HTML is the media type of the RI's error pages and of its empty responses.
const HTML = "text/html; charset=UTF-8"

// Limits on large messages, because parsing a message needs many times its size in
// memory. The constant small is the minimum size of a large message in bytes. At most
// maxLarge large messages are read concurrently, and only one from each remote host.
// Further large messages wait for up to waitLarge. The same applies to large messages that
// are written, which wait for up to waitSending: less than a supervisor keeps a result
// that it takes for delivered.
const (
	small       = 64 << 10
	maxLarge    = 4
	waitLarge   = 30 * time.Second
	waitSending = 8 * time.Second
)

var (
	large   = peer.NewShares(maxLarge, peer.PerHost(maxLarge))
	sending = peer.NewShares(maxLarge, peer.PerHost(maxLarge))
	parsing sync.Mutex // serializes the parsing of large messages
)

// ReadMessage reads and parses the message in the body of a request.
func ReadMessage(r *http.Request, registries *mplane.Registries) (mplane.Message, error) {
	begin, err := io.ReadAll(io.LimitReader(r.Body, small))
	if err != nil {
		return nil, err
	}
	if len(begin) < small {
		return registries.Parse(begin)
	}
	ctx, cancel := context.WithTimeout(r.Context(), waitLarge)
	defer cancel()
	host := Host(r)
	if err := large.Acquire(ctx, host); err != nil {
		return nil, errors.New("other large messages are read")
	}
	defer large.Release(host)
	// Allocate the buffer once, so that it is not copied when it grows.
	var text bytes.Buffer
	text.Grow(int(min(max(r.ContentLength, small), mplane.MaxMessage)) + bytes.MinRead)
	text.Write(begin)
	_, err = text.ReadFrom(io.LimitReader(r.Body, mplane.MaxMessage+1-small))
	switch {
	case err != nil:
		return nil, err
	case text.Len() > mplane.MaxMessage:
		return nil, errTooLarge
	}
	parsing.Lock()
	defer parsing.Unlock()
	return registries.Parse(text.Bytes())
}

var errTooLarge = fmt.Errorf("more than %d bytes", mplane.MaxMessage)

// overhead is the number of bytes that relaying may add to a message: a link, another
// label and token, and the envelope of a poll.
const overhead = 64 << 10

// CheckRelayed returns an error if m is invalid, or if peers could not read m because it
// is too large. A message can grow when it is relayed, because Marshal writes ASCII only.
func CheckRelayed(m mplane.Message) error {
	text, err := mplane.Marshal(m)
	if err != nil {
		return err
	}
	size := len(text)
	for _, c := range []string{"<", ">", "&"} { // state files have six bytes for each of them
		size += 5 * bytes.Count(text, []byte(c))
	}
	if size > mplane.MaxMessage-overhead {
		return fmt.Errorf("message has %d bytes when it is relayed, more than %d", size, mplane.MaxMessage-overhead)
	}
	return nil
}

// Host returns the host that sent a request; see peer.Host.
func Host(r *http.Request) string {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Host(from.Addr())
}

// hostKey is the key of the context value that holds the host that sent a message; see
// HostOf.
type hostKey struct{}

// HostOf returns the host that sent a message. ctx must be the context that a Server
// passed to Backend.Answer with that message.
func HostOf(ctx context.Context) string {
	host, _ := ctx.Value(hostKey{}).(string)
	return host
}

// Write responds with a message.
func Write(w http.ResponseWriter, status int, m mplane.Message) {
	text, err := mplane.Marshal(m)
	if err != nil { // a message parsed from a peer may still be invalid
		text, _ = mplane.Marshal(&mplane.Exception{Message: err.Error()})
	}
	Answer(w, status, ContentType, text)
}

// write responds to a client with a message. The limits on reading large messages apply to
// writing them too, because a client that does not read its response keeps it in memory.
// If they do not allow m, write responds with an error and returns false.
func write(w http.ResponseWriter, r *http.Request, m mplane.Message) bool {
	if mplane.Size(m) >= small {
		ctx, cancel := context.WithTimeout(r.Context(), waitSending)
		defer cancel()
		host := Host(r)
		if err := sending.Acquire(ctx, host); err != nil {
			Fail(w, http.StatusServiceUnavailable)
			return false
		}
		defer sending.Release(host)
	}
	Write(w, http.StatusOK, m)
	return true
}

// Answer writes a response with a Content-Length.
func Answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body) // an error means that the peer has disconnected
}

// Fail responds with an error page like the RI's.
func Fail(w http.ResponseWriter, status int) {
	text := fmt.Sprintf("%d: %s", status, http.StatusText(status))
	Answer(w, status, HTML, fmt.Appendf(nil, "<html><title>%s</title><body>%s</body></html>", text, text))
}

// Identity returns the identity of the sender of r: the identity in the sender's
// certificate or, without one, the value of IdentityHeader. If the header is missing or
// has the RI's default value, Identity returns the sender's address.
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

// Link returns the root URL of this server, with the scheme and host that the sender of r
// used. An RI component delivers results only to a link whose scheme, host and port match
// the component's configuration.
func Link(r *http.Request) string {
	u := url.URL{Scheme: "http", Host: r.Host, Path: "/"}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return u.String()
}

// Backend answers the clients of the client-initiated workflow. It must be safe for
// concurrent use.
type Backend interface {
	// Capabilities returns the capabilities that the given identity may use.
	Capabilities(identity string) []*mplane.Statement
	// Capability returns the capability with the given token, or its withdrawal. It
	// returns nil if the token is unknown or the identity may not use the capability.
	Capability(identity, token string) *mplane.Statement
	// Answer returns the response to a message. HostOf(ctx) is the host that sent it.
	Answer(ctx context.Context, identity string, m mplane.Message) mplane.Message
	// NotDelivered is called if a response that Answer returned could not be sent.
	NotDelivered(identity string, response mplane.Message)
}

// Server serves a Backend over HTTP.
type Server struct {
	Registries *mplane.Registries
	Backend    Backend
}

// pagePath is the path prefix of all pages of links except the first. The prefix is
// followed by the index of the first capability on the page. The index is not in a query,
// because the RI follows all links on a page but may lose the part after a "?".
const pagePath = "/capability-page/"

// ServeHTTP serves /, /capability, /capability/TOKEN and the pages below pagePath.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := Identity(r)
	if err != nil {
		Fail(w, http.StatusBadRequest)
		return
	}
	token, single := strings.CutPrefix(r.URL.Path, "/capability/")
	from, further := strings.CutPrefix(r.URL.Path, pagePath)
	first, err := strconv.Atoi(from)
	switch {
	case r.URL.Path == "/" && r.Method == http.MethodPost:
		s.message(w, r, id)
	case r.URL.Path != "/" && r.URL.Path != "/capability" && !single && (!further || err != nil || first < 0):
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
		write(w, r, linked(c, r))
	default:
		s.page(w, id, max(first, 0))
	}
}

// maxPage is the length, in bytes, at which a page is full: no further capabilities are
// added to it.
const maxPage = 256 << 10

// page responds with links to the capabilities that the client may use, starting at the
// given index. If they do not all fit on the page, the last link leads to the next page.
func (s *Server) page(w http.ResponseWriter, id string, first int) {
	var b bytes.Buffer
	b.WriteString("<html><head><title>Capabilities</title></head><body>")
	list := s.Backend.Capabilities(id)
	i := min(first, len(list))
	for ; i < len(list) && b.Len() < maxPage; i++ {
		token := list[i].ID()
		fmt.Fprintf(&b, "<a href='/capability/%s'>%s</a><br/>", html.EscapeString(url.PathEscape(token)), html.EscapeString(token))
	}
	if i < len(list) {
		fmt.Fprintf(&b, "<a href='%s%d'>%d more</a><br/>", pagePath, i, len(list)-i)
	}
	b.WriteString("</body></html>")
	Answer(w, http.StatusOK, "text/html", b.Bytes())
}

// linked returns a copy of c that contains the token of c. If c is a capability, the copy
// also contains a link to this server; see Link.
func linked(c *mplane.Statement, r *http.Request) *mplane.Statement {
	l := *c
	if l.Kind == mplane.Capability {
		link := Link(r)
		l.Link = &link
	}
	l.Token = c.ID()
	return &l
}

// maxShown is the maximum number of capabilities on the root page, which is meant for
// people. The pages of links list all capabilities.
const maxShown = 100

func (s *Server) root(w http.ResponseWriter, r *http.Request, id string) {
	var b bytes.Buffer
	b.WriteString("<html><head><title>mplane.httpsrv</title></head><body>This is a client-initiated mPlane component. " +
		"POST mPlane messages to this URL to use.<br/><a href='/capability'>Capabilities</a> provided by this server:<br/>")
	list := s.Backend.Capabilities(id)
	shown := 0
	for ; shown < min(len(list), maxShown) && b.Len() < maxPage; shown++ {
		c := list[shown]
		if mplane.Size(c) > maxPage {
			fmt.Fprintf(&b, "<br/><a href='/capability/%s'>a large one</a>", html.EscapeString(url.PathEscape(c.ID())))
		} else if text, err := mplane.Marshal(linked(c, r)); err == nil {
			fmt.Fprintf(&b, "<br/><pre>%s", html.EscapeString(string(text)))
		}
	}
	if len(list) > shown {
		fmt.Fprintf(&b, "<br/>and %d more.", len(list)-shown)
	}
	b.WriteString("</body></html>")
	Answer(w, http.StatusOK, "text/html", b.Bytes())
}

func (s *Server) message(w http.ResponseWriter, r *http.Request, id string) {
	if r.Header.Get("Content-Type") != ContentType {
		Fail(w, http.StatusUnsupportedMediaType)
		return
	}
	m, err := ReadMessage(r, s.Registries)
	if err != nil {
		Write(w, http.StatusBadRequest, &mplane.Exception{Message: err.Error()})
		return
	}
	reply := s.Backend.Answer(context.WithValue(r.Context(), hostKey{}, Host(r)), id, m)
	if !write(w, r, reply) {
		s.Backend.NotDelivered(id, reply)
	}
}

// NewServer returns an HTTP server with limits that suit both workflows. On shutdown, the
// server cancels the contexts of running requests, which may be waiting for a result.
func NewServer(h http.Handler, log *slog.Logger) *peer.Server {
	return &peer.Server{
		Handler: http.MaxBytesHandler(h, mplane.MaxMessage+1), MaxConns: 8192,
		WriteTimeout: 2 * time.Minute, Grace: 5 * time.Second, Interrupt: true, Log: log,
	}
}

// Dialer configures the connection to a peer.
type Dialer struct {
	URL      string   // the peer's root: http or https
	TLS      peer.TLS // files are reread for each connection
	Identity string   // identity sent without a certificate
	// Timeout limits the time for a request and its response; 0 means 30s.
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

// Open returns a connection configured by d. It does not send anything yet.
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

// Root returns the URL of the peer, with a final slash.
func (c *Conn) Root() string { return c.root.String() + "/" }

// IsPage reports whether a response with this media type can be a page of links.
func IsPage(contentType string) bool { return strings.HasPrefix(contentType, "text/html") }

// Response is the response to a request that Conn.Do sent.
type Response struct {
	Status   int
	Type     string // media type
	Body     []byte
	Cut      bool      // the page exceeds the maximum message size, and the rest of it was not read
	Identity string    // identity in the peer's certificate, or ""
	Date     time.Time // the peer's time, in whole seconds; zero if the response lacks it
}

// UnansweredError reports a request that was sent, but to which no response came. The
// peer may have received it.
type UnansweredError struct{ Err error }

func (e *UnansweredError) Error() string { return e.Err.Error() }

// Unwrap returns the reason why no response came.
func (e *UnansweredError) Unwrap() error { return e.Err }

// Do sends a request for path, which must be escaped. If m is not nil, it is the
// request's body.
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
	var written atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) { written.Store(info.Err == nil) },
	}))
	resp, err := c.http.Do(req)
	if err != nil && written.Load() {
		return nil, &UnansweredError{err}
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mplane.MaxMessage+1))
	cut := len(text) > mplane.MaxMessage
	if err == nil && cut && !IsPage(resp.Header.Get("Content-Type")) {
		err = errTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", req.URL, err)
	}
	id, err := peer.IdentityOf(resp.TLS)
	if err != nil {
		return nil, err
	}
	date, _ := http.ParseTime(resp.Header.Get("Date")) // zero if missing
	return &Response{resp.StatusCode, resp.Header.Get("Content-Type"), text, cut, id, date}, nil
}

// PeerIdentity opens a connection to the peer, and returns the identity in the peer's
// certificate. Without TLS it returns mplane.Anonymous.
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
