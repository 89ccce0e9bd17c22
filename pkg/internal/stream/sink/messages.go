package sink

import (
	"fmt"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

const (
	// messageSize is the approximate size of a message's text in bytes: about 100
	// lines of log_tcp_complete.
	messageSize = 64 << 10
	// messageRoom is the maximum overhead of a message in bytes, excluding
	// its text and header values.
	messageRoom = 512
)

// messages splits text, the tail of b.Out, into messages of about messageSize bytes, and
// passes each message to send. limit is the maximum size of a message in bytes, including
// headers. For a line that is too long, messages calls drop with the line's length. The
// same batch, text and limit always result in the same messages and ids.
func messages(b *batch.Batch, text []byte, limit int, send func(id string, text []byte) error, drop func(n int) error) error {
	for len(text) > 0 {
		at := len(b.Out) - len(text)
		room := limit - messageRoom - len(b.Probe) - len(b.Type) - len(b.Path) - len(b.Key)
		n := len(text)
		if most := max(0, min(messageSize, room)); n > most {
			n = protocol.WholeLines(text, most)
		}
		msg := text[:n]
		text = text[n:]
		var err error
		if n > room {
			err = drop(n)
		} else {
			err = send(fmt.Sprintf("%s:%d.%d:%d", b.Key, b.Offset, at, n), msg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
