package stream

import (
	"bytes"
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

// hub hands batches to all consumers.
type hub struct {
	opt     *Options
	log     *slog.Logger
	stats   stats
	sources sources
	queues  []*queue
	layouts *layouts
	needRaw bool // some consumer wants raw, whatever the format
	types   *typeNames
	// announced are the names of probes in the acknowledged mode and from
	// brokers.
	announced nameSet
	wrong     rate.Sometimes // tells of lines that are no rows
}

// maxRead is how much a source reads at once, in bytes: the text of its lines
// in JSON is several times as long.
func (h *hub) maxRead() int {
	if h.opt.Format == JSON {
		return 64 << 10
	}
	return 256 << 10
}

// text is lines of one log, as a source has them.
type text struct {
	*origin
	src    *source
	offset int64
	lines  int
	bytes  []byte // whole lines
	wire   bool   // each line has its prefix
	buf    *buffer
	taken  func()
}

// send puts lines into the queue of every consumer, and waits for room. enc
// belongs to the source.
func (h *hub) send(ctx context.Context, enc *encoder, t text) error {
	b := &batch{origin: t.origin, offset: t.offset, lines: t.lines, taken: t.taken}
	var formed *buffer
	switch {
	case t.wire:
		b.raw = t.bytes
	case h.needRaw:
		formed = newBuffer(len(t.bytes) + t.lines*len(t.prefix))
		formed.b = appendPrefixed(formed.b[:0], t.bytes, t.prefix)
		b.raw = formed.b
	}
	if h.opt.Format == Raw {
		b.out = b.raw
	} else {
		out := newBuffer(len(t.bytes) * enc.growth())
		out.b = enc.encode(out.b[:0], t)
		b.out, b.buffers[1] = out.b, out
	}
	if !h.needRaw {
		b.raw = nil
	}
	switch {
	case formed != nil:
		b.buffers[0] = formed
	case b.raw != nil:
		t.buf.retain()
		b.buffers[0] = t.buf
	}
	h.stats.lines.Add(int64(t.lines))
	h.stats.bytes.Add(int64(len(t.bytes)))
	now := time.Now()
	h.stats.recent.Add(now, int64(t.lines))
	t.src.add(now, t.lines)

	b.readers.Store(int32(len(h.queues)))
	for _, q := range h.queues {
		if !q.optional {
			b.required.Add(1)
		}
	}
	if b.required.Load() == 0 && b.taken != nil {
		defer b.taken() // all consumers are optional
	}
	for i, q := range h.queues {
		if err := q.put(ctx, b); err != nil {
			for _, q := range h.queues[i:] {
				q.unused(b)
			}
			return err
		}
	}
	return nil
}

// appendPrefixed appends lines to dst, each after the prefix.
func appendPrefixed(dst, lines, prefix []byte) []byte {
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n') + 1
		dst = append(append(dst, prefix...), lines[:n]...)
		lines = lines[n:]
	}
	return dst
}
