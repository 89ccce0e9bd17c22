package tstat

import (
	"io"
	"strings"
	"testing"
)

// unchanged is a RowRewriter that does not change lines.
type unchanged struct{}

func (unchanged) Line(dst, line []byte) ([]byte, error) { return append(dst, line...), nil }

func (unchanged) Row(dst, row []byte, _ Fields) ([]byte, []Replaced, bool) {
	return append(dst, row...), nil, true
}

// TestMalformedLinesDoNotAccumulate checks that a log without a single row needs no more
// memory than its buffers, however long it is.
func TestMalformedLinesDoNotAccumulate(t *testing.T) {
	const lines = 1 << 20
	text := "#fqdn:1 c_port:2\n" + strings.Repeat("\xff x\n", lines)
	for name, opt := range map[string]ReaderOptions{
		"text": {},
		"rows": {Rewrite: func(text io.Reader) io.Reader { return text }, Rows: unchanged{}},
	} {
		rd := NewReader(strings.NewReader(text), TypeByName("log_tcp_complete"), opt)
		if _, err := rd.Next(); err != io.EOF || rd.Counts().Rejects != lines {
			t.Fatalf("%s: %v, %+v", name, err, rd.Counts())
		}
		b := &rd.batch
		if split, arena, rewritten := 4*cap(b.split), cap(b.arena), cap(rd.rewritten)+cap(rd.hashed); split > 1<<20 || arena > 2<<20 || rewritten > 3<<20 {
			t.Errorf("%s: %d bytes of field ends, %d of escaped and %d of rewritten text", name, split, arena, rewritten)
		}
	}
}
