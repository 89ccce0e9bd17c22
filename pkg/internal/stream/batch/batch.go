// Package batch holds lines on their way from the sources of a stream to its
// sinks, and the acknowledgements on the way back. A source delivers a Text;
// the pipeline makes it a Batch and puts the batch into the Queue of each sink.
//
// The steps have one word each:
//
//   - deliver: a source hands over lines, those of one log in their order.
//   - ack: a sink has the lines safely. The batch is acked when all required
//     sinks have acked it; then its source learns it, and may drop the lines.
//   - discard: an optional sink goes without a batch. Its lines are counted as
//     dropped.
//   - release: a user of memory has finished with it. The last one frees it.
//   - drain: a source waits until everything that it delivered is acked.
//
// A Tracker follows the position up to which a source is acked; a Window bounds
// how far a source delivers beyond its saved position.
package batch

import (
	"sync/atomic"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Format is the form of a line in Batch.Out.
type Format string

// Formats.
const (
	Raw  Format = "raw"  // as on the wire: the path of the log, a space, the line with its line end; headers too
	Line Format = "line" // the line as Tstat wrote it; its line end is LF
	JSON Format = "json" // an object per row
)

// Origin identifies where lines come from. It is immutable.
type Origin struct {
	Probe string
	Path  string // of the log on the probe
	Type  string // the log's name without the suffix of a compression, which names its type
	// Key distinguishes the source of the lines from every other, for
	// message ids: the log with its content, or the connection.
	Key string
	// Prefix stands before each line on the wire: the path and a space.
	Prefix []byte
}

// Text is lines of one log, as delivered by a source.
type Text struct {
	*Origin
	Source *stats.Source
	// Offset is the position of the first line in the source that Key names.
	Offset int64
	Lines  int
	Bytes  []byte  // whole lines
	Wire   bool    // each line has its prefix
	Buffer *Buffer // holds Bytes
	// Acked is called once, when every required sink has acked the lines;
	// may be nil. Lines of one source are acked in order, but the calls may
	// overtake each other.
	Acked func()
}

// Batch is a text on its way through the queues.
type Batch struct {
	*Origin
	Offset int64
	Lines  int
	// Raw is the text in wire format; nil if no sink needs it.
	Raw []byte
	// Out is the text in the format of the stream.
	Out     []byte
	Buffers [2]*Buffer // hold Raw and Out until the last queue has released the batch; may be nil
	Acked   func()     // see Text

	unacked atomic.Int32 // required sinks that have not acked yet
	users   atomic.Int32 // queues that still use Raw and Out
}

// release ends one use of the text. The last release frees the buffers.
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
