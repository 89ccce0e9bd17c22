package remotewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Reasons for leaving out points. Log lines use them as keys.
const (
	tooOld     = "too_old"
	outOfOrder = "out_of_order"
	ahead      = "ahead"
	refused    = "refused"
	ignored    = "ignored"
)

// refusal is the error for a response that refuses a request's points.
type refusal struct {
	reason string
	text   string // status and quoted body of the response
	broken bool   // status 500 without a known reason; the server itself may have failed
}

func (r *refusal) Error() string { return r.text }

// reasons maps substrings of responses from Prometheus, Mimir, Thanos and Cortex to
// reasons. The first match applies.
var reasons = []struct{ text, reason string }{
	{"out of bounds", tooOld},
	{"too old", tooOld},
	{"too-old", tooOld},
	{"out of order", outOfOrder},
	{"out-of-order", outOfOrder},
	{"future", ahead},
	{"duplicate sample", refused},
}

// maxAnswer is the maximum number of bytes read from the body of a response.
const maxAnswer = 4 << 10

// post sends samples in one request, with retries. Its error wraps a refusal or
// graphite.ErrUnavailable, or both if refusal.broken is set.
func (d *delivery) post(samples []sample) error {
	d.posts++
	body := encode(samples, d.labels)
	timeout := d.opt.RetryTimeout
	if d.retried500 {
		timeout = 0
	}
	err := graphite.Retry(d.ctx, timeout, func() error { return d.request(d.ctx, body) })
	var no *refusal
	if errors.As(err, &no) && no.broken {
		d.retried500 = true
	}
	return err
}

// request sends body, an encoded WriteRequest, to the server once, without retries.
func (s *Sink) request(ctx context.Context, body []byte) error {
	unavailable := func(err error) error { return fmt.Errorf("%w: %s: %w", graphite.ErrUnavailable, s.opt.URL, err) }
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.opt.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := s.opt.authorize(r); err != nil {
		return unavailable(err) // the file may be in the middle of a rewrite
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("Content-Encoding", "snappy")
	r.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	r.Header.Set("User-Agent", "tstatrepo")
	resp, err := s.client.Do(r)
	if err != nil {
		return unavailable(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // for reason and message only
	return s.classify(resp.StatusCode, string(answer))
}

// classify returns nil if the server accepted the points of a request, or else an error
// that describes the response. The argument answer is the start of the response body.
func (s *Sink) classify(status int, answer string) error {
	quoted := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if text := strings.TrimSpace(answer); text != "" {
		quoted += " " + strconv.Quote(text[:min(len(text), 200)])
	}
	no := &refusal{refused, quoted, false}
	for _, r := range reasons {
		if strings.Contains(answer, r.text) {
			no.reason = r.reason
			break
		}
	}
	unavailable := fmt.Errorf("%w: %s answers %s", graphite.ErrUnavailable, s.opt.URL, quoted)
	switch status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return no
	case http.StatusInternalServerError:
		if no.reason != refused {
			return no // Prometheus 2.42 answers 500 if points are too old
		}
		no.broken = true
		return fmt.Errorf("%w: %w", unavailable, no)
	case http.StatusUnauthorized, http.StatusForbidden:
		return hint.Add(unavailable, "add USER@ and ?password-file=FILE, or ?bearer-token-file=FILE to the URL")
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return hint.Add(unavailable, "start Prometheus with web.enable-remote-write-receiver, and use the path /api/v1/write")
	}
	switch status / 100 {
	case 2:
		return nil
	case 3:
		return hint.Add(unavailable, "use the URL that it redirects to")
	}
	return unavailable
}
