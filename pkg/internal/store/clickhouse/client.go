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

// client uses ClickHouse's HTTP interface.
type client struct {
	cfg            *config
	http           *http.Client
	user, password string
	url            string // of the store, without secrets
	retryFor       time.Duration
	log            *slog.Logger

	mu   sync.Mutex
	host string // the last that responded, HOST:PORT

	dialer       *peer.Dialer
	stall, whole time.Duration // stallTimeout, wholeTimeout
}

// Limits of a server's response.
const (
	maxError  = 16 << 10
	maxAnswer = 1 << 30 // of a query that returns rows
	maxLine   = 1 << 20
)

// Limits of a server's delays: to start a response (an INSERT responds only at
// its end, and ON CLUSTER waits for all nodes), to accept or send the next
// bytes, and to send a whole response.
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
			return nil, err // an error in the files, which waiting does not cure
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

// post sends a request to a host, and returns the body of a successful
// response. The caller must close it.
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

// answer is the body of a response with limited delays. The time that its
// reader needs in between does not count.
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
	if err != nil && err != io.EOF && errors.Is(context.Cause(a.ctx), errSlow) {
		err = errSlow
	}
	return n, err
}

func (a *answer) Close() error {
	defer a.cancel(nil)
	return a.body.Close()
}

// retry calls f until it succeeds, its error is permanent, or the timeout of
// the options has passed.
func (c *client) retry(ctx context.Context, f func() error) error {
	p := retry.Policy{Transient: store.IsTransient, Limit: c.retryFor, Retrying: func(err error) {
		c.log.Warn("request failed, retrying", "store", c.url, "err", err)
	}}
	return p.Do(ctx, f)
}

// order returns the hosts to try, starting with the last that responded.
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

// each calls f with one host after the other until one is available.
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

// live returns a host that responds, if there are several.
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

// exec runs a statement on a host; "" stands for any available one.
func (c *client) exec(ctx context.Context, host string, p params, sql string) error {
	return c.query(ctx, host, p, sql, func([]string) error { return errors.New("unexpected answer") })
}

// query runs a statement and calls f with each row of the response: the
// unescaped fields of TabSeparated. host is "" for any available host.
func (c *client) query(ctx context.Context, host string, p params, sql string, f func(row []string) error) error {
	if host == "" {
		return c.each(func(h string) error { return c.query(ctx, h, p, sql, f) })
	}
	// Errors come before the response, not in the middle of it.
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

// readRows calls f with each row of a host's response, of at most limit bytes.
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
	case bounded.N == 0: // otherwise the response would look complete
		err = errors.New("it is too long")
	case errors.Is(err, bufio.ErrTooLong):
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

// quoter escapes the characters that end a literal or a quoted name.
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
