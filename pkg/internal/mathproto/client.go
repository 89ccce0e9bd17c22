package mathproto

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// timing limits how long a client waits for its peer.
type timing struct {
	dial   time.Duration
	stall  time.Duration // longest wait for the next byte
	resume int           // maximum number of consecutive attempts to resume that yield no bytes
	pause  time.Duration // delay before the first of these attempts; doubles up to maxPause
}

var defaultTiming = timing{dial: 10 * time.Second, stall: 2 * time.Minute, resume: 10, pause: 100 * time.Millisecond}

const maxPause = 5 * time.Second

// client sends requests to one peer.
type client struct {
	http    *http.Client
	tls     bool
	timing  timing
	reading atomic.Pointer[clockReading] // the latest reading; nil before the peer sends its time
}

// clockReading is a reading of a peer's clock.
type clockReading struct {
	ahead time.Duration // how far the peer's clock is ahead of the local clock
	at    time.Time     // local time of the reading
}

// clock returns how far the peer's clock is ahead of the local clock. It also returns
// the local time at which the peer's clock was read. Both are zero until the peer has
// sent its time.
func (c *client) clock() (ahead time.Duration, at time.Time) {
	if r := c.reading.Load(); r != nil {
		return r.ahead, r.at
	}
	return 0, time.Time{}
}

// newClient returns a client that connects only to addresses for which allowed returns
// nil. If allowed is nil, all addresses are allowed. The client does not follow
// redirects or use a proxy.
func newClient(useTLS bool, files peer.TLS, allowed func(netip.Addr) error, t timing) *client {
	d := &peer.Dialer{TLS: files, Timeout: t.dial, ReadStall: t.stall, WriteStall: t.stall, Control: func(_, address string, _ syscall.RawConn) error {
		if allowed == nil {
			return nil
		}
		// The dialer has already resolved the name, so the checked address is the one
		// it connects to.
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return allowed(ap.Addr().Unmap().WithZone(""))
	}}
	transport := d.Transport()
	transport.ResponseHeaderTimeout = t.stall
	return &client{tls: useTLS, timing: t, http: &http.Client{Transport: transport, CheckRedirect: peer.NoRedirect}}
}

// do sends a request to the peer at addr. It sends path without cleaning it. header holds
// alternating names and values of header fields.
func (c *client) do(ctx context.Context, method, addr, path string, body []byte, header ...string) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: addr, Path: path}
	if c.tls {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", userAgent)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // drop the URL: callers add the address themselves
			err = ue.Err
		}
		return nil, err
	}
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now := time.Now()
		c.reading.Store(&clockReading{t.Sub(now.Truncate(time.Second)), now}) // Date has a resolution of one second
	}
	return resp, nil
}

// transient marks err as transient: the peer may become available again.
func transient(err error) error { return fmt.Errorf("%w: %w", bulk.ErrSource, err) }

// statusError reports an unexpected status code.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the peer answers %d %s: %q", e.code, http.StatusText(e.code), e.text)
}

// responseError returns an error for an unexpected response. The error contains the
// status and the start of the body.
func responseError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	return &statusError{resp.StatusCode, strings.ToValidUTF8(strings.TrimSpace(string(text)), "?")}
}

// responseTime returns the peer's time from the Date header of resp, or the local time if
// that header is missing or invalid.
func responseTime(resp *http.Response) time.Time {
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		return t
	}
	return time.Now()
}

