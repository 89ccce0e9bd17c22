// Package batch queues lines between the sources and the sinks of a stream, and
// tracks their acknowledgements. A source delivers a Text. The pipeline converts
// it to a Batch and puts the batch into the Queue of each sink.
//
// The code uses these terms:
//
//   - deliver: a source passes lines to the pipeline. Lines of one log are
//     delivered in order.
//   - ack: a sink has stored the lines. A batch is acked when all required sinks
//     have acked it. Its source is then notified and may drop the lines.
//   - discard: an optional sink skips a batch. The lines are counted as dropped.
//   - release: a user of a buffer no longer needs it. The last release frees it.
//   - drain: a source waits until all delivered lines are acked.
//
// A Tracker tracks the position up to which a source is acked. A Window limits
// how far a source may deliver beyond its saved position.
package batch

import (
	"sync/atomic"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Format is the format of the lines in Batch.Out.
type Format string

// The values of Format.
const (
	Raw  Format = "raw"  // wire format: path, space and line; includes headers
	Line Format = "line" // the line as Tstat wrote it, ending with LF
	JSON Format = "json" // one object per row
)

// Origin identifies the log that lines come from. It is immutable.
type Origin struct {
	Probe string
	Path  string // of the log on the probe
	Type  string // the log's name without a compression suffix
	// Key identifies the log and its content, or the connection. Message ids are
	// built from it.
	Key string
	// Prefix is what precedes each line in wire format: the path and a space.
	Prefix []byte
}

// Text holds lines of one log, as delivered by a source.
type Text struct {
	*Origin
	Source *stats.Source
	// Offset is the position of the first line in the log or connection that
	// Key identifies.
	Offset int64
	Lines  int
	Bytes  []byte // whole lines
	Wire   bool   // each line has its prefix
	// Removed means that lines of tstat.AppendRemoved are already counted as rejects.
	Removed bool
	Buffer  *Buffer // holds Bytes
	// Acked is called once, when every required sink has acked the lines. It may be
	// nil. Calls for one source may be concurrent and out of order.
	Acked func()
}

// Batch is a Text that was encoded in the format of the stream and is queued for the
// sinks.
type Batch struct {
	*Origin
	Offset int64
	Lines  int
	// Raw is the text in wire format; nil if no sink needs it.
	Raw []byte
	// Out is the text in the stream's format.
	Out     []byte
	Buffers [2]*Buffer // hold Raw and Out until the last queue has released the batch; may be nil
	Acked   func()     // see Text

	unacked atomic.Int32 // required sinks that have not acked yet
	users   atomic.Int32 // queues that still use Raw and Out
}

// release ends one queue's use of the batch. The last release frees the batch's buffers.
func (b *Batch) release() {
	if b.users.Add(-1) > 0 {
		return
	}
	for _, buf := range b.Buffers {
		if buf != nil {
			buf.Release()
		}
	}
}
