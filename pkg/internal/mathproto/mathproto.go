// Package mathproto implements both roles of MATH, mPlane Authorized Transfer
// via HTTP, which transfers finished log files from probes to a repository. The
// peer may be DBStream's math_probe or math_repo.
//
// A probe is an HTTP server that lists and serves files. It registers a stream,
// a named sequence of files, at a repository, which then requests the probe's
// list and fetches the files that it lacks:
//
//	POST /DBSImport                  probe to repository: here is a stream
//	GET  /DBSImport[/{id}]           anybody to repository: which streams are there
//	GET  /ListDir/{stream}           repository to probe: the list of files, JSON
//	GET  /{file as listed}           repository to probe: a file
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
	// finishedHeader is in a probe's response to ListDir if the list has no
	// file to which Tstat still writes. It is our extension; old probes
	// lack it.
	finishedHeader = "Tstatrepo-Finished"
	userAgent      = "tstatrepo"
	textPlain      = "text/plain; charset=utf-8"
)

// Limits for peers.
const (
	maxBody   = 64 << 10 // bytes of a registration
	maxList   = 64 << 20 // bytes of a list of files, or of registrations
	maxFiles  = 1 << 20  // names in a list
	maxName   = 1 << 10  // bytes of a name
	maxReason = 200      // bytes quoted of a response in a message
	// MaxStreams is the maximum number of streams of a repository.
	MaxStreams = 1000
	// maxPeerStreams is how many of them one peer may register. Streams
	// remain until they are removed, since an old probe registers only
	// once.
	maxPeerStreams = MaxStreams / 4
	// maxTime is the largest StartTime, in the year 36812.
	maxTime = 1 << 40
)

// Registration is the body of POST /DBSImport, and what GET reports about a stream.
type Registration struct {
	XMLName     xml.Name // empty; written by the old encoder by accident, and kept because peers may compare it
	CallBackUrl string   // host:port of the probe
	StreamName  string
	StreamType  string // see LogType
	StartTime   int64  // Unix time; earlier folders are skipped
}

// tcpV15 is DBStream's name of log_tcp_complete.
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

// StreamType returns the StreamType of a log type: DBStream's name if it has
// one.
func StreamType(logType string) string {
	if logType == "log_tcp_complete" {
		return tcpV15
	}
	return logType
}

// URL is a MATH address: math://HOST:PORT of a repository,
// math://HOST:PORT/STREAM of a probe's stream; math+tls with TLS.
type URL struct {
	Addr   string // host:port
	Stream string
	TLS    bool
}

// IsURL reports whether a text has the scheme of a MATH address.
func IsURL(text string) bool {
	return strings.HasPrefix(text, "math://") || strings.HasPrefix(text, "math+tls://")
}

// ParseURL parses the MATH address of a probe's stream or, without a stream, of
// a repository.
func ParseURL(text string, stream bool) (u URL, err error) {
	form := "math://repository:3000"
	if stream {
		form = "math://probe:3001/STREAM"
	}
	// Errors show the text only after Redact: what looks like a port or a
	// stream may be part of a password with a slash.
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

// checkAddr returns an error if a host:port is invalid. Errors do not quote the
// address, which may hold a password.
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

// listed is a name of a probe's list.
type listed struct {
	path   string // as listed, for requests
	name   string // clean and relative
	folder string
	file   string // without the suffix of a compression
	suffix string // of a compression, may be ""
	time   tstat.FolderTime
}

// errHostile is a listed name that leads out of its stream.
var errHostile = errors.New("listed name leads out of the stream")

// parseListed parses a name of a list. ok is false for files other than logs in
// log folders, which old probes list too.
func parseListed(p string, loc *time.Location) (l listed, ok bool, err error) {
	if p == "" || len(p) > maxName || !utf8.ValidString(p) || strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }) {
		return l, false, errHostile
	}
	for e := range strings.SplitSeq(p, "/") {
		if e == ".." {
			return l, false, errHostile
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

// newServer returns a server for either role.
func newServer(h http.Handler, log *slog.Logger) *peer.Server {
	return &peer.Server{Handler: h, MaxConns: 256, WriteTimeout: time.Minute, Grace: time.Second, Log: log}
}

// answer sends a text like the old programs.
func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", textPlain)
	w.WriteHeader(code)
	io.WriteString(w, text) // an error means that the peer is gone
}
