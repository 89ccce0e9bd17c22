package clickhouse

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/tstatrepo/tstatrepo/pkg/dest"
	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
	"github.com/tstatrepo/tstatrepo/pkg/retry"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/sqlstore"
)

// client speaks ClickHouse's HTTP interface.
type client struct {
	cfg            *config
	http           *http.Client
	user, password string
	url            string // of the store, without secrets
	retryFor       time.Duration
	log            *slog.Logger

	mu   sync.Mutex
	host string // the last that answered, HOST:PORT

	dialer       *peer.Dialer
	stall, whole time.Duration // stallTimeout, wholeTimeout
}

// Bounds of what a server may answer.
const (
	maxError  = 16 << 10
	maxAnswer = 1 << 30 // of a query that returns rows
	maxLine   = 1 << 20
)

// How long a server may take: to begin an answer (nothing comes of an INSERT
// before its end, and ON CLUSTER waits for all nodes), to take or give the next
// bytes, and to give all of an answer.
const (
	connectTimeout = 10 * time.Second
	answerTimeout  = 5 * time.Minute
	stallTimeout   = 5 * time.Minute
	wholeTimeout   = time.Hour
)

func newClient(text string, cfg *config, opt Options) (*client, error) {
	c := &client{cfg: cfg, url: dest.Redact(text), retryFor: opt.RetryTimeout, log: opt.Log, host: cfg.hosts[0],
		dialer: &peer.Dialer{TLS: cfg.tls, Timeout: connectTimeout, WriteStall: stallTimeout}, stall: stallTimeout, whole: wholeTimeout}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.user, c.password, err = cfg.secret(); err != nil {
		return nil, err
	}
	if cfg.secure {
		if _, err := cfg.tls.Client(); err != nil {
			return nil, err // of the files: they do not come by waiting
		}
	}
	t := c.dialer.Transport()
	t.ResponseHeaderTimeout = answerTimeout
	t.WriteBufferSize = 256 << 10
	// Servers close a connection that idles for three seconds.
	t.IdleConnTimeout = 2 * time.Second
	c.http = &http.Client{Transport: t, CheckRedirect: peer.NoRedirect}
	return c, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// params are settings of one request.
type params map[string]string

// noDatabase is the setting for statements about a database that may be missing.
var noDatabase = params{"database": ""}

// post sends a request to a host, and returns the answer to one that
// succeeded. The caller closes it.
func (c *client) post(ctx context.Context, host string, p params, body io.Reader, length int64) (io.ReadCloser, error) {
	q := url.Values{"database": {c.cfg.database}}
	for name, v := range p {
		q.Set(name, v)
	}
	if q.Get("database") == "" {
		q.Del("database")
	}
	u := url.URL{Scheme: "http", Host: host, Path: "/", RawQuery: q.Encode()}
	if c.cfg.secure {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = length
	req.SetBasicAuth(c.user, c.password)
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		var ue *url.Error
		if errors.As(err, &ue) { // it would name the whole query
			err = ue.Err
		}
		return nil, mark(fmt.Errorf("%s: %w", host, err))
	}
	answer := &answer{ctx: ctx, cancel: cancel, body: resp.Body, stall: c.stall, left: c.whole}
	if resp.StatusCode == http.StatusOK && resp.Header.Get("X-ClickHouse-Exception-Code") == "" {
		return answer, nil
	}
	defer answer.Close()
	text, err := io.ReadAll(io.LimitReader(answer, maxError))
	if len(text) == 0 && err != nil {
		return nil, mark(fmt.Errorf("%s: %w", host, err))
	}
	return nil, mark(answerError(host, resp.StatusCode, resp.Header.Get("X-ClickHouse-Exception-Code"), string(text)))
}

// answer is the body of an answer, bounded in time. What its reader does in
// between does not count.
type answer struct {
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	stall  time.Duration // for the next bytes
	left   time.Duration // for the rest
}

var errSlow = errors.New("it takes too long")

func (a *answer) Read(p []byte) (int, error) {
	begin := time.Now()
	timer := time.AfterFunc(min(a.stall, a.left), func() { a.cancel(errSlow) })
	n, err := a.body.Read(p)
	timer.Stop()
	a.left -= time.Since(begin)
	if err != nil && err != io.EOF && context.Cause(a.ctx) == errSlow {
		err = errSlow
	}
	return n, err
}

func (a *answer) Close() error {
	defer a.cancel(nil)
	return a.body.Close()
}

// serverError is what a server has to say. Code is ClickHouse's, 0 if it is
// none of ClickHouse.
type serverError struct {
	host   string
	status int
	code   int
	text   string
}

func (e *serverError) Error() string {
	if e.code == 0 {
		return fmt.Sprintf("%s: HTTP status %d: %s", e.host, e.status, e.text)
	}
	return fmt.Sprintf("%s: %s (code %d)", e.host, e.text, e.code)
}

var exception = regexp.MustCompile(`(?s)^Code: (\d+)[,.](?: e\.displayText\(\) =)? ?(?:DB::[A-Za-z]*Exception|Poco::Exception|std::exception|Coordination::Exception|zkutil::KeeperException)?:? ?(.*)$`)

var nodeException = regexp.MustCompile(`(?s)^There was an error on \[[^\]]*\]: .*?Code: (\d+)[,.]`)

// answerError reads the text of an exception.
func answerError(host string, status int, code, text string) *serverError {
	e := &serverError{host: host, status: status}
	e.code, _ = strconv.Atoi(code) // no number: not ClickHouse's
	if m := exception.FindStringSubmatch(text); m != nil {
		e.code, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	// Of a statement on a cluster, what a node says counts.
	if m := nodeException.FindStringSubmatch(text); m != nil {
		e.code, _ = strconv.Atoi(m[1])
	}
	text, _, _ = strings.Cut(text, ", e.what() = ")
	// One line, and printable: it may be anyone's answer.
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	e.text = text
	return e
}

// Codes of ClickHouse's exceptions that are looked at, of
// dbms/src/Common/ErrorCodes.cpp.
const (
	codeNoSuchColumn    = 16
	codeDuplicateColumn = 15
	codeIllegalColumn   = 44
	codeTableExists     = 57
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
	codeUnknownUser     = 192
	codeWrongPassword   = 193
	codeRequired        = 194
	codeAuthentication  = 516
	codeAccessDenied    = 497
	codeReadonly        = 164
	codeTimeout         = 159
	codeNotInBlock      = 10
	codeKeeper          = 999
)

// passing are the codes of exceptions that may go away by themselves.
var passing = map[int]bool{
	3:   true, // UNEXPECTED_END_OF_FILE, of a node that went away
	32:  true, // ATTEMPT_TO_READ_AFTER_EOF
	74:  true, // CANNOT_READ_FROM_FILE_DESCRIPTOR
	75:  true, // CANNOT_WRITE_TO_FILE_DESCRIPTOR, like a full disk
	95:  true, // CANNOT_READ_FROM_SOCKET
	96:  true, // CANNOT_WRITE_TO_SOCKET
	101: true, // UNEXPECTED_PACKET_FROM_CLIENT
	102: true, // UNEXPECTED_PACKET_FROM_SERVER
	159: true, // TIMEOUT_EXCEEDED
	173: true, // CANNOT_ALLOCATE_MEMORY
	198: true, // DNS_ERROR
	201: true, // QUOTA_EXPIRED, until its interval ends
	202: true, // TOO_MANY_SIMULTANEOUS_QUERIES
	203: true, // NO_FREE_CONNECTION
	204: true, // CANNOT_FSYNC
	209: true, // SOCKET_TIMEOUT
	210: true, // NETWORK_ERROR
	225: true, // NO_ZOOKEEPER
	236: true, // ABORTED
	241: true, // MEMORY_LIMIT_EXCEEDED
	242: true, // TABLE_IS_READ_ONLY, without ZooKeeper
	243: true, // NOT_ENOUGH_SPACE
	244: true, // UNEXPECTED_ZOOKEEPER_ERROR
	252: true, // TOO_MANY_PARTS
	254: true, // NO_ACTIVE_REPLICAS
	274: true, // AIO_READ_ERROR
	275: true, // AIO_WRITE_ERROR
	278: true, // LEADERSHIP_LOST
	279: true, // ALL_CONNECTION_TRIES_FAILED
	285: true, // TOO_FEW_LIVE_REPLICAS
	286: true, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
	292: true, // LEADERSHIP_CHANGED
	319: true, // UNKNOWN_STATUS_OF_INSERT
	341: true, // UNFINISHED
	364: true, // RECEIVED_ERROR_TOO_MANY_REQUESTS
	369: true, // ALL_REPLICAS_ARE_STALE
	384: true, // PART_IS_TEMPORARILY_LOCKED
	394: true, // QUERY_WAS_CANCELLED
	416: true, // REPLICA_STATUS_CHANGED
	425: true, // SYSTEM_ERROR
	439: true, // CANNOT_SCHEDULE_TASK, for want of threads
	473: true, // DEADLOCK_AVOIDED
	517: true, // CANNOT_ASSIGN_ALTER
	519: true, // NO_REMOTE_SHARD_AVAILABLE
	529: true, // NOT_A_LEADER
	999: true, // KEEPER_EXCEPTION
}

// fileCodes are the codes of exceptions that tell of a full or failed disk, or
// of a want of memory or descriptors, by what the system said only.
var fileCodes = map[int]bool{
	76:   true, // CANNOT_OPEN_FILE
	77:   true, // CANNOT_CLOSE_FILE
	88:   true, // CANNOT_TRUNCATE_FILE
	172:  true, // CANNOT_CREATE_DIRECTORY
	424:  true, // CANNOT_LINK
	1000: true, // POCO_EXCEPTION
	1001: true, // STD_EXCEPTION
	1002: true, // UNKNOWN_EXCEPTION
}

var systemPasses = regexp.MustCompile(`No space left|Disk quota exceeded|Read-only file system|Too many open files|Cannot allocate memory|bad_alloc|Input/output error`)

// codeOf returns the code of ClickHouse's exception in err, 0 without one.
func codeOf(err error) int {
	var se *serverError
	if errors.As(err, &se) {
		return se.code
	}
	return 0
}

// mark marks errors that may go away by themselves as store.ErrUnavailable
// and store.ErrTransient, and gives others a hint.
func mark(err error) error {
	if err == nil || errors.Is(err, store.ErrTransient) || errors.Is(err, context.Canceled) {
		return err
	}
	var se *serverError
	if errors.As(err, &se) {
		switch {
		case passing[se.code], se.code == 0 && (se.status >= 502 && se.status <= 504 || se.status == http.StatusTooManyRequests),
			fileCodes[se.code] && systemPasses.MatchString(se.text), se.code == 1000 && strings.Contains(se.text, "Timeout"):
			return sqlstore.Transient(err)
		case se.code == codeUnknownUser, se.code == codeWrongPassword, se.code == codeRequired, se.code == codeAuthentication:
			return hint.Add(err, "give the password in CLICKHOUSE_PASSWORD or ?password-file=FILE, not on the command line")
		case se.code == codeAccessDenied, se.code == codeReadonly:
			return hint.Add(err, "the user needs the rights to read, insert into, create and alter tables of the database")
		case se.code == 0:
			return hint.Add(err, "is it the port of ClickHouse's HTTP interface?")
		}
		return err
	}
	// A certificate does not heal.
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "remote error" && refusal.MatchString(op.Err.Error()):
		return hint.Add(err, "a server that wants certificates of its clients needs cert=FILE and key=FILE, of an authority that it knows")
	case errors.As(err, &unknown):
		return hint.Add(err, "name the authority of the server's certificate with ca=FILE")
	case errors.As(err, &name), errors.As(err, &invalid),
		errors.As(err, &cert), errors.As(err, &record):
		return err
	}
	var ne net.Error
	if errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errSlow) || strings.Contains(err.Error(), "server closed idle connection") {
		return sqlstore.Transient(err)
	}
	return err
}

