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

// Reasons why points are left out, as they appear in logs.
const (
	tooOld     = "too_old"
	outOfOrder = "out_of_order"
	ahead      = "ahead"
	refused    = "refused"
	ignored    = "ignored"
)

// refusal is the answer of a server that refuses the points of a request.
type refusal struct {
	reason string
	text   string // status and quoted text of the answer
	broken bool   // an answer 500 without a known reason: the server may have failed
}

func (r *refusal) Error() string { return r.text }

// reasons are texts in answers of Prometheus, Mimir, Thanos and Cortex.
var reasons = []struct{ text, reason string }{
	{"out of bounds", tooOld},
	{"too old", tooOld},
	{"too-old", tooOld},
	{"out of order", outOfOrder},
	{"out-of-order", outOfOrder},
	{"future", ahead},
	{"duplicate sample", refused},
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 4 << 10

// post sends samples in one request and retries it. Its error wraps a refusal,
// graphite.ErrUnavailable or, if the refusal is a broken one, both.
func (d *delivery) post(samples []sample) error {
	d.posts++
	body := encode(samples, d.labels)
	timeout := d.opt.RetryTimeout
	if d.tired {
		timeout = 0
	}
	err := graphite.Retry(d.ctx, timeout, func() error { return d.request(d.ctx, body) })
	var no *refusal
	if errors.As(err, &no) && no.broken {
		d.tired = true
	}
	return err
}

// request sends a request once.
func (s *Sink) request(ctx context.Context, body []byte) error {
	unavailable := func(err error) error { return fmt.Errorf("%w: %s: %w", graphite.ErrUnavailable, s.opt.URL, err) }
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.opt.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := s.opt.authorize(r); err != nil {
		return unavailable(err) // somebody may be writing the file
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
	return s.judge(resp.StatusCode, string(answer))
}

// judge returns the error for an answer; nil if the server accepted the points.
func (s *Sink) judge(status int, answer string) error {
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
			return no // Prometheus 2.42 answers 500 to points that are too old
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
