// Package mathproto implements both sides of MATH (mPlane Authorized Transfer
// via HTTP), which transfers finished log files from probes to a repository.
// The peer of each side can also be a program of DBStream: math_probe on a probe, or
// math_repo on a repository.
//
// A probe is an HTTP server that lists and serves files. It registers a stream, a named
// sequence of files, with a repository. The repository then requests the probe's list
// and fetches the files that it lacks:
//
//	POST /DBSImport                  probe to repository: register a stream
//	GET  /DBSImport[/{id}]           any client to repository: list the streams
//	GET  /ListDir/{stream}           repository to probe: list the files, JSON
//	GET  /{file as listed}           repository to probe: fetch a file
package mathproto

import (
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

const (
	importPath = "/DBSImport"
	listPath   = "/ListDir/"
	// finishedHeader marks a ListDir response that lists only finished files, to which
	// Tstat no longer writes. The header is an extension to MATH that old probes do not
	// send.
	finishedHeader = "Tstatrepo-Finished"
	userAgent      = "tstatrepo"
	textPlain      = "text/plain; charset=utf-8"
)

// Limits on the messages and streams of peers.
const (
	maxBody   = 64 << 10 // bytes of a registration
	maxList   = 64 << 20 // bytes of a list of files, or of registrations
	maxFiles  = 1 << 20  // names in a list
	maxName   = 1 << 10  // bytes of a name
	maxReason = 200      // bytes of a response that an error quotes
	// MaxStreams is the maximum number of streams that a repository accepts.
	MaxStreams = 1000
	// maxPeerStreams is the maximum number of streams that one peer may have. Streams
	// remain registered until they are removed, because old probes register only once.
	maxPeerStreams = MaxStreams / 4
	// maxTime is the largest absolute value of a StartTime. It lies in the year 36812.
	maxTime = 1 << 40
)

// Registration is the body of POST /DBSImport and of the response to GET /DBSImport/{id}.
type Registration struct {
	XMLName     xml.Name // always empty; the old encoder writes it by accident, and peers may compare it
	CallBackUrl string   // host:port of the probe
	StreamName  string
	StreamType  string // see LogType
	StartTime   int64  // Unix time; earlier folders are skipped
}

// tcpV15 is DBStream's name for log_tcp_complete.
const tcpV15 = "log_tcp_complete_v15"

// LogType returns the log type of a StreamType: DBStream's log_tcp_complete_v15
// and log_video_complete, or the name of any log type. It returns nil for an
// unknown StreamType, including DBStream's mawi_wide, which Tstat does not
// write.
func LogType(streamType string) *tstat.LogType {
	if streamType == tcpV15 {
		streamType = "log_tcp_complete"
	}
	return tstat.TypeByName(streamType)
}

// StreamType returns the StreamType for a log type: DBStream's name for it if there is
// one, and otherwise the log type's own name.
func StreamType(logType string) string {
	if logType == "log_tcp_complete" {
		return tcpV15
	}
	return logType
}

// URL is the MATH address of a repository (math://HOST:PORT) or of a stream on a probe
// (math://HOST:PORT/STREAM). With TLS, the scheme is math+tls.
type URL struct {
	Addr   string // host:port
	Stream string
	TLS    bool
}

// IsURL reports whether text has the scheme of a MATH address.
func IsURL(text string) bool {
	return strings.HasPrefix(text, "math://") || strings.HasPrefix(text, "math+tls://")
}

// ParseURL parses a MATH address. If stream is true, text must be the address of a stream
// on a probe, otherwise the address of a repository.
func ParseURL(text string, stream bool) (u URL, err error) {
	form := "math://repository:3000"
	if stream {
		form = "math://probe:3001/STREAM"
	}
	// Errors must show only the redacted text, because an apparent port or stream may
	// be part of a password that contains a slash.
	wrong := func(shown, reason string) (URL, error) {
		return u, hint.Usage(shown+": "+reason, "for example "+form+", or math+tls:// with TLS")
	}
	shown := dest.Redact(text)
	p, err := dest.Parse(text)
	if err != nil || !IsURL(text) {
		return wrong(shown, "it is not a MATH address")
	}
	if p.User != nil || len(p.Options) > 0 {
		return wrong(shown, "it has more than host, port and stream")
	}
	u = URL{Addr: p.Hosts, Stream: strings.Trim(p.Path, "/"), TLS: p.Scheme == "math+tls"}
	if err := checkAddr(u.Addr); err != nil {
		return wrong(shown, err.Error())
	}
	switch {
	case stream && store.ValidProbe(u.Stream) != nil:
		return wrong(shown, "the name of its stream must be 1 to 64 letters, digits, '_' and '-'")
	case !stream && u.Stream != "":
		return wrong(shown, "the address of a repository has no path")
	}
	return u, nil
}

// checkAddr returns an error unless addr is a valid host:port. The error does
// not quote addr, which may contain a password.
func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || strings.ContainsAny(addr, "/@?#% \t\r\n") {
		return errors.New("not host:port")
	}
	if _, err := netip.ParseAddrPort("127.0.0.1:" + port); err != nil || port == "0" {
		return errors.New("port is not a number from 1 to 65535")
	}
	return nil
}

func (u URL) scheme() string {
	if u.TLS {
		return "math+tls"
	}
	return "math"
}

// listedFile is an entry of a probe's list.
type listedFile struct {
	path   string // as listed, for requests
	name   string // clean and relative
	folder string
	file   string // without the compression suffix
	suffix string // compression suffix; "" for a plain file
	time   tstat.FolderTime
}

// errOutsideStream is returned for a name in a probe's list that is invalid or points
// outside the stream.
var errOutsideStream = errors.New("listed name leads out of the stream")

// parseListed parses p, a name from a probe's list. ok is false if p is not a log in a
// log folder; old probes also list other files.
func parseListed(p string, loc *time.Location) (l listedFile, ok bool, err error) {
	if p == "" || len(p) > maxName || !utf8.ValidString(p) || strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }) {
		return l, false, errOutsideStream
	}
	for e := range strings.SplitSeq(p, "/") {
		if e == ".." {
			return l, false, errOutsideStream
		}
	}
	l.path, l.name = p, path.Clean("/" + p)[1:]
	l.folder, l.file = path.Base(path.Dir(l.name)), path.Base(l.name)
	if !tstat.IsLog(l.file) {
		return l, false, nil
	}
	if l.time, err = tstat.ParseFolder(l.folder, loc); err != nil {
		return l, false, nil
	}
	l.file, l.suffix = compression.CutSuffix(l.file)
	return l, true, nil
}

// newServer returns a server for a probe or a repository.
func newServer(h http.Handler, log *slog.Logger) *peer.Server {
	return &peer.Server{Handler: h, MaxConns: 256, WriteTimeout: time.Minute, Grace: time.Second, Log: log}
}

// answer sends a response in the format of math_probe and math_repo, with text as its
// body.
func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", textPlain)
	w.WriteHeader(code)
	io.WriteString(w, text) // an error means that the peer is gone
}
