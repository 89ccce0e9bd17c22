package rrdpush

import (
	"context"
	"fmt"
	"io"

	"github.com/tstatrepo/tstatrepo/pkg/graphite"
)

// printer writes plaintext lines.
type printer struct {
	w   io.Writer
	buf []byte
}

func (p *printer) Send(_ context.Context, metrics []graphite.Metric) error {
	p.buf = graphite.AppendText(p.buf[:0], metrics)
	if _, err := p.w.Write(p.buf); err != nil {
		return fmt.Errorf("standard output: %w", err)
	}
	return nil
}

func (p *printer) Close() error { return nil }