// list fetches the list of a stream's files from the probe at addr. The function begin
// is called with the probe's time. It returns a function that is called for each listed
// name. finished reports whether Tstat no longer writes to any listed file.
func (c *client) list(ctx context.Context, addr, stream string, begin func(time.Time) func(name string)) (finished bool, err error) {
	resp, err := c.do(ctx, http.MethodGet, addr, listPath+stream, nil)
	if err != nil {
		return false, transient(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, transient(responseError(resp))
	}
	body := &io.LimitedReader{R: resp.Body, N: maxList + 1}
	err = decodeList(body, begin(responseTime(resp)))
	if body.N == 0 {
		err = fmt.Errorf("more than %d MiB", maxList>>20)
	}
	if err != nil {
		return false, transient(fmt.Errorf("list of files: %w", err))
	}
	return resp.Header.Get(finishedHeader) != "", nil
}

// version identifies a version of a file by the headers of a response.
type version struct {
	size     int64
	modified string // Last-Modified as sent
	etag     string // only a strong tag; "" otherwise
}

func versionOf(resp *http.Response) version {
	v := version{resp.ContentLength, resp.Header.Get("Last-Modified"), resp.Header.Get("Etag")}
	if strings.HasPrefix(v.etag, "W/") {
		v.etag = ""
	}
	return v
}

// mtime returns the time of the last modification, or the zero time if the server did
// not send a valid time.
func (v version) mtime() time.Time {
	t, _ := http.ParseTime(v.modified)
	return t
}

// head requests the version of a file and the probe's time. It returns fs.ErrNotExist if
// the file is gone.
func (c *client) head(ctx context.Context, addr, path string) (v version, now time.Time, err error) {
	resp, err := c.do(ctx, http.MethodHead, addr, path, nil)
	if err != nil {
		return v, now, transient(err)
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return v, now, fs.ErrNotExist
	case resp.StatusCode != http.StatusOK:
		return v, now, &statusError{code: resp.StatusCode}
	case resp.ContentLength < 0:
		return v, now, errLength
	}
	return versionOf(resp), responseTime(resp), nil
}

var errLength = errors.New("the peer does not say how long the file is")

// content reads a file over HTTP. If the connection breaks and the file is unchanged,
// content resumes at the same position.
type content struct {
	ctx    context.Context
	c      *client
	addr   func() string // returns the probe's current address
	path   string
	v      version
	pos    int64
	body   io.ReadCloser  // body from pos on; nil if no request is open
	failed int            // failed attempts since the last byte
	back   *retry.Backoff // delay between attempts
	waited time.Duration  // total time spent waiting for the peer
}

// minSpeed is the minimum average speed of a peer in bytes per second, after a grace
// period of timing.stall. A slower transfer would occupy a job that other files need.
const minSpeed = 1 << 10

// errSlow reports a peer slower than minSpeed.
var errSlow = errors.New("the peer is too slow")

// open requests the file at path, and returns its content. addr returns the current
// address of the probe. The error is fs.ErrNotExist if the file is gone.
func (c *client) open(ctx context.Context, addr func() string, path string) (*content, error) {
	f := &content{ctx: ctx, c: c, addr: addr, path: path, back: retry.New(c.timing.pause, maxPause)}
	resp, err := c.do(ctx, http.MethodGet, addr(), path, nil)
	if err != nil {
		return nil, transient(err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		err = fs.ErrNotExist
	case resp.StatusCode != http.StatusOK:
		err = responseError(resp)
	case resp.ContentLength < 0:
		err = errLength
	default:
		f.v, f.body = versionOf(resp), resp.Body
		return f, nil
	}
	resp.Body.Close()
	return nil, err
}

// errChanged reports that the file was replaced or modified during the
// transfer.
var errChanged = errors.New("the file changed while it was read")

// request requests the part of the file that starts at f.pos.
func (f *content) request() error {
	var header []string
	if f.pos > 0 {
		header = []string{"Range", "bytes=" + strconv.FormatInt(f.pos, 10) + "-"}
		if same := cmp.Or(f.v.etag, f.v.modified); same != "" {
			header = append(header, "If-Range", same)
		}
	}
	resp, err := f.c.do(f.ctx, http.MethodGet, f.addr(), f.path, nil, header...)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", f.pos, f.v.size-1, f.v.size)
		if now := versionOf(resp); resp.Header.Get("Content-Range") != want || now.modified != f.v.modified {
			err = errChanged
		}
	case http.StatusOK: // the whole file, because the server does not support ranges or the file has changed
		if versionOf(resp) != f.v {
			err = errChanged
		} else if _, skip := io.CopyN(io.Discard, resp.Body, f.pos); skip != nil {
			err = skip
		}
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		err = errChanged
	default:
		err = responseError(resp)
	}
	if err != nil {
		resp.Body.Close()
		return err
	}
	f.body = resp.Body
	return nil
}

// Read implements io.Reader. Its errors wrap bulk.ErrSource unless the context is done.
func (f *content) Read(p []byte) (int, error) {
	for f.pos < f.v.size {
		var n int
		var err error
		begin := time.Now()
		if f.body == nil {
			err = f.request()
		}
		if err == nil {
			n, err = f.body.Read(p[:min(int64(len(p)), f.v.size-f.pos)])
		}
		f.pos += int64(n)
		if f.waited += time.Since(begin); f.waited > f.c.timing.stall+time.Duration(f.pos/minSpeed)*time.Second {
			f.close()
			return 0, fmt.Errorf("read at byte %d of %d: %w", f.pos, f.v.size, transient(errSlow))
		}
		if err != nil && f.pos < f.v.size {
			f.close()
		}
		if n > 0 {
			f.failed = 0
			f.back.Reset()
			return n, nil
		}
		if err == nil {
			continue
		}
		if ctxErr := f.ctx.Err(); ctxErr != nil {
			return 0, ctxErr
		}
		if errors.Is(err, errChanged) || f.failed >= f.c.timing.resume {
			return 0, fmt.Errorf("read at byte %d of %d: %w", f.pos, f.v.size, transient(err))
		}
		f.failed++
		f.back.Wait(f.ctx)
	}
	return 0, io.EOF
}

// Seek supports only seeking to the start.
func (f *content) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekStart {
		return 0, errors.ErrUnsupported
	}
	if f.pos > 0 {
		f.close()
		f.pos, f.failed, f.waited = 0, 0, 0
		f.back.Reset()
	}
	return 0, nil
}

func (f *content) close() {
	if f.body != nil {
		f.body.Close()
		f.body = nil
	}
}

// Close implements io.Closer.
func (f *content) Close() error {
	f.close()
	return nil
}
