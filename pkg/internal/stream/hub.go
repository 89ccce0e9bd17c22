package stream

import (
	"context"
	"time"
)

// hub is the pipeline between sources and sinks.
type hub struct {
	counts   *counts
	encoding *encoding
	format   Format
	queues   []*queue // of all sinks
	needRaw  bool     // some sink needs raw, whatever the format
}

// maxRead is how much a source reads at once, in bytes: the text of its lines
// in JSON is several times as long.
func (h *hub) maxRead() int {
	if h.format == JSON {
		return 64 << 10
	}
	return 256 << 10
}

// newInlet returns an inlet for one source.
func (h *hub) newInlet() Inlet { return &inlet{h, h.encoding.newEncoder()} }

// inlet is the way of one source into the pipeline.
type inlet struct {
	*hub
	enc *encoder
}

// Deliver encodes lines and puts them into the queue of every sink. It waits for room.
func (in *inlet) Deliver(ctx context.Context, t text) error {
	b := &batch{origin: t.origin, offset: t.offset, lines: t.lines, acked: t.acked}
	var prefixed *buffer
	switch {
	case t.wire:
		b.raw = t.bytes
	case in.needRaw:
		prefixed = newBuffer(len(t.bytes) + t.lines*len(t.prefix))
		prefixed.bytes = appendPrefixed(prefixed.bytes[:0], t.bytes, t.prefix)
		b.raw = prefixed.bytes
	}
	if in.format == Raw {
		b.out = b.raw
	} else {
		out := newBuffer(len(t.bytes) * in.enc.growth())
		out.bytes = in.enc.encode(out.bytes[:0], t)
		b.out, b.buffers[1] = out.bytes, out
	}
	if !in.needRaw {
		b.raw = nil
	}
	switch {
	case prefixed != nil:
		b.buffers[0] = prefixed
	case b.raw != nil:
		t.buffer.retain()
		b.buffers[0] = t.buffer
	}
	in.counts.lines.Add(int64(t.lines))
	in.counts.bytes.Add(int64(len(t.bytes)))
	now := time.Now()
	in.counts.recent.Add(now, int64(t.lines))
	t.source.add(now, t.lines)
	return deliver(ctx, in.queues, b)
}
