package sink

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// TestWriteReportsErrorOfEndpoint checks that a write in a connection that the endpoint
// has ended reports the endpoint's reason.
func TestWriteReportsErrorOfEndpoint(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, "ack 0\nerror no room\n")
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	s, err := openAck(l.Addr().String(), nil, nil, "s")(t.Context(), func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	select {
	case <-s.broken():
	case <-time.After(time.Minute):
		t.Fatal("the connection has not ended")
	}
	err = s.write(&batch.Batch{Origin: &batch.Origin{Probe: "turin"}}, []byte("x\n"))
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
}
