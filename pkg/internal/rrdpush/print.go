package rrdpush

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/remotewrite"
)

// printer is a graphite.Sink that prints points as text lines.
type printer struct {
	w      io.Writer
	labels bool // write series instead of paths, see remotewrite.ParsePath
	buf    []byte
}

func (p *printer) Send(_ context.Context, metrics []graphite.Metric) error {
	p.buf = p.buf[:0]
	if !p.labels {
		p.buf = graphite.AppendText(p.buf, metrics)
		metrics = nil
	}
	for _, m := range metrics {
		series, err := remotewrite.ParsePath(m.Path)
		if err != nil {
			return err
		}
		m.Path = ""
		for line := range bytes.Lines(graphite.AppendText(nil, []graphite.Metric{m})) {
			p.buf = append(append(p.buf, series.String()...), line...)
		}
	}
	if _, err := p.w.Write(p.buf); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	return nil
}

func (p *printer) Close() error { return nil }
