package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// serverCauses lists substrings of handshake error messages, each with the cause to
// report. The first match applies. Package tls has no error values for most of these
// errors.
var serverCauses = []struct {
	text  string
	cause error
}{
	{"didn't provide a certificate", hint.New("TLS without a client certificate", "the peer needs a certificate of an authority in `tls-ca`")},
	{"unknown authority", hint.New("TLS with a client certificate of an unknown authority", "add the authority to `tls-ca` if it is a peer's")},
	{"expired or is not yet valid", hint.New("TLS with a client certificate that is not valid now", "renew it, or look at the clocks")},
	{"verify certificate", errors.New("TLS with a client certificate that is not accepted")},
	{"does not look like a TLS handshake", errPlain},
	{"HTTP request to an HTTPS server", errPlain},
	{"unknown certificate authority", errOwnCertificate},
	{"bad certificate", errOwnCertificate},
	{"remote error", hint.New("TLS that the peer ended", "see the log of the peer")},
	{"tls: ", errors.New("TLS that failed")},
	{"i/o timeout", errors.New("TLS handshake that took too long")},
}

var errPlain = hint.New("no TLS on a listener with TLS", "the peer has to connect with TLS: https, or a scheme with +tls")

var errOwnCertificate = hint.New("TLS whose certificate the peer does not accept", "the peer has to know the authority of `tls-cert`, and the name or address that it connects to must be in the certificate")

// refuseTLS counts and logs a failed TLS handshake with a peer. text is the error
// message. A peer that only disconnects, like a port check, does not count as refused.
func (r *refuser) refuseTLS(from net.Addr, text string) {
	for _, c := range serverCauses {
		if strings.Contains(text, c.text) {
			r.Refuse(from, c.cause, "err", text)
			return
		}
	}
	r.log.Debug("TLS handshake failed", "peer", from, "address", r.listen, "err", text)
}

// Handshake performs the TLS handshake of c, a connection that l accepted. It fails if
// the handshake takes longer than timeout. It counts and logs failures; see refuseTLS.
func (l *Listener) Handshake(c *tls.Conn, timeout time.Duration) error {
	c.SetDeadline(time.Now().Add(timeout))
	if err := c.Handshake(); err != nil {
		l.refuseTLS(c.RemoteAddr(), err.Error())
		return err
	}
	return c.SetDeadline(time.Time{})
}

// handshakeError is the prefix of the line that http.Server logs for a failed
// handshake.
const handshakeError = "http: TLS handshake error from "

// serverLog receives the log lines of an http.Server. It detects failed handshakes,
// which http.Server only reports as text.
type serverLog struct {
	listener *Listener
	log      *slog.Logger // for other lines
}

func (s *serverLog) Write(text []byte) (int, error) {
	line := strings.TrimSpace(string(text))
	if rest, ok := strings.CutPrefix(line, handshakeError); ok {
		from, reason, _ := strings.Cut(rest, ": ")
		s.listener.refuseTLS(textAddr(from), reason)
	} else {
		s.log.Debug("HTTP server reported an error", "err", line)
	}
	return len(text), nil
}

// ExplainTLS adds a hint to an error from a TLS connection to a peer. It returns
// other errors unchanged.
func ExplainTLS(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var header tls.RecordHeaderError
	var remote *net.OpError
	switch {
	case err == nil || hint.Of(err) != "":
	case errors.As(err, &unknown):
		return hint.Add(err, "name the authority of the peer's certificate in `tls-ca`")
	case errors.As(err, &name):
		return hint.Add(err, "connect to a name or address that is in the peer's certificate")
	case errors.As(err, &header):
		if string(header.RecordHeader[:]) == "HTTP/" { // as http.Client does
			err = http.ErrSchemeMismatch
		}
		return hint.Add(err, "does this port speak TLS?")
	case !errors.As(err, &remote) || remote.Op != "remote error":
	case strings.Contains(err.Error(), "certificate required"):
		return hint.Add(err, "the peer asks for a certificate: name one in `tls-cert` and `tls-key`")
	case strings.Contains(err.Error(), "certificate"), strings.Contains(err.Error(), "handshake failure"):
		return hint.Add(err, "the peer may ask for a certificate: name one in `tls-cert` and `tls-key`, of an authority in its `tls-ca`")
	}
	return err
}

// Transport is an http.RoundTripper for requests to peers. It adds hints to TLS
// errors; see ExplainTLS.
type Transport struct{ *http.Transport }

// RoundTrip implements http.RoundTripper. In TLS 1.3 a peer that rejects the client's
// certificate sends an alert only after the client's handshake has ended.
// http.Transport may then report only that the connection was closed, so RoundTrip
// returns the alert instead.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var conn net.Conn
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn }}
	resp, err := t.Transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err == nil {
		return resp, nil
	}
	if secured, ok := conn.(*tls.Conn); ok && req.Context().Err() == nil {
		// The connection is closed by now, but Read still returns the connection's
		// first error.
		secured.SetReadDeadline(time.Unix(1, 0))
		var remote *net.OpError
		if _, alert := secured.Read(make([]byte, 1)); errors.As(alert, &remote) && remote.Op == "remote error" {
			err = alert
		}
	}
	return nil, ExplainTLS(err)
}

// alertWait is how long a failed write to an alertConn waits for the alertConn to be
// closed.
const alertWait = time.Second

// alertConn is the net.Conn below a TLS connection. A failed Write does not return at
// once, so that the reader can first receive the TLS alert that explains the failure; see
// alertWait.
type alertConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
	ending atomic.Bool
}

// SetWriteDeadline implements net.Conn. tls.Conn calls it before its last write. From
// then on, a failed write returns at once.
func (c *alertConn) SetWriteDeadline(t time.Time) error {
	c.ending.Store(true)
	return c.Conn.SetWriteDeadline(t)
}

func (c *alertConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !c.ending.Load() && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		select {
		case <-c.closed:
		case <-time.After(alertWait):
		}
	}
	return n, err
}

func (c *alertConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// HandshakeError adds a hint to the error from a client's TLS handshake.
func HandshakeError(err error) error {
	if errors.Is(err, io.EOF) {
		return hint.Add(errors.New("TLS handshake: the peer closed the connection"), "does this port speak TLS?")
	}
	return ExplainTLS(err)
}
