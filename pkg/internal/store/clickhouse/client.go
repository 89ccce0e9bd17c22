package clickhouse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// client sends requests to ClickHouse's HTTP interface.
type client struct {
	cfg            *config
	http           *http.Client
	user, password string
	url            string // of the store, without secrets
	retryFor       time.Duration
	log            *slog.Logger

	mu   sync.Mutex
	host string // the last host that responded, HOST:PORT

	dialer       *peer.Dialer
	stall, whole time.Duration // stallTimeout, wholeTimeout
}

// Limits on a server's response.
const (
	maxError  = 16 << 10
	maxAnswer = 1 << 30 // of a query that returns rows
	maxLine   = 1 << 20
)

// Timeouts for a server. answerTimeout limits the wait for the start of a
// response. It is long, because the server responds to an INSERT only at its
// end, and to ON CLUSTER only after waiting for all nodes. stallTimeout limits
// the wait to send or receive the next bytes. wholeTimeout limits the wait for
// a whole response.
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
			return nil, err // invalid files: a retry would not help
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

// params holds settings of one request.
type params map[string]string

// noDatabase makes client.post omit the database, which may not exist yet.
var noDatabase = params{"database": ""}

// post sends a request to a host, and returns the body of a successful response.
// The caller must close the body. length is the length of the request's body, or
// -1 if unknown. Errors are passed through classify.
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
		if errors.As(err, &ue) { // the error would contain the whole query
			err = ue.Err
		}
		return nil, classify(fmt.Errorf("%s: %w", host, err))
	}
	answer := &answer{ctx: ctx, cancel: cancel, body: resp.Body, stall: c.stall, left: c.whole}
	if resp.StatusCode == http.StatusOK && resp.Header.Get("X-ClickHouse-Exception-Code") == "" {
		return answer, nil
	}
	defer answer.Close()
	text, err := io.ReadAll(io.LimitReader(answer, maxError))
	if len(text) == 0 && err != nil {
		return nil, classify(fmt.Errorf("%s: %w", host, err))
	}
	return nil, classify(answerError(host, resp.StatusCode, resp.Header.Get("X-ClickHouse-Exception-Code"), string(text)))
}

// answer is the body of a response, with timeouts for reading it. The timeouts do not
// count the time between two Reads.
type answer struct {
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	stall  time.Duration // timeout of one Read
	left   time.Duration // timeout of all further Reads
}

var errTimeout = errors.New("it takes too long")

func (a *answer) Read(p []byte) (int, error) {
	begin := time.Now()
	timer := time.AfterFunc(min(a.stall, a.left), func() { a.cancel(errTimeout) })
	n, err := a.body.Read(p)
	timer.Stop()
	a.left -= time.Since(begin)
	if err != nil && err != io.EOF && errors.Is(context.Cause(a.ctx), errTimeout) {
		err = errTimeout
	}
	return n, err
}

func (a *answer) Close() error {
	defer a.cancel(nil)
	return a.body.Close()
}

// retry calls f until it succeeds, its error is permanent, or
// Options.RetryTimeout has passed.
func (c *client) retry(ctx context.Context, f func() error) error {
	p := retry.Policy{Transient: store.IsTransient, Limit: c.retryFor, Retrying: func(err error) {
		c.log.Warn("request failed, retrying", "store", c.url, "err", err)
	}}
	return p.Do(ctx, f)
}

// hostOrder returns the hosts to try, starting with the one that responded most
// recently.
func (c *client) hostOrder() []string {
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

// prefer makes host the first one that hostOrder returns.
func (c *client) prefer(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host = host
}

// tryHosts calls f with one host after the other until f succeeds or returns a
// permanent error. If all hosts fail, it returns the first error.
func (c *client) tryHosts(f func(host string) error) error {
	var first error
	for _, h := range c.hostOrder() {
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

// liveHost returns a host that responds. If there is only one host, it returns
// that host without a request.
func (c *client) liveHost(ctx context.Context) (host string, err error) {
	if len(c.cfg.hosts) == 1 {
		return c.cfg.hosts[0], nil
	}
	err = c.tryHosts(func(h string) error {
		host = h
		return c.query(ctx, h, noDatabase, "select 1", func([]string) error { return nil })
	})
	return host, err
}

// exec runs a statement that returns no rows. If host is "", it uses any available
// host.
func (c *client) exec(ctx context.Context, host string, p params, sql string) error {
	return c.query(ctx, host, p, sql, func([]string) error { return errors.New("unexpected answer") })
}

// query runs a statement and calls f with the unescaped fields of each row in the
// response. If host is "", it uses any available host.
func (c *client) query(ctx context.Context, host string, p params, sql string, f func(row []string) error) error {
	if host == "" {
		return c.tryHosts(func(h string) error { return c.query(ctx, h, p, sql, f) })
	}
	// With this setting, servers report errors before the response instead of in its
	// middle.
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

// readRows calls f with each row of a host's response. A response of more than
// limit bytes is an error.
func readRows(host string, body io.Reader, limit int64, f func(row []string) error) error {
	bounded := &io.LimitedReader{R: body, N: limit + 1}
	in := bufio.NewScanner(bounded)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	in.Split(wholeLines)
	for n := 1; in.Scan(); n++ {
		line := in.Bytes()
		if bytes.HasPrefix(line, []byte("Code: ")) && exception.Match(line) {
			return classify(answerError(host, http.StatusOK, "", string(line)))
		}
		if err := f(splitRow(line)); err != nil {
			return fmt.Errorf("%s: answer, line %d: %w", host, n, err)
		}
	}
	err := in.Err()
	switch {
	case bounded.N == 0: // the limit would look like the end of the response
		err = errors.New("it is too long")
	case errors.Is(err, bufio.ErrTooLong):
		err = errors.New("a line is too long")
	case err == nil:
		return nil
	}
	return classify(fmt.Errorf("%s: answer: %w", host, err))
}

// wholeLines is like bufio.ScanLines, but returns io.ErrUnexpectedEOF if the last
// line has no newline, because then the response is incomplete.
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

// splitRow splits a line in TabSeparated format into unescaped fields.
func splitRow(line []byte) []string {
	row := strings.Split(string(line), "\t")
	for i, f := range row {
		if strings.IndexByte(f, '\\') >= 0 {
			row[i] = unescape.Replace(f)
		}
	}
	return row
}

// quoter escapes the contents of a string literal or of a quoted name.
var quoter = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "`", "\\`", "\n", `\n`, "\t", `\t`, "\r", `\r`, "\x00", `\0`, "\b", `\b`, "\f", `\f`)

// name returns the name of a table, column, database or cluster in quotes. It joins
// several parts by dots.
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

// text returns s as an SQL string literal.
func text(s string) string { return "'" + quoter.Replace(s) + "'" }
