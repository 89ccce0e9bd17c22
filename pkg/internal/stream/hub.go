package stream

import (
	"context"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/encode"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/source"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// hub is the pipeline between sources and sinks.
type hub struct {
	counts   *stats.Stream
	encoding *encode.Encoding
	format   Format
	queues   []*batch.Queue // of all sinks
	needRaw  bool           // a sink needs Batch.Raw
}

// maxRead returns how many bytes a source may read at once. If the stream's format is
// JSON, the limit is lower, because a line becomes several times as long in JSON.
func (h *hub) maxRead() int {
	if h.format == JSON {
		return 64 << 10
	}
	return 256 << 10
}

// newInlet returns an inlet for one source.
func (h *hub) newInlet() source.Inlet { return &inlet{h, h.encoding.NewEncoder()} }

// inlet connects one source to the pipeline.
type inlet struct {
	*hub
	enc *encode.Encoder
}

// Deliver encodes lines and puts them into the queue of every sink. It implements
// source.Inlet.
func (in *inlet) Deliver(ctx context.Context, t batch.Text) error {
	b := &batch.Batch{Origin: t.Origin, Offset: t.Offset, Lines: t.Lines, Acked: t.Acked}
	var prefixed *batch.Buffer
	switch {
	case t.Wire:
		b.Raw = t.Bytes
	case in.needRaw:
		prefixed = batch.NewBuffer(len(t.Bytes) + t.Lines*len(t.Prefix))
		prefixed.Bytes = protocol.AppendPrefixed(prefixed.Bytes[:0], t.Bytes, t.Prefix)
		b.Raw = prefixed.Bytes
	}
	if in.format == Raw {
		b.Out = b.Raw
	} else {
		out := batch.NewBuffer(len(t.Bytes) * in.enc.Growth())
		out.Bytes = in.enc.Encode(out.Bytes[:0], t)
		b.Out, b.Buffers[1] = out.Bytes, out
	}
	if !in.needRaw {
		b.Raw = nil
	}
	switch {
	case prefixed != nil:
		b.Buffers[0] = prefixed
	case b.Raw != nil:
		t.Buffer.Retain()
		b.Buffers[0] = t.Buffer
	}
	in.counts.Lines.Add(int64(t.Lines))
	in.counts.Bytes.Add(int64(len(t.Bytes)))
	now := time.Now()
	in.counts.Recent.Add(now, int64(t.Lines))
	t.Source.Add(now, t.Lines)
	return batch.Deliver(ctx, in.queues, b)
}
