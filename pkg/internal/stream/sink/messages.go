package sink

import (
	"fmt"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

const (
	// messageSize is about how much text goes into a message, in bytes: 100
	// lines of log_tcp_complete.
	messageSize = 64 << 10
	// messageRoom is what a message has besides text and headers, in bytes, at most.
	messageRoom = 512
)

// messages cuts text, which batch b ends with, into messages of about
// messageSize bytes and not more than limit with their headers, and calls
// send for each. A line that is too long for a message is given to drop.
// Batch and text give the same messages each time.
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
