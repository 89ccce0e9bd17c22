package rrdpush

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// exportPath is the URL path at which a repository receives RRD points, as in
// mPlane's indirect export.
const exportPath = "/register/result/indirect_export"

// exportPoints is the maximum number of points in a POST: about 300 kB.
const exportPoints = 5000

// exporter is a graphite.Sink for the probe side of mPlane's indirect export. It sends
// the names of RRD files instead of metric names.
type exporter struct {
	url    string
	retry  time.Duration
	client *http.Client
	buf    []byte
}

func newExporter(url string, files peer.TLS, peers peer.Networks, retry time.Duration) (*exporter, error) {
	if _, err := files.Client(); err != nil {
		return nil, err
	}
	d := &peer.Dialer{TLS: files, Control: peers.Control}
	return &exporter{url: url + exportPath, retry: retry, client: &http.Client{
		Timeout: 2 * time.Minute, Transport: d.Transport(), CheckRedirect: peer.NoRedirect,
	}}, nil
}

func (e *exporter) Close() error {
	e.client.CloseIdleConnections()
	return nil
}

// Send posts the points as [[file, time, value], …] in one or more requests. It
// retries each request until the repository responds with 200. It leaves out NaN
// and infinity, which JSON cannot represent but spools of older versions may
// contain.
func (e *exporter) Send(ctx context.Context, metrics []graphite.Metric) error {
	e.buf = append(e.buf[:0], '[')
	n := 0
	flush := func() error {
		if n == 0 {
			return nil
		}
		n = 0
		e.buf = append(e.buf, ']')
		defer func() { e.buf = append(e.buf[:0], '[') }()
		return graphite.Retry(ctx, e.retry, func() error { return e.post(ctx) })
	}
	for _, m := range metrics {
		name, err := json.Marshal(m.Path)
		if err != nil {
			return err
		}
		for _, p := range m.Points {
			if math.IsInf(p.Value, 0) || math.IsNaN(p.Value) {
				continue
			}
			if n > 0 {
				e.buf = append(e.buf, ", "...)
			}
			e.buf = append(append(e.buf, '['), name...)
			e.buf = appendFloat(append(e.buf, ", "...), float64(p.Time))
			e.buf = appendFloat(append(e.buf, ", "...), p.Value)
			e.buf = append(e.buf, ']')
			if n++; n == exportPoints {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// appendFloat appends a number as mPlane's old exporter writes it, so that Python reads
// it as a float.
func appendFloat(b []byte, v float64) []byte {
	at := len(b)
	format := byte('g')
	if abs := max(v, -v); abs < 1e16 && (abs >= 1e-4 || v == 0) {
		format = 'f'
	}
	b = strconv.AppendFloat(b, v, format, -1, 64)
	if !bytes.ContainsAny(b[at:], ".e") {
		b = append(b, ".0"...)
	}
	return b
}

func (e *exporter) post(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(e.buf))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", graphite.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // for the message only
	if resp.StatusCode != http.StatusOK {
		answer := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
		if text := strings.TrimSpace(string(text)); text != "" {
			answer += " " + strconv.Quote(text)
		}
		return fmt.Errorf("%w: %s answers %s", graphite.ErrUnavailable, e.url, answer)
	}
	return nil
}
