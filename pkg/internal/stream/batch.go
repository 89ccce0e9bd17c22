package stream

import "sync/atomic"

// Format is the form of a line in Batch.Out.
type Format string

// Formats.
const (
	Raw  Format = "raw"  // as on the wire: the path of the log, a space, the line with its line end; headers too
	Line Format = "line" // the line as Tstat wrote it; its line end is LF
	JSON Format = "json" // an object per row
)

// origin says where lines come from. It does not change.
type origin struct {
	probe string
	path  string // of the log on the probe
	typ   string // the log's name without the suffix of a compression, which names its type
	// key tells the source of the lines from every other, for message ids:
	// the log with its content, or the connection.
	key string
	// prefix stands before each line on the wire: the path and a space.
	prefix []byte
}

// text is lines of one log, as a source delivers them.
type text struct {
	*origin
	source *source
	// offset is the position of the first line in the source that key names.
	offset int64
	lines  int
	bytes  []byte // whole lines
	wire   bool   // each line has its prefix
	buffer *buffer
	// acked is called once, when every required sink has acked the lines; nil
	// if the source does not need to know. Lines of one source are acked in
	// their order, but the calls may overtake each other.
	acked func()
}

// batch is a text on its way through the queues.
type batch struct {
	*origin
	offset int64
	lines  int
	// raw is the text as the wire has it; nil if no sink needs it.
	raw []byte
	// out is the text in the format of the stream.
	out     []byte
	buffers [2]*buffer // hold raw and out; nil: none
	acked   func()     // see text

	unacked atomic.Int32 // required sinks that have not acked yet
	users   atomic.Int32 // queues that still use raw and out
}

// release ends one use of the text. The last one frees the buffers.
func (b *batch) release() {
	if b.users.Add(-1) > 0 {
		return
	}
	for _, buf := range b.buffers {
		if buf != nil {
			buf.release()
		}
	}
}