// refusal are TLS alerts of a server that wants a certificate, or another one;
// crypto/tls has no types for them.
var refusal = regexp.MustCompile(`certificate|access denied|handshake failure|protocol version|insufficient security`)

// retry calls f until its error is none that may go away, or the timeout of
// the options is over.
func (c *client) retry(ctx context.Context, f func() error) error {
	p := retry.Policy{Transient: store.IsTransient, Limit: c.retryFor, Retrying: func(err error) {
		c.log.Warn("will try again", "store", c.url, "err", err)
	}}
	return p.Do(ctx, f)
}

// order returns the hosts to try, the last that answered first.
func (c *client) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	hosts := []string{c.host}
	for _, h := range c.cfg.hosts {
		if h != c.host {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// prefer makes a host the first to try.
func (c *client) prefer(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host = host
}

// each calls f with one host after the other, until one is there.
func (c *client) each(f func(host string) error) error {
	var first error
	for _, h := range c.order() {
		err := f(h)
		if err == nil || !errors.Is(err, store.ErrTransient) {
			c.prefer(h)
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// live returns a host that answers, if there is a choice.
func (c *client) live(ctx context.Context) (host string, err error) {
	if len(c.cfg.hosts) == 1 {
		return c.cfg.hosts[0], nil
	}
	err = c.each(func(h string) error {
		host = h
		return c.query(ctx, h, noDatabase, "select 1", func([]string) error { return nil })
	})
	return host, err
}

// exec runs a statement at a host, or at any that is there.
func (c *client) exec(ctx context.Context, host string, p params, sql string) error {
	return c.query(ctx, host, p, sql, func([]string) error { return errors.New("unexpected answer") })
}

// query runs a statement and calls f with each row of the answer, the fields
// as they are in TabSeparated, unescaped. host is "" for any that is there.
func (c *client) query(ctx context.Context, host string, p params, sql string, f func(row []string) error) error {
	if host == "" {
		return c.each(func(h string) error { return c.query(ctx, h, p, sql, f) })
	}
	// Errors come before the answer, not in the middle of it.
	all := params{"wait_end_of_query": "1"}
	for name, v := range p {
		all[name] = v
	}
	body, err := c.post(ctx, host, all, strings.NewReader(sql), int64(len(sql)))
	if err != nil {
		return err
	}
	defer body.Close()
	return readRows(host, body, maxAnswer, f)
}

// readRows calls f with each row of a host's answer, of at most limit bytes.
func readRows(host string, body io.Reader, limit int64, f func(row []string) error) error {
	bounded := &io.LimitedReader{R: body, N: limit + 1}
	in := bufio.NewScanner(bounded)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	in.Split(wholeLines)
	for n := 1; in.Scan(); n++ {
		line := in.Bytes()
		if bytes.HasPrefix(line, []byte("Code: ")) && exception.Match(line) {
			return mark(answerError(host, http.StatusOK, "", string(line)))
		}
		if err := f(splitRow(line)); err != nil {
			return fmt.Errorf("%s: answer, line %d: %w", host, n, err)
		}
	}
	err := in.Err()
	switch {
	case bounded.N == 0: // else it would look like one that ends here
		err = errors.New("it is too long")
	case err == bufio.ErrTooLong:
		err = errors.New("a line is too long")
	case err == nil:
		return nil
	}
	return mark(fmt.Errorf("%s: answer: %w", host, err))
}

// wholeLines is bufio.ScanLines for text whose last line must have a newline:
// without it, the answer was cut.
func wholeLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}

var unescape = strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\r`, "\r", `\0`, "\x00", `\'`, "'", `\b`, "\b", `\f`, "\f")

// splitRow splits a line of TabSeparated.
func splitRow(line []byte) []string {
	row := strings.Split(string(line), "\t")
	for i, f := range row {
		if strings.IndexByte(f, '\\') >= 0 {
			row[i] = unescape.Replace(f)
		}
	}
	return row
}

// quoter escapes what ends a literal or a quoted name.
var quoter = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "`", "\\`", "\n", `\n`, "\t", `\t`, "\r", `\r`, "\x00", `\0`, "\b", `\b`, "\f", `\f`)

// name quotes the name of a table, column, database or cluster.
func name(parts ...string) string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString("`" + quoter.Replace(p) + "`")
	}
	return b.String()
}

// text quotes a literal.
func text(s string) string { return "'" + quoter.Replace(s) + "'" }
